"""Pipeline: consecutive blocks of any module on each rank, cut where the trace of one batch says it is possible.

``calls`` stands between a model and its repeated blocks; ``flow`` finds what depends on what; ``cut`` says what each
stage holds, receives and sends; ``shapes`` the shapes of what travels; ``balance`` where to cut; ``schedules`` which of
torch's schedules runs; ``stage`` computes one stage, ``program`` all of this rank's.
"""
