"""The verb ``generate``: text from a trained language model, as it comes."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from modelwright.app.trained import open_trained
from modelwright.base.errors import ModelwrightError
from modelwright.data import Tokenizer
from modelwright.data.batches import read
from modelwright.models.sampling import sample
from modelwright.runs import Run
from modelwright.training.training import Training


def generate(
    name: str,
    prompt: str,
    *,
    folder: Path,
    length: int = 200,
    temperature: float = 0.8,
    top_k: int | None = 50,
    seed: int = 0,
    trust: bool = False,
) -> Iterator[str]:
    """Continue ``prompt`` by up to ``length`` tokens.

    Raises:
        ModelwrightError: no such run, no weights yet, not a language model.
    """
    run = Run.open(name, folder)
    training, _ = open_trained(run, trust=trust, with_data=False)
    _check_text(training, run)
    return continued(training, prompt, length=length, temperature=temperature, top_k=top_k, seed=seed)


def continued(
    training: Training, prompt: str, *, length: int, temperature: float, top_k: int | None, seed: int
) -> Iterator[str]:
    """Text that follows ``prompt``, piece by piece, from a model of text; ends at an end of text."""
    tokenizer = training.data.tokenizer
    assert tokenizer is not None
    # What was typed may be no text in UTF-8; a model of bytes takes that too.
    typed = prompt.encode("utf-8", "surrogateescape")
    tokens = sample(
        training.model,
        [tokenizer.end_of_text, *map(int, tokenizer.encode(typed))],
        length=length,
        context=_context(training),
        temperature=temperature,
        top_k=top_k,
        seed=seed,
        stop=tokenizer.end_of_text,
    )
    return _decoded(tokens, tokenizer)


def _check_text(training: Training, run: Run) -> None:
    if training.data.tokenizer is None:
        raise ModelwrightError(
            "this run's data is not text, so there is nothing to generate",
            where=str(run.path),
            remedy="use a run of a language model",
        )


def _decoded(tokens: Iterator[int], tokenizer: Tokenizer) -> Iterator[str]:
    # A token may end inside a character: the decoder keeps its bytes until the rest arrives.
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in tokens:
        yield decoder.decode(tokenizer.decode([token]))
    yield decoder.decode(b"", final=True)


def _context(training: Training) -> int:
    return int(read(training.data.train, [0])["inputs"].shape[1])
