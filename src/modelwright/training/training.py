"""Training: what is to be trained, as objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from modelwright.data import Ordering, Sampling, Splits
from modelwright.data.sampling.global_sampling import Global
from modelwright.objectives import Objective
from modelwright.optim import AverageTechnique, OptimizerTechnique, Schedule
from modelwright.optim.rules import GroupRule
from modelwright.optim.scaling import DynamicScale
from modelwright.optim.schedules.cosine import Cosine
from modelwright.training.settings import Budget, Evaluation, Saving
from modelwright.training.updating import Updating
from modelwright.training.watching import Watch


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is to be trained.

    Attributes:
        model: the module, still on the CPU.
        data: training and held-out samples.
        objective: what is minimised.
        optimizer: its configuration.
        schedule: factor on the learning rate.
        batch: samples per step over all workers.
        budget: how long.
        clip: largest global gradient norm, or ``None``.
        momentum_schedule, weight_decay_schedule: factors on those settings, or ``None``.
        groups: rules that change the optimizer's settings by name of parameter.
        updates: several updates by name, each with parameters of its own; empty for one of all parameters.
        averaging: of the weights, or ``None``; the averages are what is scored and kept.
        loss_scale: of precisions that need one.
        sampling: which samples a step draws.
        seed: of the data order and of dropout.
        evaluation: when and how to score held-out data.
        saving: when to write checkpoints.
        watch: looking into the run.
    """

    model: nn.Module
    data: Splits
    objective: Objective
    optimizer: OptimizerTechnique
    budget: Budget
    schedule: Schedule = field(default_factory=Cosine)
    batch: int = 32
    clip: float | None = 1.0
    momentum_schedule: Schedule | None = None
    weight_decay_schedule: Schedule | None = None
    groups: tuple[GroupRule, ...] = ()
    updates: Mapping[str, Updating] = field(default_factory=dict)
    averaging: AverageTechnique | None = None
    loss_scale: DynamicScale = field(default_factory=DynamicScale)
    sampling: Sampling = field(default_factory=Global)
    seed: int = 0
    evaluation: Evaluation = field(default_factory=Evaluation)
    saving: Saving = field(default_factory=Saving)
    watch: Watch = field(default_factory=Watch)

    @property
    def positions(self) -> int:
        """Positions of one step in the order of the training data."""
        return self.sampling.positions(self.data.train, batch=self.batch)

    @property
    def order(self) -> Ordering:
        """Which sample is at each position."""
        return self.sampling.order(self.data.train, batch=self.batch, seed=self.seed)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics to score: the recipe's, or the objective's own."""
        return self.evaluation.metrics or self.objective.metrics

    @property
    def updatings(self) -> dict[str, Updating]:
        """The updates by name; a single one has the empty name."""
        single = Updating(
            optimizer=self.optimizer,
            schedule=self.schedule,
            momentum_schedule=self.momentum_schedule,
            weight_decay_schedule=self.weight_decay_schedule,
            groups=self.groups,
            clip=self.clip,
        )
        return dict(self.updates) or {"": single}
