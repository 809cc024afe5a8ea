from __future__ import annotations

from hypothesis import settings

# The same cases in every run, and no clock: these tests share their machine.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")
