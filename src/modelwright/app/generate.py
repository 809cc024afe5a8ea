"""The verb ``generate``: text from a trained language model, as it comes, or for a file of prompts."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from modelwright.app.rows.files import Row, alike, row_file
from modelwright.app.rows.progress import counting
from modelwright.app.rows.prompts import read_prompts
from modelwright.app.trained import open_trained
from modelwright.base.detect import detect
from modelwright.base.errors import ModelwrightError
from modelwright.data import Tokenizer
from modelwright.data.batches import read
from modelwright.models.writing.drawing import Sampling
from modelwright.models.writing.sampling import Continuation, continue_texts
from modelwright.models.writing.spelling import Spelling
from modelwright.models.writing.stop_words import StopWords
from modelwright.objectives.binary import Binary
from modelwright.objectives.classification import Classification
from modelwright.objectives.regression import Regression
from modelwright.objectives.sequence_to_sequence import SequenceToSequence
from modelwright.recipe import load_recipe
from modelwright.runs import Run
from modelwright.training.training import Training

BATCH = 16
Asked = Callable[[str], Sequence[int]]
_KINDS = (".jsonl", ".parquet", ".csv", ".txt")


def generate(
    run: str | Path | Run,
    prompt: str,
    *,
    folder: Path | str = "runs",
    length: int = 200,
    temperature: float = 0.8,
    top_k: int | None = 50,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    stop: Sequence[str] = (),
    seed: int = 0,
    trust: bool = False,
) -> Iterator[str]:
    """Continue ``prompt`` with a run's language model; yield the text piece by piece.

    Args:
        run: a run, its name in ``folder``, or its path.
        prompt: what to continue; may be empty.
        folder: where runs lie.
        length, temperature, top_k, top_p, min_p, repetition_penalty, seed: see
            :class:`~modelwright.models.writing.drawing.Sampling`.
        stop: texts at which to stop; they are not yielded.
        trust: run the foreign code that a run from elsewhere names.

    Raises:
        ModelwrightError: no such run, no weights yet, not a language model.
    """
    sampling = Sampling(
        length=length,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    writer = _writer(run, Path(folder), sampling, stop, trust)
    return writer.stream(prompt)


def generate_file(
    name: str,
    prompts: Path,
    out: Path | None,
    *,
    folder: Path,
    sampling: dict[str, Any],
    console: Console,
    stop: Sequence[str] = (),
    batch: int = BATCH,
    append: bool = False,
    trust: bool = False,
) -> dict[str, Any]:
    """Continue each prompt of a file; rows are written in the order of the prompts, batch by batch.

    Args:
        name: of the run.
        prompts: see :func:`~modelwright.app.rows.prompts.read_prompts`.
        out: where rows go; ``None``: to standard output, as JSON lines.
        folder: where runs lie.
        sampling: fields of :class:`~modelwright.models.writing.drawing.Sampling`.
        console: where to show progress.
        stop: texts at which to stop.
        batch: prompts at once.
        append: go on behind the rows that ``out`` holds.
        trust: run the foreign code that a run from elsewhere names.

    Returns:
        ``rows`` that were written now, and ``out``.

    Raises:
        ModelwrightError: as :func:`generate`; or a file cannot be read or written.
    """
    rows = read_prompts(prompts)
    if out is not None and out.suffix.lower() in (".csv", ".parquet"):
        rows = alike(rows)
    writer = _writer(name, folder, Sampling(**sampling), stop, trust)
    with row_file(out, _KINDS, append=append) as file:
        done = file.done
        with counting(console, "generate", len(rows), done) as count:
            for begin in range(done, len(rows), batch):
                part = rows[begin : begin + batch]
                texts = writer.texts([row["prompt"] for row in part], begin)
                file.write([row | text for row, text in zip(part, texts, strict=True)])
                count(len(part))
    return {"rows": max(0, len(rows) - done), "out": None if out is None else str(out)}


def continued(
    training: Training, prompt: str, *, length: int, temperature: float, top_k: int | None, seed: int
) -> Iterator[str]:
    """Text that follows ``prompt``, piece by piece, from a model of text; ends at an end of text."""
    sampling = Sampling(length=length, temperature=temperature, top_k=top_k, seed=seed)
    return TextWriter(training, sampling).stream(prompt)


class TextWriter:
    """Continues texts with a language model.

    Args:
        training: a model of text, with its tokenizer.
        sampling: how texts are continued.
        stop: texts at which to stop.
        asked: the tokens of a prompt; ``None``: an end of text, then the prompt as it stands.

    Raises:
        ModelwrightError: a stop text is empty.
    """

    def __init__(
        self, training: Training, sampling: Sampling, stop: Sequence[str] = (), asked: Asked | None = None
    ) -> None:
        assert training.data.tokenizer is not None
        self._tokenizer: Tokenizer = training.data.tokenizer
        self._model, self._sampling = training.model, sampling
        self._context = int(read(training.data.train, [0])["inputs"].shape[1])
        self._asked = asked or self._as_it_stands
        self._stop = [_bytes(word) for word in stop]
        StopWords(self._stop)

    def stream(self, prompt: str) -> Iterator[str]:
        """What follows ``prompt``, piece by piece."""
        text = self._begin(prompt, 0)
        for _ in self._rounds([text]):
            yield text.newest
        yield text.finish()

    def texts(self, prompts: Sequence[str], first: int = 0) -> list[Row]:
        """What follows each of ``prompts``, the number of its tokens, and why it ends.

        ``first`` is the number of the first prompt among all of them: draws depend on it.
        """
        texts = [self._begin(prompt, first + place) for place, prompt in enumerate(prompts)]
        said = [[""] for _ in texts]
        for place in self._rounds(texts):
            said[place].append(texts[place].newest)
        return [
            {
                "text": "".join([*pieces, text.finish()]),
                "tokens": len(text.continuation.tokens),
                "finish": text.continuation.finish,
            }
            for pieces, text in zip(said, texts, strict=True)
        ]

    def _begin(self, prompt: str, number: int) -> _Text:
        # A chat begins with a question; without one there is nothing to render.
        tokens = list(map(int, self._asked(prompt) if prompt else self._as_it_stands(prompt)))
        return _Text(Continuation(tokens, number), Spelling(self._tokenizer, tokens[1:]), self._stop)

    def _as_it_stands(self, prompt: str) -> Sequence[int]:
        return [self._tokenizer.end_of_text, *map(int, self._tokenizer.encode(_bytes(prompt)))]

    def _rounds(self, texts: Sequence[_Text]) -> Iterator[int]:
        """The place of each text that goes on, when it does."""
        places = {id(text.continuation): place for place, text in enumerate(texts)}
        continuations = [text.continuation for text in texts]
        end = self._tokenizer.end_of_text
        for continuation in continue_texts(self._model, continuations, self._sampling, context=self._context, end=end):
            place = places[id(continuation)]
            texts[place].take()
            yield place


@dataclass
class _Text:
    """A text in the making: tokens, then bytes without stop words, then characters."""

    continuation: Continuation
    spelling: Spelling
    stop: Sequence[bytes]

    def __post_init__(self) -> None:
        self.newest = ""
        self._words = StopWords(self.stop)
        # A token may end inside a character: the decoder keeps its bytes until the rest arrives.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def take(self) -> None:
        self.newest = self._decoder.decode(self._pushed(self.spelling.push(self.continuation.tokens[-1])))

    def finish(self) -> str:
        last = self._pushed(self.spelling.rest())
        return self._decoder.decode(last + self._words.rest(), final=True)

    def _pushed(self, piece: bytes) -> bytes:
        told = self._words.push(piece)
        if self._words.found:
            self.continuation.finish = "stop"
        return told


def _writer(name: str | Path | Run, folder: Path, sampling: Sampling, stop: Sequence[str], trust: bool) -> TextWriter:
    run = name if isinstance(name, Run) else Run.open(str(name), folder)
    training, _ = open_trained(run, trust=trust, with_data=False)
    _check_text(training, run)
    training.model.to(torch.device(detect().device))
    # Data of chats says how a question must be rendered.
    asked = getattr(load_recipe(run.recipe_path).data, "asked", None)
    ask = None if asked is None else partial(asked, tokenizer=training.data.tokenizer)
    return TextWriter(training, sampling, stop, ask)


def _check_text(training: Training, run: Run) -> None:
    if training.data.tokenizer is None:
        raise ModelwrightError(
            "this run's data is not text, so there is nothing to generate",
            where=str(run.path),
            remedy="use a run of a language model",
        )
    if isinstance(training.objective, (Binary, Classification, Regression, SequenceToSequence)):
        raise ModelwrightError(
            f"this run's objective is {type(training.objective).__name__}, so its model does not continue texts",
            where=str(run.path),
            remedy="use a run of a language model; modelwright predict says what this one makes of its data",
        )


def _bytes(text: str) -> bytes:
    # What was typed may be no text in UTF-8; a model of bytes takes that too.
    return text.encode("utf-8", "surrogateescape")
