"""Ways to draw the samples of a step, one file each; they are listed in ``modelwright.data.SAMPLING``."""
