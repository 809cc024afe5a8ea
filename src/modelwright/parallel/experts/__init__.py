"""Experts spread over ranks: every rank holds some of each layer's, and tokens travel to theirs and back."""

from modelwright.parallel.experts.spreading import apply, expert_parameters
from modelwright.parallel.experts.travel import Travel

__all__ = ["Travel", "apply", "expert_parameters"]
