"""Distillation: a small student learns from a large teacher, which may have been the student before."""

from __future__ import annotations
