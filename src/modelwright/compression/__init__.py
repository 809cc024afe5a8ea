"""Compression: smaller and faster models, each step with a record of what it changed."""

from modelwright.compression.factorizing import factorize as factorize
from modelwright.compression.pruning.removing import prune as prune
