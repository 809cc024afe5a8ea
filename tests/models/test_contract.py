from __future__ import annotations

from modelwright.testing.models import ModelContract


class TestModels(ModelContract):
    pass
