"""Muon for hidden matrices, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.patterns import matches
from modelwright.optim.adamw import check_betas
from modelwright.optim.fused import fused_or_foreach
from modelwright.optim.groups import check_fraction, check_nonnegative, decay_groups, trainable
from modelwright.optim.joined import Joined


@dataclass(frozen=True, kw_only=True)
class Muon:
    """Momentum whose matrices are orthogonalised.

    Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon), as torch has it: ``b = m b + (1 - m) g``,
    then five Newton-Schulz iterations in bfloat16 that bring the singular values of Nesterov's
    ``(1 - m) g + m b`` near 1, then decoupled decay and the step. Embeddings, the head, and whatever is no
    matrix take AdamW steps, with learning rate and decay of their own.

    Attributes:
        lr: learning rate of the hidden matrices.
        momentum: share of the former momentum that is kept, below 1.
        weight_decay: decoupled decay of the hidden matrices.
        adjust_lr: how the size of a matrix changes ``lr``: ``original`` times ``sqrt(max(1, rows /
            columns))``; ``match_rms_adamw`` times ``0.2 sqrt(max(rows, columns))``, so that values tuned for
            AdamW fit (Liu et al. 2025, arXiv:2502.16982).
        adamw_lr: learning rate of the rest.
        adamw_betas: betas of the rest.
        adamw_eps: eps of the rest.
        adamw_weight_decay: decoupled decay of the rest; never of tensors of fewer than two dims.
        adamw_names: patterns of names of matrices that belong to the rest; those of ``nn.Embedding`` always
            do. A pattern is compared with the whole name (``decoder.3.*``) and with each part of it between the
            dots: ``head`` is in ``model.head.weight``, not in ``multihead_attn.out_proj.weight``.
    """

    lr: float = 0.02
    momentum: float = 0.95
    weight_decay: float = 0.0
    adjust_lr: Literal["original", "match_rms_adamw"] = "original"
    adamw_lr: float = 3e-3
    adamw_betas: tuple[float, float] = (0.9, 0.95)
    adamw_eps: float = 1e-8
    adamw_weight_decay: float = 0.0
    adamw_names: tuple[str, ...] = ("*embedding*", "head", "*_head")

    sees: ClassVar[Literal["elements", "tensors"]] = "tensors"

    def __post_init__(self) -> None:
        check_nonnegative("muon", lr=self.lr, weight_decay=self.weight_decay, adamw_lr=self.adamw_lr)
        check_nonnegative("muon", adamw_eps=self.adamw_eps, adamw_weight_decay=self.adamw_weight_decay)
        check_fraction("muon", momentum=self.momentum)
        check_betas("muon", self.adamw_betas)
        if self.adjust_lr not in ("original", "match_rms_adamw"):
            raise ModelwrightError(f"muon: adjust_lr is original or match_rms_adamw, not {self.adjust_lr!r}")

    def build(self, model: nn.Module) -> Joined:
        """Torch's Muon and torch's AdamW, stepped together.

        Raises:
            ModelwrightError: the model has no trainable parameter, or none that is a hidden matrix.
        """
        parameters = trainable(model)
        hidden = self._hidden(model, parameters)
        rest = {name: parameter for name, parameter in parameters.items() if name not in hidden}
        groups = decay_groups(hidden, lr=self.lr, weight_decay=self.weight_decay)
        muon = torch.optim.Muon(groups, momentum=self.momentum, adjust_lr_fn=self.adjust_lr)
        if not rest:
            return Joined(muon)
        groups = decay_groups(rest, lr=self.adamw_lr, weight_decay=self.adamw_weight_decay)
        adamw = fused_or_foreach(torch.optim.AdamW, groups, betas=tuple(self.adamw_betas), eps=self.adamw_eps)
        return Joined(muon, adamw)

    def _hidden(self, model: nn.Module, parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        embeddings = set(_embedding_weights(model))
        hidden = {
            name: parameter
            for name, parameter in parameters.items()
            if parameter.dim() == 2 and parameter not in embeddings and not matches(name, self.adamw_names)
        }
        if not hidden:
            raise ModelwrightError(
                f"muon: the model {type(model).__name__} has no hidden matrix to train",
                where=f"adamw_names: {', '.join(self.adamw_names)}",
                remedy="choose the optimizer adamw, or change adamw_names",
            )
        return hidden


def _embedding_weights(model: nn.Module) -> Iterable[Tensor]:
    return (module.weight for module in model.modules() if isinstance(module, nn.Embedding))
