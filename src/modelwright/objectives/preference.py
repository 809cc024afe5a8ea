"""Prefer one answer to another: direct preference optimisation."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from modelwright.base.errors import ModelwrightError
from modelwright.base.units import Bytes
from modelwright.objectives.fields import IGNORED, class_targets, field, widened
from modelwright.objectives.heads import Logits, check_logits_field, run
from modelwright.objectives.reading import cross_entropies

if TYPE_CHECKING:
    from modelwright.objectives import Objective

_TERM = "preference"
_READER = "objective preference"


@dataclass(frozen=True, eq=False)
class Rewards:
    """What the model gives the answers of each pair: ``beta * (log p - log p of the reference)``.

    Attributes:
        chosen: ``[batch]``.
        rejected: ``[batch]``.
    """

    chosen: Tensor
    rejected: Tensor

    @property
    def margins(self) -> Tensor:
        """By how much the chosen answer is ahead, ``[batch]``."""
        return self.chosen - self.rejected


@dataclass(frozen=True, kw_only=True)
class Preference:
    """Direct preference optimisation: ``-log sigmoid(reward of the chosen - reward of the rejected)`` of each pair.

    A batch has ``chosen``, ``chosen_targets``, ``rejected`` and ``rejected_targets``, each ``[batch, time]``; targets
    are -100 on the question and on padding. A pair counts where both of its answers have a valid target. Source:
    Rafailov et al. 2023 (arXiv:2305.18290); label smoothing: Mitchell 2023, "A note on DPO with noisy preferences".

    Attributes:
        beta: how closely the model is held to the reference; small values let it stray.
        label_smoothing: the share of pairs that is taken to be labelled the wrong way round, below 0.5.
        reference: ``start``: a frozen copy of the model as training starts from it; ``none``: no reference, all
            answers equally likely to it.
        logits: as of ``next-token``: ``auto``, ``chunked`` or ``full``.
        chunk: bytes of logits that exist at a time; ``None``: as suits the device.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0
    reference: Literal["start", "none"] = "start"
    logits: Logits = "auto"
    chunk: Bytes | None = None

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ModelwrightError(f"beta is above 0, not {self.beta}", where="objective.beta")
        if not 0 <= self.label_smoothing < 0.5:
            raise ModelwrightError(
                f"label_smoothing is at least 0 and below 0.5, not {self.label_smoothing}",
                where="objective.label_smoothing",
                remedy="if most pairs are the wrong way round, swap chosen and rejected",
            )
        if self.reference not in ("start", "none"):
            raise ModelwrightError(f"reference is start or none, not {self.reference!r}", where="objective.reference")
        check_logits_field(self.logits, self.chunk)

    @property
    def coefficients(self) -> Mapping[str, float]:
        """One term of weight 1."""
        return {_TERM: 1.0}

    @property
    def metrics(self) -> tuple[str, ...]:
        """How often the chosen answer is ahead, and by how much."""
        return ("preference-accuracy", "reward-margin")

    def build(self, model: nn.Module) -> Objective:
        """The objective with its reference, made from the weights ``model`` has now."""
        return self if self.reference == "none" else ReferencedPreference(self, frozen_copy(model))

    def counts(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Pairs whose answers have a valid target each."""
        return {_TERM: counted_pairs(batch).sum()}

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> Rewards:
        """The rewards of both answers of each pair.

        Raises:
            ModelwrightError: there is to be a reference, and :meth:`build` has not made it.
        """
        if self.reference == "start":
            raise ModelwrightError(
                "the objective preference has no reference yet",
                where="objective.reference",
                remedy="call objective.build(model) before training, and train with what it returns",
            )
        return Rewards(*(self.beta * likelihoods for likelihoods in self.log_likelihoods(model, batch)))

    def loss(self, outputs: Rewards, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``-log sigmoid`` of the margins, summed over the pairs that count."""
        margins, share = widened(outputs.margins), self.label_smoothing
        losses = -(1 - share) * functional.logsigmoid(margins) - share * functional.logsigmoid(-margins)
        return {_TERM: losses.masked_fill(~counted_pairs(batch), 0).sum()}

    def log_likelihoods(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the chosen and the rejected answers, ``[batch]`` each, in nats."""
        chosen, rejected = field(batch, "chosen", _READER), field(batch, "rejected", _READER)
        wanted = [class_targets(batch, name, _READER) for name in ("chosen_targets", "rejected_targets")]
        if chosen.shape != rejected.shape:
            return self._answers(model, chosen, wanted[0]), self._answers(model, rejected, wanted[1])
        both = self._answers(model, torch.cat([chosen, rejected]), torch.cat(wanted))
        return both[: len(chosen)], both[len(chosen) :]

    def _answers(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        outputs = run(model, inputs, logits=self.logits, chunk=self.chunk)
        return -cross_entropies(outputs, targets, _READER).sum(-1)


class ReferencedPreference:
    """A :class:`Preference` with its reference.

    Args:
        config: the objective.
        reference: a frozen model; it is no part of the model that is trained, nor of checkpoints.
    """

    def __init__(self, config: Preference, reference: nn.Module) -> None:
        self.config = config
        self.reference = reference

    @property
    def coefficients(self) -> Mapping[str, float]:
        """Those of the configuration."""
        return self.config.coefficients

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those of the configuration."""
        return self.config.metrics

    def counts(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Pairs whose answers have a valid target each."""
        return self.config.counts(batch)

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> Rewards:
        """The rewards of both answers of each pair."""
        device = field(batch, "chosen", _READER).device
        if device.type != "meta":  # where operations are only counted; it would take the weights away for good
            self.reference.to(device)
        with torch.no_grad():
            before = self.config.log_likelihoods(self.reference, batch)
        now = self.config.log_likelihoods(model, batch)
        return Rewards(*(self.config.beta * (new - old) for new, old in zip(now, before, strict=True)))

    def loss(self, outputs: Rewards, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``-log sigmoid`` of the margins, summed over the pairs that count."""
        return self.config.loss(outputs, batch)


def counted_pairs(batch: Mapping[str, Tensor]) -> Tensor:
    """Which pairs have valid targets in both answers, bool ``[batch]``."""
    chosen, rejected = (class_targets(batch, name, _READER) for name in ("chosen_targets", "rejected_targets"))
    return (chosen != IGNORED).any(-1) & (rejected != IGNORED).any(-1)


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy that is never trained: no gradients, no dropout."""
    return deepcopy(model).requires_grad_(False).eval()
