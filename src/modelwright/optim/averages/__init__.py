"""Averages of the weights, one file each; they are listed in ``modelwright.optim.AVERAGES``."""
