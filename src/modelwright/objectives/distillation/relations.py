"""How the teacher relates the positions of a sample to each other in its attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from modelwright.base.errors import ModelwrightError
from modelwright.objectives.distillation.comparing import samples
from modelwright.objectives.distillation.seeing import Attention, Seen
from modelwright.objectives.fields import widened


@dataclass(frozen=True, kw_only=True)
class Relations:
    """``KL(teacher || student)`` of softmaxed query-query, key-key and value-value products, in nats.

    All heads of a position are put together and divided anew into ``heads``, so that numbers and widths of heads may
    differ; nothing is projected. The mean over these heads and positions, for each sample. Source: Wang et al. 2020,
    "MiniLMv2" (arXiv:2012.15828), where the last layer of the student learns from one of the teacher's upper ones.
    Attention has to go through ``torch.nn.functional.scaled_dot_product_attention``.

    Attributes:
        pairs: an attention of the student -> one of the teacher, counted in the order of the forward pass, from the
            end where negative.
        heads: into which all widths are divisible.
        weight: coefficient of the term.
    """

    pairs: tuple[tuple[int, int], ...] = ((-1, -1),)
    heads: int = 1
    weight: float = 1.0

    student_modules: ClassVar[tuple[str, ...]] = ()
    teacher_modules: ClassVar[tuple[str, ...]] = ()
    attention: ClassVar[bool] = True

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Samples."""
        return samples(batch)

    def total(self, student: Seen, teacher: Seen, batch: Mapping[str, Tensor]) -> Tensor:
        """Summed over pairs, kinds of relations and samples."""
        totals = [
            self._distance(mine, theirs)
            for a, b in self.pairs
            for mine, theirs in zip(_one("student", student, a), _one("teacher", teacher, b), strict=True)
        ]
        return torch.stack(totals).sum()

    def _distance(self, mine: Tensor, theirs: Tensor) -> Tensor:
        own, wished = self._relation(mine), self._relation(theirs.detach())
        if own.shape != wished.shape:
            raise ModelwrightError(
                f"the student relates {own.shape[-1]} positions, the teacher {wished.shape[-1]}",
                where="pairs",
                remedy="pair attentions over the same positions",
            )
        losses = functional.kl_div(own, wished.to(own.dtype), reduction="none", log_target=True).sum(-1)
        return losses.flatten(1).mean(1).sum()

    def _relation(self, x: Tensor) -> Tensor:
        """Log-softmax over positions of ``x @ x.T``, ``[batch, heads, time, time]``."""
        joined = widened(x).transpose(1, 2).flatten(2)  # [batch, time, all heads' widths]
        if joined.size(-1) % self.heads:
            raise ModelwrightError(
                f"a width of {joined.size(-1)} is not divided into {self.heads} heads",
                where="heads",
                remedy="choose a number that divides the widths of student and teacher",
            )
        parts = torch.unflatten(joined, -1, (self.heads, -1)).transpose(1, 2)
        return functional.log_softmax(parts @ parts.mT / parts.size(-1) ** 0.5, -1)


def _one(whose: str, seen: Seen, place: int) -> Attention:
    try:
        return seen.attention[place]
    except IndexError as error:
        raise ModelwrightError(
            f"the {whose} has no attention {place}: {len(seen.attention)} went through torch's "
            "scaled_dot_product_attention",
            where="pairs",
            remedy="choose others, and plan.attention: sdpa",
        ) from error
