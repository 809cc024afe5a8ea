"""Contracts: a promise about an artefact that is kept on data nobody searched with, or refused."""

from __future__ import annotations
