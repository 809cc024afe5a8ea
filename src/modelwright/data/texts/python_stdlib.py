"""The source code of this interpreter's standard library: real text that every machine has."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modelwright.base.errors import ModelwrightError
from modelwright.data.texts.documents import Files
from modelwright.data.texts.text import Text

_LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})


@dataclass(frozen=True, kw_only=True)
class PythonStdlib(Text):
    """All ``.py`` files of the standard library but its tests; about 12 MB.

    Attributes:
        context: tokens in one window.
        held_out: part of the files to judge by, in [0, 1). Each file is decided by a hash of its name.
        held_out_stride: tokens from one held-out window to the next; less than ``context`` gives each token
            more text before it, and takes longer. ``None``: ``context``.
        documents: ``joined``: windows run on from one document to the next, and tokens see the one before;
            ``separate``: tokens see their own document only, and positions begin anew in each.
        tokenizer: what makes tokens; learnt from the training files only.
        seed: chooses which files are held out.
    """

    def texts(self) -> Files:
        """The files, named by their path within the library.

        Raises:
            ModelwrightError: this Python came without its source.
        """
        root = Path(sysconfig.get_path("stdlib"))
        files = [(path.relative_to(root).as_posix(), path) for path in _sources(root)]
        if not files:
            raise ModelwrightError(
                "this Python came without the source of its standard library",
                where=str(root),
                remedy="use a Python that has it, or text-files",
            )
        return Files(files)


def _sources(root: Path) -> Iterator[Path]:
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name not in _LEFT_OUT]  # never walks into what is installed
        yield from (Path(folder, name) for name in names if name.endswith(".py"))
