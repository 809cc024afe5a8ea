"""Reforms: a model rewritten before or in training, as a recorded change.

Here: the matrices of layers as products of two thin ones.
"""

from __future__ import annotations
