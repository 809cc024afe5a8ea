"""What is minimised, and how results are measured.

An objective is a frozen dataclass. It returns *totals* over valid targets and, apart, how many there were:
the loop sums counts over micro-batches and ranks and divides once, so that the loss does not depend on how a
global batch was split. An Update may minimise some of an objective's terms only, chosen by name, so that adversaries
share one objective. A metric accumulates over batches; two metrics that saw different batches merge into the one that
would have seen both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from modelwright.base.choice import Family

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor, nn

    Batch = dict[str, Tensor]

OBJECTIVES = Family(
    "objective",
    {
        "next-token": "modelwright.objectives.next_token:NextToken",
        "classification": "modelwright.objectives.classification:Classification",
        "regression": "modelwright.objectives.regression:Regression",
        "binary": "modelwright.objectives.binary:Binary",
        "sequence-to-sequence": "modelwright.objectives.sequence_to_sequence:SequenceToSequence",
        "preference": "modelwright.objectives.preference:Preference",
    },
)

METRICS = Family(
    "metric",
    {
        "bits-per-byte": "modelwright.objectives.metrics.bits_per_byte:BitsPerByte",
        "perplexity": "modelwright.objectives.metrics.perplexity:Perplexity",
        "accuracy": "modelwright.objectives.metrics.accuracy:Accuracy",
        "token-accuracy": "modelwright.objectives.metrics.accuracy:TokenAccuracy",
        "top-5-accuracy": "modelwright.objectives.metrics.accuracy:TopFiveAccuracy",
        "binary-accuracy": "modelwright.objectives.metrics.accuracy:BinaryAccuracy",
        "f1": "modelwright.objectives.metrics.f1:F1",
        "f1-micro": "modelwright.objectives.metrics.f1:F1Micro",
        "f1-binary": "modelwright.objectives.metrics.f1:F1Binary",
        "precision": "modelwright.objectives.metrics.f1:Precision",
        "recall": "modelwright.objectives.metrics.f1:Recall",
        "auc": "modelwright.objectives.metrics.auc:AUC",
        "mean-squared-error": "modelwright.objectives.metrics.mean_squared_error:MeanSquaredError",
        "mean-absolute-error": "modelwright.objectives.metrics.mean_absolute_error:MeanAbsoluteError",
        "r2": "modelwright.objectives.metrics.r2:R2",
        "preference-accuracy": "modelwright.objectives.metrics.preference:PreferenceAccuracy",
        "reward-margin": "modelwright.objectives.metrics.preference:RewardMargin",
    },
)


class Objective(Protocol):
    """What is minimised: the sum over terms of ``coefficient * total / count``.

    An Update may choose some of the terms by name, as generator and discriminator do; then only these are summed, and
    only its parameters get gradients of them. So each term has its own total and count, and none counts on another.

    An objective that needs the weights training starts from has ``build`` too: see :class:`StartingObjective`. One that
    minimises more than a model is judged by has ``scored``: the objective that held-out data is scored by.
    """

    @property
    def coefficients(self) -> Mapping[str, float]:
        """Weight of each term."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of metrics that suit this objective; evaluation uses them unless told otherwise."""
        ...

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Valid targets of each term, int64 and 0-dim, on the batch's device, before the forward pass."""
        ...

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        """The outputs that :meth:`loss` and the metrics read: a tensor, or an object.

        An object with ``logits``, an attribute or a method, is read as these where logits are wanted.
        """
        ...

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Total of each term over its valid targets, 0-dim; zero with zero gradients where there are none."""
        ...


class StartingObjective(Protocol):
    """An objective that takes something from the model as training starts, such as a frozen reference."""

    def build(self, model: nn.Module) -> Objective:
        """The objective to train with; ``model`` has the weights of step 0, also when a run is resumed."""
        ...


class Metric(Protocol):
    """A number that describes outputs.

    Its state is made of tensors that are either sums, 0-dim or of fixed shape, or rows that are concatenated along
    their first dim; either way :meth:`load` and :meth:`merge` unite the states of any number of ranks exactly. Where
    the number is not defined for what was seen, such as the AUC of one class, it is NaN, and an event says why.
    """

    better: ClassVar[Literal["lower", "higher"]]

    def update(self, outputs: Any, batch: Batch) -> None:
        """Take in one batch; forces no device sync."""
        ...

    def merge(self, other: Self) -> None:
        """Take in what another one saw."""
        ...

    def compute(self) -> float:
        """The number over everything seen; an error where nothing was."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything seen, as tensors whose shapes may differ from rank to rank."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Become what :meth:`state` described."""
        ...
