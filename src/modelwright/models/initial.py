"""Initial values by name pattern: ``{"*embedding*": Normal(std=0.02), "head": Zeros()}``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError, nearest
from modelwright.base.patterns import matches
from modelwright.models import INITIALS

Nonlinearity = Literal["linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu"]
Distribution = Literal["normal", "uniform"]


class Scheme(Protocol):
    """How a parameter begins. A scheme is a frozen dataclass."""

    def fill(self, parameter: Tensor) -> None:
        """Draw new values in place, from torch's global generator.

        Raises:
            ModelwrightError: the scheme does not fit the parameter's shape.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Normal:
    """A normal distribution around zero.

    Attributes:
        std: its standard deviation.
    """

    std: float = 0.02

    def __post_init__(self) -> None:
        _check_size("normal", std=self.std)

    def fill(self, parameter: Tensor) -> None:
        """See :class:`Scheme`."""
        nn.init.normal_(parameter, std=self.std)


@dataclass(frozen=True, kw_only=True)
class TruncatedNormal:
    """A normal distribution around zero without what is further out than two ``std``.

    Attributes:
        std: standard deviation before the cut; what remains has 0.88 of it.
    """

    std: float = 0.02

    def __post_init__(self) -> None:
        _check_size("truncated-normal", std=self.std)

    def fill(self, parameter: Tensor) -> None:
        """See :class:`Scheme`."""
        nn.init.trunc_normal_(parameter, std=self.std, a=-2 * self.std, b=2 * self.std)


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Evenly between ``-bound`` and ``bound``.

    Attributes:
        bound: the largest value.
    """

    bound: float

    def __post_init__(self) -> None:
        _check_size("uniform", bound=self.bound)

    def fill(self, parameter: Tensor) -> None:
        """See :class:`Scheme`."""
        nn.init.uniform_(parameter, -self.bound, self.bound)


@dataclass(frozen=True, kw_only=True)
class Kaiming:
    """Variance kept from layer to layer through a nonlinearity (He et al. 2015, arXiv:1502.01852).

    Attributes:
        mode: ``fan_in`` keeps it forwards, ``fan_out`` backwards.
        nonlinearity: what follows; gelu and silu are near ``relu``.
        distribution: ``normal`` or ``uniform``.
    """

    mode: Literal["fan_in", "fan_out"] = "fan_in"
    nonlinearity: Nonlinearity = "relu"
    distribution: Distribution = "normal"

    def __post_init__(self) -> None:
        _check_word("kaiming", "mode", self.mode, ("fan_in", "fan_out"))
        _check_word("kaiming", "nonlinearity", self.nonlinearity, get_args(Nonlinearity))
        _check_word("kaiming", "distribution", self.distribution, get_args(Distribution))

    def fill(self, parameter: Tensor) -> None:
        """See :class:`Scheme`."""
        _check_dims("kaiming", parameter)
        draw = nn.init.kaiming_normal_ if self.distribution == "normal" else nn.init.kaiming_uniform_
        draw(parameter, mode=self.mode, nonlinearity=self.nonlinearity)


@dataclass(frozen=True, kw_only=True)
class Xavier:
    """Variance halfway between forwards and backwards (Glorot and Bengio 2010).

    Attributes:
        gain: a factor for what follows, as of ``torch.nn.init.calculate_gain``.
        distribution: ``normal`` or ``uniform``.
    """

    gain: float = 1.0
    distribution: Distribution = "uniform"

    def __post_init__(self) -> None:
        _check_size("xavier", gain=self.gain)
        _check_word("xavier", "distribution", self.distribution, get_args(Distribution))

    def fill(self, parameter: Tensor) -> None:
        """See :class:`Scheme`."""
        _check_dims("xavier", parameter)
        draw = nn.init.xavier_normal_ if self.distribution == "normal" else nn.init.xavier_uniform_
        draw(parameter, gain=self.gain)


@dataclass(frozen=True, kw_only=True)
class Orthogonal:
    """Rows or columns that are orthonormal, times ``gain`` (Saxe et al. 2014, arXiv:1312.6120).

    Attributes:
        gain: their length.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        _check_size("orthogonal", gain=self.gain)

    def fill(self, parameter: Tensor) -> None:
        """See :class:`Scheme`."""
        _check_dims("orthogonal", parameter)
        # Half precision has no QR decomposition.
        wide = torch.empty_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32))
        parameter.copy_(nn.init.orthogonal_(wide, gain=self.gain))


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """A normal distribution that shrinks with depth, for what writes into a residual stream.

    GPT-2 (Radford et al. 2019): the deviation is ``std / sqrt(2 * layers)``, as each layer writes twice.

    Attributes:
        layers: how many layers the model has.
        std: the deviation at no depth.
    """

    layers: int
    std: float = 0.02

    def __post_init__(self) -> None:
        _check_size("scaled", std=self.std)
        if self.layers < 1:
            raise ModelwrightError(f"initial values scaled: layers is at least 1, not {self.layers}")

    def fill(self, parameter: Tensor) -> None:
        """See :class:`Scheme`."""
        nn.init.normal_(parameter, std=self.std / math.sqrt(2 * self.layers))


