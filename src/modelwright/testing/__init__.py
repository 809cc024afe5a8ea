"""Contract suites: what every technique of a family must keep, ours and yours.

Each module holds one class of pytest tests over a family's whole listing. Bind it in a test module to run it
over ours; name your own techniques to run it over yours::

    from modelwright.testing.schedules import ScheduleContract

    class TestMySchedules(ScheduleContract):
        techniques = {"mine": MySchedule(turns=3)}

Needs pytest.
"""

from __future__ import annotations

from pathlib import Path

from modelwright.base.errors import MissingExtra

try:
    import pytest
except ImportError as error:
    raise MissingExtra("dev", "modelwright.testing") from error

# Failing asserts then show their values, as those of test modules do.
_suites = [path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__"]
pytest.register_assert_rewrite(*(f"{__name__}.{suite}" for suite in _suites))
