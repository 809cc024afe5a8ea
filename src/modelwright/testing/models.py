"""The contract of models."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from modelwright.base.choice import Family
from modelwright.models import MODELS, Model
from modelwright.testing.contract import Contract

FACTS = {"vocabulary": 61, "features": 6, "classes": 3, "channels": 2, "image_size": 8}
SAMPLES = 3


class ModelContract(Contract):
    """A model builds anywhere, the same way from the same seed, and all of it learns."""

    family: ClassVar[Family] = MODELS

    @classmethod
    def default(cls, name: str) -> Any:
        """The listed technique; fields that data would fill are filled with :data:`FACTS`."""
        technique = cls.family.resolve(name)
        fields = {field.name: field.default for field in dataclasses.fields(technique)}  # type: ignore[arg-type]
        return technique(**{fact: size for fact, size in FACTS.items() if fields.get(fact, 0) is None})

    def inputs(self, technique: Model) -> Tensor | tuple[Tensor, ...]:
        """What the model reads, samples first; several arguments are a tuple. Override it for other inputs.

        By the fields of the technique: source, mask and target if it has ``decoder_layers``; tokens ``[batch, time]``
        for a ``vocabulary``; images ``[batch, channels, image_size, image_size]`` for ``channels``; sounds
        ``[batch, samples]`` for a ``sample_rate``; else ``[batch, features]``.
        """
        generator = torch.Generator().manual_seed(0)
        size = {fact: getattr(technique, fact, None) or FACTS[fact] for fact in FACTS}
        if hasattr(technique, "decoder_layers"):
            source = torch.randint(size["vocabulary"], (SAMPLES, 6), generator=generator)
            mask = torch.arange(6) < torch.tensor([6, 4, 1]).unsqueeze(1)
            return source, mask, torch.randint(size["vocabulary"], (SAMPLES, 5), generator=generator)
        if hasattr(technique, "vocabulary"):
            return torch.randint(size["vocabulary"], (SAMPLES, 7), generator=generator)
        if hasattr(technique, "channels"):
            return torch.randn(SAMPLES, size["channels"], size["image_size"], size["image_size"], generator=generator)
        if hasattr(technique, "sample_rate"):
            return torch.randn(SAMPLES, (technique.sample_rate or 16_000) // 4, generator=generator)
        return torch.randn(SAMPLES, size["features"], generator=generator)

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
        model(*self._arguments(technique)).square().sum().backward()
        without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
        assert not without
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)

    def test_samples_do_not_mix(self, technique: Model) -> None:
        """A sample's output is the same alone and in a batch, or accumulation would change what is learnt."""
        torch.manual_seed(0)
        model, inputs = technique.build().double().eval(), self._arguments(technique)
        inputs = [each.double() if each.is_floating_point() else each for each in inputs]
        with torch.no_grad():
            alone = torch.cat([model(*(each[i : i + 1] for each in inputs)) for i in range(len(inputs[0]))])
            assert torch.allclose(model(*inputs), alone, rtol=0, atol=1e-12)

    def _arguments(self, technique: Model) -> list[Tensor]:
        inputs = self.inputs(technique)
        return [inputs] if isinstance(inputs, Tensor) else list(inputs)


def _seeded(technique: Model, seed: int) -> list[Tensor]:
    torch.manual_seed(seed)
    return list(technique.build().state_dict().values())
