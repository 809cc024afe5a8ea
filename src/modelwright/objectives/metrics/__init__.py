"""Metrics, one file each; they are listed in ``modelwright.objectives.METRICS``."""
