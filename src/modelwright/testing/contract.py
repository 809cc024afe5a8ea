"""What the contract suites share: tests run over a family's whole listing, or over techniques given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from modelwright.base.choice import Family

if TYPE_CHECKING:
    import pytest


class Contract:
    """A suite whose tests take the argument ``technique``, and ``name`` if they like.

    Attributes:
        family: the family whose listing is tested; each technique with its default settings.
        techniques: techniques by name, tested instead of the listing.
    """

    family: ClassVar[Family]
    techniques: ClassVar[Mapping[str, Any] | None] = None

    @classmethod
    def default(cls, name: str) -> Any:
        """The technique listed as ``name``, as the suite tests it."""
        return cls.family.resolve(name)()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Parametrise every test of the class over the techniques."""
        named = self.techniques
        if named is None:
            named = {name: self.default(name) for name in self.family.listing}
        if "name" in metafunc.fixturenames:
            metafunc.parametrize(("name", "technique"), list(named.items()), ids=list(named))
        elif "technique" in metafunc.fixturenames:
            metafunc.parametrize("technique", list(named.values()), ids=list(named))
