"""FLOPs against hand counts and torch's own counter; utilisation against its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.training.jobs import TIME, VOCABULARY, small_gpt
from tests.training.small import BATCH, CLASSES, FEATURES, alone, network, points, prepare, same, snapshot
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from modelwright.data.batches import read
from modelwright.data.memory import InMemory
from modelwright.models.attention import set_attention
from modelwright.objectives.next_token import NextToken
from modelwright.training.prepared import Prepared
from modelwright.training.seeing.flops import _computed, count_flops, palm_flops_per_token
from modelwright.training.seeing.peak import measured_peak, peak, table_peak, utilisation
from modelwright.training.seeing.replay import micro_batches

TARGETS = 3


def by_hand(hidden: int = 8) -> float:
    """Forward: two products. Backward: the weights' gradients, and the inputs' but for the first layer."""
    first, second = 2 * TARGETS * FEATURES * hidden, 2 * TARGETS * hidden * CLASSES
    return first + second, first + 2 * second


def test_an_mlp_has_the_flops_that_one_counts_by_hand() -> None:
    flops = count_flops(prepare(points()))
    assert flops is not None and flops.how == "meta"
    assert (flops.forward, flops.backward) == by_hand()
    assert flops.sample == sum(flops.by_operator.values())


class Peeking(nn.Module):
    """Reads a value, which the meta device cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.inner(x if x.sum().item() > -1e9 else -x)


def test_a_model_that_reads_values_is_counted_by_computing_and_left_as_it_was() -> None:
    torch.manual_seed(1)
    prepared = prepare(points(), model=Peeking().double())
    before, drawn = snapshot(prepared), torch.get_rng_state()
    flops = count_flops(prepared)
    assert flops is not None and flops.how == "micro-batch"
    assert (flops.forward, flops.backward) == by_hand()
    assert same(before, snapshot(prepared)) and torch.equal(drawn, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in prepared.program.parameters())


class Keeping(nn.Module):
    """Keeps what it computed, as models keep rotations: on the meta device that would be nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.scale, self.by_length = network(), None, dict[int, Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = torch.ones(1, dtype=x.dtype, device=x.device)
        kept = self.by_length.setdefault(x.shape[1], torch.ones(1, dtype=x.dtype, device=x.device))
        return self.inner(x) * self.scale * kept


def test_what_a_model_keeps_for_later_is_not_left_on_the_meta_device() -> None:
    torch.manual_seed(1)
    prepared = prepare(points(), model=Keeping().double())
    flops = count_flops(prepared)
    assert flops is not None and flops.how == "meta"
    model = prepared.program.model
    assert model.scale is None and model.by_length == {}
    assert all(not parameter.is_meta for parameter in model.parameters())


class Again(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


def test_what_is_computed_again_is_not_counted() -> None:
    torch.manual_seed(1)
    flops = count_flops(prepare(points(), model=Again().double()))
    assert flops is not None and (flops.forward, flops.backward) == by_hand()


def language(objective: NextToken | None = None, **fields: Any) -> Prepared:
    tokens = torch.randint(VOCABULARY, (60, TIME + 1), generator=torch.Generator().manual_seed(0))
    data = InMemory({"inputs": tokens[:, :-1], "targets": tokens[:, 1:]})
    return prepare(data, objective=objective or NextToken(), model=small_gpt(), **fields)


@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
def test_a_gpt_agrees_with_torchs_counter(kernel: str) -> None:
    """Torch's counter has no formula for the CPU's fused attention: 4 T^2 Q forward, and twice that backward; nor for
    products in place, as chunked logits have them.
    """
    prepared = language(NextToken(logits="full"))
    set_attention(prepared.program.model, kernel)
    objective, model = prepared.training.objective, prepared.program.model
    batch = read(prepared.training.data.train, range(BATCH))
    with FlopCounterMode(display=False) as counter:
        objective.loss(objective.forward(model, batch), batch)["cross-entropy"].backward()
    attention = 3 * 4 * TIME * TIME * model.config.width if kernel == "sdpa" else 0
    expected = counter.get_total_flops() / BATCH + attention
    flops = count_flops(prepared)
    assert flops is not None and flops.how == "meta" and flops.sample == expected
    (part,) = [each for each in micro_batches(prepared) if each.number == 0]
    assert _computed(prepared.program, part, "micro-batch").sample == expected


def test_logits_that_never_exist_count_as_much() -> None:
    whole, chunked = (count_flops(language(NextToken(logits=logits))) for logits in ("full", "chunked"))
    assert whole is not None and chunked is not None
    assert (chunked.sample, chunked.how) == (whole.sample, "meta")


def test_palms_formula_agrees_with_the_count_for_a_gpt() -> None:
    """6N + 12LHQT; the tied head is counted once, norms are small change."""
    prepared = language()
    flops = count_flops(prepared)
    palm = palm_flops_per_token(prepared.program.model, TIME)
    assert flops is not None and palm is not None
    assert palm * TIME == pytest.approx(flops.sample, rel=0.05)
    assert palm_flops_per_token(network(), TIME) is None


def test_a_rank_without_samples_counts_nothing() -> None:
    prepared = prepare(points())
    prepared.data = type(prepared.data)(0, 7)  # six samples over seven ranks: none for the first
    assert count_flops(prepared) is None


def test_peaks_are_told_by_their_source() -> None:
    known = table_peak("NVIDIA H200", "bf16")
    assert known is not None and known.flops == 989.4e12 and "data sheet of H200" in known.source
    assert table_peak("NVIDIA H100 PCIe", "bf16").flops == 756e12  # type: ignore[union-attr]
    assert table_peak("NVIDIA A100-SXM4-80GB", "bf16-weights").flops == 312e12  # type: ignore[union-attr]
    assert table_peak("NVIDIA L40S", "bf16").flops == 362e12  # type: ignore[union-attr]
    assert table_peak("Tesla V100-SXM2-16GB", "bf16") is None and table_peak("Something", "bf16") is None
    here = peak(torch.device("cpu"), "fp32")
    assert here.source.startswith("measured: best float32 product of 1024 x 1024") and here.flops > 1e8


def test_a_measured_peak_leaves_random_numbers_alone_and_is_a_rate() -> None:
    before = torch.get_rng_state()
    measured = measured_peak(alone().device, "fp32", seconds=0.05)
    assert torch.equal(before, torch.get_rng_state())
    assert 1e8 < measured.flops < 1e14


def test_utilisation_is_its_formula() -> None:
    assert utilisation(6e12, 2.0, 1e12, 4) == 0.75
