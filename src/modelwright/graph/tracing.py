"""Trace a model: run it, its loss and its backward pass on tensors without memory, and record what happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils import _pytree as pytree

from modelwright.base.errors import ModelwrightError
from modelwright.graph.attention import WholeAttention
from modelwright.graph.compiling import as_if_compiling
from modelwright.graph.graph import Graph
from modelwright.graph.meta_copy import copy_to_meta, example_to_meta
from modelwright.graph.places import line_outside_torch
from modelwright.graph.recording import Recorder
from modelwright.graph.records import Value

Forward = Callable[[nn.Module, Any], Any]
Loss = Callable[[Any, Any], "Tensor | Mapping[str, Tensor]"]
Watch = Callable[[nn.Module, Recorder], "AbstractContextManager[object]"]


def trace(
    model: nn.Module,
    example: Any,
    *,
    loss: Loss | None = None,
    forward: Forward | None = None,
    watch: Watch | None = None,
) -> Graph:
    """Record what ``model`` does to ``example``. No numbers are computed, and none are needed.

    The model may be on any device, also on meta. It is not altered: a copy on the meta device runs, in the mode
    (training or not) that the model is in. First the code runs as it is; where it asks for the content of a tensor, it
    is told that it is being compiled, and where it asks still, an assumption is made and listed in ``breaks``.

    Args:
        model: any module.
        example: a dict of arguments by name, a tuple of arguments, or one argument, whose tensors are on any device;
            only shapes and types matter.
        loss: of ``(outputs, example)``: a scalar or a dict of scalars, whose sum is differentiated; ``None``: the
            forward pass only.
        forward: of ``(model, example)``, where an example is not simply the model's arguments: the outputs.
        watch: of ``(model, recorder)``, given the copy that will run: a context in which its forward pass runs. Called
            again where the pass is attempted again.

    Raises:
        ModelwrightError: the code fails on tensors without content, with the line; or refuses the example itself.
    """
    attempts: tuple[dict[str, bool], ...] = ({}, {"compiling": True}, {"compiling": True, "assuming": True})
    failures: list[Exception] = []
    for attempt in attempts:
        try:
            return _attempt(model, example, loss, forward or _call, _unwatched if watch is None else watch, **attempt)
        except ModelwrightError:
            raise
        except Exception as failure:  # Whatever a model's code raises: it ran without content.
            failures.append(failure)
    raise _refusal(failures) from failures[0]


def _attempt(
    model: nn.Module,
    example: Any,
    loss: Loss | None,
    forward: Forward,
    watch: Watch,
    *,
    compiling: bool = False,
    assuming: bool = False,
) -> Graph:
    copied, batch = copy_to_meta(model), example_to_meta(example)
    recorder = Recorder(assuming=assuming)
    with torch.no_grad():
        named = _register(recorder, copied, batch)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(as_if_compiling() if compiling else nullcontext())
        stack.enter_context(torch.enable_grad())
        stack.enter_context(saved_tensors_hooks(recorder.save, lambda each: each))
        stack.enter_context(recorder)
        stack.enter_context(WholeAttention(recorder))
        with _module_paths(copied, recorder), watch(copied, recorder):
            outputs = forward(copied, batch)
        gradients: dict[str, Tensor] = {}
        if loss is not None:
            total = _total(loss(outputs, batch))
            recorder.phase = "backward"
            gradients = _differentiate(total, copied)
    returned = [each for each in _tensors(outputs) if each.device.type == "meta"]
    return _graph(recorder, named, returned, gradients, compiling=compiling)


def _call(model: nn.Module, example: Any) -> Any:
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, (tuple, list)) else model(example)


def _unwatched(model: nn.Module, recorder: Recorder) -> AbstractContextManager[None]:
    return nullcontext()


def _register(recorder: Recorder, model: nn.Module, example: Any) -> dict[str, dict[str, int]]:
    """Make parameters, buffers and the example known; their numbers by kind and name."""
    parameters = {
        name: recorder.register(each, "parameter", name)
        for name, each in model.named_parameters(remove_duplicate=False)
    }
    buffers = {
        name: recorder.register(each, "buffer", name) for name, each in model.named_buffers(remove_duplicate=False)
    }
    leaves = pytree.tree_flatten_with_path(example)[0]
    inputs = {
        ".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path): each
        for path, each in leaves
        if isinstance(each, Tensor)
    }
    numbers = {name: recorder.register(each, "input", name) for name, each in inputs.items()}
    return {"parameters": parameters, "buffers": buffers, "inputs": numbers}


@contextmanager
def _module_paths(model: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Tell the recorder which module runs; a module used in two places goes by its first name."""
    entered: list[str] = []

    def enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            entered.append(recorder.module)
            recorder.module = name

        return hook

    def leave(module: nn.Module, args: Any, outputs: Any) -> None:
        recorder.module = entered.pop() if entered else ""

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(enter(name), prepend=True))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        recorder.module = ""
        for handle in handles:
            handle.remove()


def _total(losses: Tensor | Mapping[str, Tensor]) -> Tensor:
    if isinstance(losses, Tensor):
        return losses.sum() if losses.dim() else losses
    first, *others = losses.values()
    return sum(others, start=first)


def _differentiate(total: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """Gradients by each name of the parameters that have one.

    Not by ``backward()``, which would clone each gradient because the recorder holds it too.
    """
    wanted = {name: each for name, each in model.named_parameters(remove_duplicate=False) if each.requires_grad}
    unique = list(dict.fromkeys(wanted.values()))
    found = dict(zip(unique, torch.autograd.grad(total, unique, allow_unused=True), strict=True))
    return {name: gradient for name, each in wanted.items() if (gradient := found[each]) is not None}


def _tensors(outputs: Any) -> list[Tensor]:
    """The tensors in what a model returned, in order, through dicts, sequences and dataclasses."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, Mapping):
        return [each for value in outputs.values() for each in _tensors(value)]
    if isinstance(outputs, (list, tuple)):
        return [each for value in outputs for each in _tensors(value)]
    return _tensors(vars(outputs)) if is_dataclass(outputs) else []


def _graph(
    recorder: Recorder,
    named: dict[str, dict[str, int]],
    outputs: list[Tensor],
    gradients: dict[str, Tensor],
    *,
    compiling: bool,
) -> Graph:
    returned = [recorder.number_of(each) for each in outputs]
    values = tuple(replace(each, saved_for_backward=each.id in recorder.saved) for each in recorder.values)

    def pick(numbers: Mapping[str, int]) -> dict[str, Value]:
        return {name: values[number] for name, number in numbers.items()}

    return Graph(
        operators=tuple(recorder.operators),
        values=values,
        parameters=pick(named["parameters"]),
        buffers=pick(named["buffers"]),
        inputs=pick(named["inputs"]),
        outputs=tuple(values[each] for each in returned),
        gradients=pick({name: recorder.number_of(each) for name, each in gradients.items()}),
        breaks=tuple(recorder.breaks),
        compiling=compiling,
    )


def _refusal(failures: list[Exception]) -> ModelwrightError:
    last = failures[-1]
    return ModelwrightError(
        f"the model cannot be traced: {type(last).__name__}: {str(last).strip().splitlines()[0] if str(last) else ''}",
        where=line_outside_torch(last.__traceback__),
        remedy="a trace has shapes but no content: give an example that the model accepts, and let shapes and branches "
        "depend on shapes, not on the content of tensors",
    )
