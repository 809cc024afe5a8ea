"""Choice by name: a family lists its techniques as strings, so nothing is imported until it is chosen."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from modelwright.base.errors import MissingExtra, ModelwrightError, nearest

_EXTRAS = {
    "tokenizers": "text",
    "jinja2": "text",
    "plotly": "report",
    "sklearn": "sklearn",
    "pyarrow": "parquet",
    "PIL": "images",
    "scipy": "audio",
    "transformers": "transformers",
    "tensorboard": "tensorboard",
    "mlflow": "mlflow",
    "torchao": "fp8",
    "onnx": "onnx",
    "onnx_ir": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "openvino": "openvino",
    "executorch": "executorch",
    "fsspec": "store",
    "s3fs": "store",
}


@dataclass(frozen=True, eq=False)
class Family:
    """A named list of techniques.

    Attributes:
        name: the word used in messages, such as ``optimizer``.
        listing: short name -> ``"package.module:Class"``.
    """

    name: str
    listing: Mapping[str, str]

    def resolve(self, use: str) -> Callable[..., Any]:
        """The class behind a short name or an import path ``package.module:Class``.

        Raises:
            ModelwrightError: the name is not listed, or the path cannot be imported.
        """
        if ":" in use:
            return import_path(use)
        if use not in self.listing:
            raise ModelwrightError(
                f"there is no {self.name} named '{use}'",
                remedy=f"{nearest(use, self.listing)} Your own: use: package.module:Class",
            )
        return import_path(self.listing[use])

    def short_name(self, technique: type) -> str:
        """The name a recipe would use for a class: its short name, else its import path."""
        path = f"{technique.__module__}:{technique.__qualname__}"
        return next((name for name, listed in self.listing.items() if listed == path), path)


def is_import_path(text: str) -> bool:
    """Whether ``text`` has the shape ``package.module:Name``: nothing of another shape is ever imported."""
    module, colon, name = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), *name.split(".")])


def import_path(path: str) -> Callable[..., Any]:
    """Import ``package.module:Name``.

    Raises:
        ModelwrightError: no such module or name, or the module fails while it is imported.
        MissingExtra: the module needs one of our optional parts.
    """
    if not is_import_path(path):
        raise ModelwrightError(f"'{path}' is no import path", where=path, remedy="write  package.module:Class")
    module_name, _, name = path.partition(":")
    try:
        target: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise _not_found(path, module_name, error) from error
    except MissingExtra:
        raise
    except Exception as error:
        *_, frame = traceback.extract_tb(error.__traceback__)
        raise ModelwrightError(
            f"importing '{module_name}' failed: {type(error).__name__}: {error}",
            where=path,
            remedy=f"look at {frame.filename}:{frame.lineno}",
        ) from error
    for part in name.split("."):
        if not hasattr(target, part):
            public = [known for known in vars(target) if not known.startswith("_")]
            raise ModelwrightError(f"'{module_name}' has no '{name}'", where=path, remedy=nearest(part, public))
        target = getattr(target, part)
    if not callable(target):
        raise ModelwrightError(f"'{path}' is a {type(target).__name__}, not a class or function", where=path)
    return target  # type: ignore[no-any-return]


def _not_found(path: str, module_name: str, error: ModuleNotFoundError) -> ModelwrightError:
    missing = error.name or ""
    top = missing.partition(".")[0]
    if top in _EXTRAS:
        return MissingExtra(_EXTRAS[top], path)
    if module_name == missing or module_name.startswith(f"{missing}."):
        return ModelwrightError(
            f"there is no module '{missing}'",
            where=path,
            remedy="start the command where the module lies, or install it in this environment",
        )
    return ModelwrightError(
        f"importing '{module_name}' failed: it needs the module '{missing}', which is not installed",
        where=path,
        remedy=f"pip install {top}",
    )
