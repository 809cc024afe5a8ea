"""Your own text files."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path

from modelwright.base.errors import ModelwrightError
from modelwright.data.texts.documents import Files
from modelwright.data.texts.text import Text


@dataclass(frozen=True, kw_only=True)
class TextFiles(Text):
    """Files chosen by patterns. Any bytes are text here; nothing is decoded.

    Attributes:
        files: patterns such as ``notes/**/*.md``.
        root: the folder they start from.
        context: tokens in one window.
        held_out: part of the files to judge by, in [0, 1). Each file is decided by a hash of its name.
        held_out_stride: tokens from one held-out window to the next; less than ``context`` gives each token
            more text before it, and takes longer. ``None``: ``context``.
        documents: ``joined``: windows run on from one document to the next, and tokens see the one before;
            ``separate``: tokens see their own document only, and positions begin anew in each.
        tokenizer: what makes tokens; learnt from the training files only.
        seed: chooses which files are held out.
    """

    files: tuple[str, ...]
    root: str = "."

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.files:
            raise ModelwrightError("no files are named", where="files", remedy="files: ['notes/**/*.md']")

    def texts(self) -> Files:
        """The files, named by their path from ``root``.

        Raises:
            ModelwrightError: a pattern matches no file.
        """
        found = {name for pattern in self.files for name in self._matches(pattern)}
        return Files([(name, Path(self.root) / name) for name in found])

    def _matches(self, pattern: str) -> list[str]:
        names = glob.glob(pattern, root_dir=self.root, recursive=True)  # noqa: PTH207 - Path.glob takes hidden files too
        files = [Path(name).as_posix() for name in names if (Path(self.root) / name).is_file()]
        if not files:
            raise ModelwrightError(
                f"no file matches '{pattern}' in {Path(self.root).resolve()}",
                where="files",
                remedy="mend the pattern, or set root; ** stands for any folders",
            )
        return files