@dataclass(frozen=True, kw_only=True)
class Constant:
    """One value everywhere.

    Attributes:
        value: the value.
    """

    value: float

    def fill(self, parameter: Tensor) -> None:
        """See :class:`Scheme`."""
        nn.init.constant_(parameter, self.value)


@dataclass(frozen=True, kw_only=True)
class Zeros:
    """Zero everywhere."""

    def fill(self, parameter: Tensor) -> None:
        """See :class:`Scheme`."""
        nn.init.zeros_(parameter)


@dataclass(frozen=True, kw_only=True)
class Ones:
    """One everywhere."""

    def fill(self, parameter: Tensor) -> None:
        """See :class:`Scheme`."""
        nn.init.ones_(parameter)


def initialise(model: nn.Module, rules: Mapping[str, Scheme]) -> dict[str, str]:
    """Draw new initial values for the parameters that ``rules`` name; the others keep theirs.

    Parameters are drawn in the order of the model, so that equal seeds give equal values whatever the order of
    rules that do not overlap. A parameter that several modules share is drawn once; a pattern may use any of its
    names.

    Args:
        model: changed in place.
        rules: pattern of names of parameters (as of :func:`modelwright.base.patterns.matches`) -> scheme; where
            several fit a parameter, the first counts.

    Returns:
        The name of each parameter drawn -> the short name of its scheme.

    Raises:
        ModelwrightError: a pattern decides nothing, or a scheme does not fit a parameter. The model is then as it was
            before, or partly drawn.
    """
    drawn = {}
    for (name, parameter), pattern in _decided(model, rules).items():
        try:
            with torch.no_grad():
                rules[pattern].fill(parameter)
        except ModelwrightError as error:
            error.where = error.where or f"initial: '{pattern}', parameter {name} {list(parameter.shape)}"
            raise
        drawn[name] = INITIALS.short_name(type(rules[pattern]))
    return drawn


def _decided(model: nn.Module, rules: Mapping[str, Scheme]) -> dict[tuple[str, nn.Parameter], str]:
    """The pattern that decides each parameter, in the order of the model."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    decided = {}
    for parameter, known in names.items():
        fitting = (pattern for pattern in rules if any(matches(name, [pattern]) for name in known))
        if (first := next(fitting, None)) is not None:
            decided[known[0], parameter] = first
    for pattern in rules:
        if pattern not in decided.values():
            _raise_idle(pattern, [name for known in names.values() for name in known])
    return decided


def _raise_idle(pattern: str, names: list[str]) -> None:
    shadowed = [name for name in names if matches(name, [pattern])]
    if not shadowed:
        raise ModelwrightError(
            f"no parameter fits the pattern '{pattern}'", where="initial", remedy=_near(pattern, names)
        )
    raise ModelwrightError(
        f"the pattern '{pattern}' decides nothing: an earlier one fits {shadowed[0]}"
        + (f" and the {len(shadowed) - 1} others" if len(shadowed) > 1 else ""),
        where="initial",
        remedy="write the narrower pattern first; the first that fits counts",
    )


def _near(pattern: str, names: list[str]) -> str:
    return nearest(pattern, {part for name in names for part in (name, *name.split("."))})


def _check_size(scheme: str, **values: float) -> None:
    for name, value in values.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ModelwrightError(f"initial values {scheme}: {name} is at least 0 and finite, not {value}")


def _check_word(scheme: str, name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ModelwrightError(
            f"initial values {scheme}: {name} is {', '.join(known[:-1])} or {known[-1]}, not {value!r}",
            remedy=nearest(value, known),
        )


def _check_dims(scheme: str, parameter: Tensor) -> None:
    if parameter.dim() < 2:
        raise ModelwrightError(
            f"initial values {scheme} need a parameter of at least two dims, not one of {parameter.dim()}",
            remedy="narrow the pattern to weights, such as  *.weight, or choose zeros, ones, constant or normal",
        )
