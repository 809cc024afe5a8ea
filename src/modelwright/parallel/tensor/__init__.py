"""Which dims of which parameters are divided over the ranks of an axis, derived from what the model computes."""

from modelwright.parallel.tensor.decision import Decision, Row
from modelwright.parallel.tensor.derivation import derive

__all__ = ["Decision", "Row", "derive"]
