"""Stand between a model and its blocks, around their hooks and whatever else surrounds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

Call = Callable[..., Any]


@contextmanager
def calls_through(model: nn.Module, wrap: Mapping[str, Callable[[Call], Call]]) -> Iterator[None]:
    """Inside, calling the module NAME calls ``wrap[NAME](call)``, where ``call`` is what it would have been.

    The attribute is the one by which ``nn.Module.compile`` does the same.
    """
    modules = [(model.get_submodule(name), each) for name, each in wrap.items()]
    before = [vars(module).get("_compiled_call_impl") for module, _ in modules]
    for (module, each), compiled in zip(modules, before, strict=True):
        vars(module)["_compiled_call_impl"] = each(compiled or module._call_impl)
    try:
        yield
    finally:
        for (module, _), compiled in zip(modules, before, strict=True):
            if compiled is None:
                vars(module).pop("_compiled_call_impl", None)
            else:
                vars(module)["_compiled_call_impl"] = compiled
