"""The contract of models."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from modelwright.base.choice import Family
from modelwright.models import MODELS, Model
from modelwright.testing.contract import Contract

FACTS = {"vocabulary": 61, "features": 6, "classes": 3}


class ModelContract(Contract):
    """A model builds anywhere, the same way from the same seed, and all of it learns."""

    family: ClassVar[Family] = MODELS

    @classmethod
    def default(cls, name: str) -> Any:
        """The listed technique; fields that data would fill are filled with :data:`FACTS`."""
        technique = cls.family.resolve(name)
        fields = {field.name: field.default for field in dataclasses.fields(technique)}  # type: ignore[arg-type]
        return technique(**{fact: size for fact, size in FACTS.items() if fields.get(fact, 0) is None})

    def inputs(self, technique: Model) -> Tensor:
        """What the model reads: tokens ``[batch, time]`` if it has a vocabulary, else ``[batch, features]``.

        Override it for other inputs.
        """
        generator = torch.Generator().manual_seed(0)
        vocabulary = getattr(technique, "vocabulary", None)
        if vocabulary is not None:
            return torch.randint(vocabulary, (3, 7), generator=generator)
        return torch.randn(3, getattr(technique, "features", FACTS["features"]), generator=generator)

    def test_build_returns_new_modules(self, technique: Model) -> None:
        """Two builds share nothing."""
        first, second = technique.build(), technique.build()
        assert isinstance(first, nn.Module)
        assert not set(first.parameters()) & set(second.parameters())

    def test_equal_seeds_give_equal_weights(self, technique: Model) -> None:
        """All randomness comes from torch's global generator."""
        first, second, other = (_seeded(technique, seed) for seed in (0, 0, 1))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert any(not torch.equal(a, b) for a, b in zip(first, other, strict=True))

    def test_builds_on_the_meta_device(self, technique: Model) -> None:
        """With the same names and shapes, and without memory."""
        with torch.device("meta"):
            outline = technique.build().state_dict()
        assert all(tensor.is_meta for tensor in outline.values())
        shapes = {name: tensor.shape for name, tensor in technique.build().state_dict().items()}
        assert {name: tensor.shape for name, tensor in outline.items()} == shapes

    def test_everything_trainable_gets_a_gradient(self, technique: Model) -> None:
        """A parameter without gradient would be dead weight."""
        torch.manual_seed(0)
        model = technique.build()
        model(self.inputs(technique)).square().sum().backward()
        without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
        assert not without
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)

    def test_samples_do_not_mix(self, technique: Model) -> None:
        """A sample's output is the same alone and in a batch, or accumulation would change what is learnt."""
        torch.manual_seed(0)
        model, inputs = technique.build().double().eval(), self.inputs(technique)
        inputs = inputs.double() if inputs.is_floating_point() else inputs
        with torch.no_grad():
            alone = torch.cat([model(inputs[i : i + 1]) for i in range(len(inputs))])
            assert torch.allclose(model(inputs), alone, rtol=0, atol=1e-12)


def _seeded(technique: Model, seed: int) -> list[Tensor]:
    torch.manual_seed(seed)
    return list(technique.build().state_dict().values())
