"""Text piece by piece is the text that the tokens have together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from modelwright.data.tokenizers.byte import Byte
from modelwright.data.tokenizers.local import LocalTokenizer
from modelwright.models.writing.spelling import Spelling

tokenizers = pytest.importorskip("tokenizers")

TEXT = "the cat sat on the mat, and the dog sat too; 🦉 \ufffd né! ".strip() * 4


def _local(folder: Path, kind: str) -> LocalTokenizer:
    """A tokenizer as of Llama 2 (spaces in front of words, bytes for what is rare) or of BERT (``##`` for the rest)."""
    if kind == "metaspace":
        engine = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>"))
        engine.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
        parts = [tokenizers.decoders.ByteFallback(), tokenizers.decoders.Metaspace()]
        engine.decoder = tokenizers.decoders.Sequence(parts)
        trainer = tokenizers.trainers.BpeTrainer(vocab_size=60, special_tokens=["<unk>", "</s>"])
        engine.train_from_iterator([TEXT.replace("🦉", "").replace("é", "")], trainer)
    else:
        engine = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="<unk>"))
        engine.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        engine.decoder = tokenizers.decoders.WordPiece(cleanup=False)
        trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=40, special_tokens=["<unk>", "</s>"])
        engine.train_from_iterator([TEXT], trainer)
    written = json.loads(engine.to_str())
    if kind == "metaspace":
        vocabulary = written["model"]["vocab"]
        vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
    (folder / "tokenizer.json").write_text(json.dumps(written), encoding="utf-8")
    return LocalTokenizer(folder, "</s>")


@pytest.mark.parametrize("kind", ["metaspace", "wordpiece", "byte"])
@pytest.mark.parametrize("border", [0, 1, 5, 40])
def test_pieces_together_are_the_text(kind: str, border: int, tmp_path: Path) -> None:
    tokenizer = Byte().train([]) if kind == "byte" else _local(tmp_path, kind)
    tokens = [int(token) for token in np.asarray(tokenizer.encode(TEXT.encode()))]
    spelling = Spelling(tokenizer, tokens[:border])
    pieces = [spelling.push(token) for token in tokens[border:]]
    before, whole = tokenizer.decode(tokens[:border]), tokenizer.decode(tokens)
    assert b"".join([*pieces, spelling.rest()]) == whole[len(before) :]
    assert spelling.rest() == b""
    assert kind == "wordpiece" or "🦉".encode() in whole
    alone = b"".join(tokenizer.decode([token]) for token in tokens[border:])
    assert (alone == whole[len(before) :]) == (kind == "byte")
