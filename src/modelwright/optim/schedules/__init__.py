"""Learning-rate schedules, one file each; they are listed in ``modelwright.optim.SCHEDULES``."""
