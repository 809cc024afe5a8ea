"""Data: where samples come from, in which order, and how they reach a step.

A data technique is a frozen dataclass that prepares its files once and opens them as :class:`Splits`. Data
sets are map-style; which sample comes when is decided by :class:`modelwright.data.order.Order`, never by
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from modelwright.base.choice import Family

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Batch = dict[str, Tensor]
    Positions = Sequence[int] | np.ndarray[Any, Any]
    Tokens = np.ndarray[Any, Any]

DATA = Family(
    "data",
    {
        "python-stdlib": "modelwright.data.texts.python_stdlib:PythonStdlib",
        "text-files": "modelwright.data.texts.text_files:TextFiles",
        "text-records": "modelwright.data.texts.text_records:TextRecords",
        "npy": "modelwright.data.npy:NpyArrays",
        "sklearn": "modelwright.data.sklearn_sets:SklearnSet",
        "csv": "modelwright.data.tables.csv_files:Csv",
        "jsonl": "modelwright.data.tables.jsonl:Jsonl",
        "parquet": "modelwright.data.tables.parquet:Parquet",
        "hugging-face": "modelwright.data.tables.hugging_face:HuggingFace",
        "tfrecord": "modelwright.data.tables.tfrecord:TfRecord",
        "webdataset": "modelwright.data.media.webdataset:WebDataset",
        "image-folder": "modelwright.data.media.image_folder:ImageFolder",
        "wav": "modelwright.data.media.wav:Wav",
        "text-classes": "modelwright.data.sequences.text_classes:TextClasses",
        "python-stdlib-classes": "modelwright.data.sequences.stdlib_classes:PythonStdlibClasses",
        "sequence-pairs": "modelwright.data.sequences.pairs:SequencePairs",
        "python-names": "modelwright.data.sequences.python_names:PythonNames",
        "instructions": "modelwright.data.sequences.instructions:Instructions",
        "synthetic-instructions": "modelwright.data.sequences.synthetic:SyntheticInstructions",
        "preferences": "modelwright.data.sequences.preferences:Preferences",
        "synthetic-preferences": "modelwright.data.sequences.synthetic:SyntheticPreferences",
        "token-shards": "modelwright.data.shards.token_shards:TokenShards",
        "mixture": "modelwright.data.mixture.mixture:Mixture",
    },
)

SAMPLING = Family(
    "sampling",
    {
        "global": "modelwright.data.sampling.global_sampling:Global",
        "local": "modelwright.data.sampling.local_sampling:Local",
        "poisson": "modelwright.data.sampling.poisson_sampling:Poisson",
    },
)

TOKENIZERS = Family(
    "tokenizer",
    {
        "byte": "modelwright.data.tokenizers.byte:Byte",
        "bpe": "modelwright.data.tokenizers.bpe:Bpe",
        "local": "modelwright.data.tokenizers.local:Local",
    },
)


class Dataset(Protocol):
    """A map-style data set.

    Besides its length it has ``__getitems__(positions) -> Batch`` (a whole batch in one read; ours all do) or
    ``__getitem__(index)`` -> a dict of tensors, arrays or numbers, a tuple ``(inputs, targets)``, or a
    tensor. Read either kind with :func:`modelwright.data.batches.read`. With ``__getitems__``, an attribute ``alike``
    that is true says that a sample has one shape, whichever it is read with: nothing is padded to the longest.

    Optional too: an attribute ``decodes`` that is true says that reading a sample takes computing;
    ``present(indices) -> bool array`` names the samples that are there, the others being holes; ``order(seed) ->
    Ordering`` brings an order of its own.
    """

    def __len__(self) -> int:
        """How many samples there are."""
        ...


class Ordering(Protocol):
    """Which sample is at each position; pure, so that any reader finds any position at once."""

    def __call__(self, positions: Positions) -> np.ndarray[Any, Any]:
        """Indices of the samples at ``positions``, int64, of the same shape; -1 where a position holds none."""
        ...


class Sampling(Protocol):
    """The configuration of a way to draw samples."""

    def order(self, dataset: Dataset, *, batch: int, seed: int) -> Ordering:
        """Which sample of ``dataset`` is at each position, for steps of ``batch`` samples."""
        ...

    def positions(self, dataset: Dataset, *, batch: int) -> int:
        """Positions of one step: ``batch``, or more where a step's number of samples varies."""
        ...


class Documents(Protocol):
    """Named texts, read one by one when iterated."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """Pairs of a name and the bytes behind it."""
        ...


class Tokenizer(Protocol):
    """Bytes to tokens and back, without loss: ``decode(encode(text)) == text`` for any bytes."""

    vocabulary: int
    """How many tokens there are, special ones included."""

    end_of_text: int
    """The token between documents. It stands for no bytes and no text encodes to it."""

    def encode(self, text: bytes) -> Tokens:
        """The tokens of ``text``, int64 ``[tokens]``; none of them special."""
        ...

    def decode(self, tokens: Iterable[int]) -> bytes:
        """The bytes of ``tokens``; special ones give none."""
        ...

    def token_bytes(self) -> Tokens:
        """How many bytes each token stands for, int64 ``[vocabulary]``; 0 for special ones."""
        ...

    def save(self, folder: Path) -> None:
        """Write what :meth:`TokenizerTechnique.load` reads."""
        ...


class TokenizerTechnique(Protocol):
    """The configuration of a tokenizer."""

    def train(self, texts: Iterable[bytes]) -> Tokenizer:
        """A tokenizer for texts like these; equal texts in equal order give an equal one."""
        ...

    def load(self, folder: Path) -> Tokenizer:
        """The tokenizer that was saved in ``folder``."""
        ...


class Encoder(Protocol):
    """Turns new rows into inputs of the model, and its outputs back into words and units of the data."""

    def encode(self, rows: Iterable[Mapping[str, Any]]) -> Batch:
        """A batch with ``inputs``, samples first, made as the training data was; ``rows`` need no target.

        Raises:
            ModelwrightError: a row lacks a value that the model needs.
        """
        ...

    def decode(self, outputs: Tensor) -> list[Any]:
        """What each of ``outputs [samples, classes]`` says, JSON-ready: the name of a class, or a number."""
        ...


class DataTechnique(Protocol):
    """The configuration of a source of data."""

    def prepare(self, cache: Path) -> Path:
        """Write, once, what :meth:`open` needs to a folder under ``cache``; returns that folder.

        May be called again, by several processes at once, and after one was killed half-way.
        """
        ...

    def open(self, folder: Path) -> Splits:
        """Open what :meth:`prepare` wrote; cheap, nothing is read that is not asked for."""
        ...


@dataclass(frozen=True)
class Splits:
    """Data ready to be used.

    Attributes:
        train: samples to learn from.
        held_out: samples to judge by, if there are any. Windows of text cross the borders of documents, unless these
            are kept separate.
        facts: numbers a model needs, such as ``vocabulary``, ``features``, ``classes``.
        tokenizer: what made the tokens, for text.
        documents: the held-out texts as they were, as a yardstick for compressors.
        encoder: turns new rows into inputs, where samples are rows of a table.
        classes: names of the classes by number, where the data names them.
    """

    train: Dataset
    held_out: Dataset | None = None
    facts: Mapping[str, int] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None
    documents: Documents | None = None
    encoder: Encoder | None = None
    classes: tuple[str, ...] = ()
