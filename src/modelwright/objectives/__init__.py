"""What is minimised, and how results are measured.

An objective is a frozen dataclass. It returns *totals* over valid targets and, apart, how many there were:
the loop sums counts over micro-batches and ranks and divides once, so that the loss does not depend on how a
global batch was split. A metric accumulates sums over batches; two metrics that saw different batches merge
into the one that would have seen both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

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
    },
)

METRICS = Family(
    "metric",
    {
        "bits-per-byte": "modelwright.objectives.metrics.bits_per_byte:BitsPerByte",
        "perplexity": "modelwright.objectives.metrics.perplexity:Perplexity",
        "accuracy": "modelwright.objectives.metrics.accuracy:Accuracy",
        "mean-squared-error": "modelwright.objectives.metrics.mean_squared_error:MeanSquaredError",
    },
)


class Objective(Protocol):
    """What is minimised: the sum over terms of ``coefficient * total / count``."""

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

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """The outputs that :meth:`loss` and the metrics read."""
        ...

    def loss(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Total of each term over its valid targets, 0-dim; zero with zero gradients where there are none."""
        ...


class Metric(Protocol):
    """A number that describes outputs; its whole state is additive."""

    better: ClassVar[Literal["lower", "higher"]]

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Take in one batch; forces no device sync."""
        ...

    def merge(self, other: Self) -> None:
        """Take in what another one saw."""
        ...

    def compute(self) -> float:
        """The number over everything seen; an error where nothing was."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Sums, 0-dim; the state of a union is the sum of the states, so that ranks may add theirs."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Become what :meth:`state` described."""
        ...
