from __future__ import annotations

import math
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.sampling.steps import Indices, Numbers, drawn, surprise, tally
from tests.data.sampling.test_global import Bringing

from modelwright.base.errors import ModelwrightError
from modelwright.data.loader import Loader
from modelwright.data.order import LONGEST, Order
from modelwright.data.sampling.local_sampling import Local

DRAWS = 24_000


def ranges(length: int, parts: int) -> list[range]:
    """The parts of the data, longer ones first: written down, not computed as the code does."""
    lengths = [length // parts + (part < length % parts) for part in range(parts)]
    return [range(sum(lengths[:part]), sum(lengths[: part + 1])) for part in range(parts)]


def windows(length: int, parts: int, share: int, stride: int, steps: int) -> Indices:
    """The steps, by laying out every part's stream as a list and sliding over it."""
    columns = []
    for part, samples in enumerate(ranges(length, parts)):
        epochs = np.arange(steps * share // len(samples) + 1) * parts + part
        stream = samples[0] + Order(len(samples), 11).at(epochs[:, None], np.arange(len(samples))).ravel()
        columns.append(np.array([stream[step * stride : step * stride + share] for step in range(steps)]))
    return np.hstack(columns)


@settings(max_examples=50)
@given(
    parts=st.integers(1, 6),
    more=st.integers(0, 30),
    share=st.integers(1, 6),
    stride=st.integers(1, 6),
    steps=st.integers(1, 30),
)
def test_steps_are_windows_over_each_parts_stream(parts: int, more: int, share: int, stride: int, steps: int) -> None:
    stride = min(stride, share)
    sampling = Local(parts=parts, overlap=1 - stride / share)
    got = drawn(sampling, parts + more, batch=parts * share, steps=steps)
    assert (got == windows(parts + more, parts, share, stride, steps)).all()


@given(parts=st.integers(1, 5), more=st.integers(0, 40), share=st.integers(1, 5), passes=st.integers(1, 3))
def test_each_pass_of_a_part_holds_its_samples_once(parts: int, more: int, share: int, passes: int) -> None:
    length = parts + more
    steps = drawn(Local(parts=parts), length, batch=parts * share, steps=passes * math.ceil(length / parts))
    for part, samples in enumerate(ranges(length, parts)):
        stream = steps[:, part * share : (part + 1) * share].ravel()
        whole = stream[: len(stream) // len(samples) * len(samples)].reshape(-1, len(samples))
        assert len(whole) >= passes * share // 2
        assert (np.sort(whole) == np.array(samples)).all()


@given(
    length=st.integers(1000, LONGEST),
    parts=st.sampled_from([1, 2, 3, 7]),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
    data=st.data(),
)
def test_a_position_does_not_depend_on_its_neighbours(
    length: int, parts: int, overlap: float, data: st.DataObject
) -> None:
    positions = data.draw(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=12))
    order = Local(parts=parts, overlap=overlap).order(Numbers(length), batch=4 * parts, seed=2)
    together = order(positions)
    assert together.dtype == np.int64
    assert 0 <= together.min() <= together.max() < length
    assert together.tolist() == [int(order([position])[0]) for position in positions]


def test_one_part_is_global() -> None:
    places = np.arange(1000)
    assert (Local(parts=1).order(Numbers(90), batch=6, seed=4)(places) == Order(90, 4)(places)).all()


def test_it_never_changes() -> None:
    assert drawn(Local(parts=3), 10, batch=6, steps=3, seed=0).tolist() == GOLDEN
    assert drawn(Local(parts=2, overlap=0.5), 10**12, batch=8, steps=2, first=10**9, seed=-5).tolist() == GOLDEN_OVERLAP


@pytest.mark.parametrize(("share", "overlap", "stride"), [(10, 0.9, 1), (10, 0.3, 7), (4, 0.5, 2), (3, 0.5, 2)])
def test_mini_batches_share_the_fraction_asked_for(share: int, overlap: float, stride: int) -> None:
    length, parts = 600, 2
    steps = drawn(Local(parts=parts, overlap=overlap), length, batch=parts * share, steps=length // parts // stride)
    for begin in (0, share):
        one_part = steps[:, begin : begin + share]
        assert (one_part[1:, : share - stride] == one_part[:-1, stride:]).all()
        middle = one_part[share : length // parts // stride - share]
        used = np.unique(middle, return_counts=True)[1]
        assert used.max() == math.ceil(share / stride)


@pytest.mark.parametrize("workers", [1, 2, 3, 6])
def test_a_worker_reads_only_its_own_parts(workers: int) -> None:
    length, parts, batch = 100, 6, 12
    order = Local(parts=parts).order(Numbers(length), batch=batch, seed=1)
    for rank in range(workers):
        part = (rank * batch // workers, (rank + 1) * batch // workers)
        loader = Loader(Numbers(length), order, batch=batch, part=part, micro_batch=2, steps=60)
        read = {int(index) for step in loader for micro_batch in step for index in micro_batch["inputs"]}
        mine = ranges(length, parts)[rank * parts // workers : (rank + 1) * parts // workers]
        assert read == {index for samples in mine for index in samples}


def _joint(steps: Indices) -> float:
    """Surprise of the pairs of permutations that two parts of three samples have in their epochs."""
    first, second = steps[:, :3], steps[:, 3:] - 3
    pairs = list(product(permutations(range(3)), repeat=2))
    return surprise(tally(np.hstack([first, second])), {a + b: len(steps) / len(pairs) for a, b in pairs})


def test_parts_and_epochs_are_unrelated() -> None:
    steps = drawn(Local(parts=2), 6, batch=6, steps=DRAWS)
    assert abs(_joint(steps)) < 4
    shifted = np.hstack([steps[:-1, :3], steps[1:, 3:]])
    assert abs(_joint(shifted)) < 4
    following = np.hstack([steps[:-1, :3], steps[1:, :3] + 3])
    assert abs(_joint(following)) < 4


def test_the_judge_notices_parts_of_one_order() -> None:
    steps = drawn(Local(parts=2), 6, batch=6, steps=DRAWS)
    assert _joint(np.hstack([steps[:, :3], steps[:, :3] + 3])) > 10


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"parts": 0}, "cannot be cut in 0 parts"),
        ({"parts": 2, "overlap": 1.0}, "cannot overlap by 1.0"),
        ({"parts": 2, "overlap": -0.1}, "cannot overlap by -0.1"),
        ({"parts": 2, "overlap": math.nan}, "cannot overlap by nan"),
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, float], said: str) -> None:
    with pytest.raises(ModelwrightError, match=said):
        Local(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sampling", "length", "batch", "said", "remedy"),
    [
        (Local(parts=4), 100, 10, "10 samples cannot be shared by 4 parts", "batch: 8 or 12"),
        (Local(parts=4), 100, 3, "3 samples cannot be shared by 4 parts", "batch: 4"),
        (Local(parts=4), 3, 8, "3 samples cannot be cut in 4 parts", "parts: 3 or less"),
        (Local(parts=4, overlap=0.1), 100, 8, "move by 2 samples", "from 0.5 to 0.5"),
        (Local(parts=4, overlap=0.99), 100, 40, "move by 0 samples", "from 0.1 to 0.9"),
        (Local(parts=4, overlap=0.5), 100, 4, "move by 0 samples", "a larger batch"),
    ],
)
def test_what_does_not_fit_is_refused(sampling: Local, length: int, batch: int, said: str, remedy: str) -> None:
    with pytest.raises(ModelwrightError, match=said) as refused:
        sampling.order(Numbers(length), batch=batch, seed=0)
    assert remedy in refused.value.remedy


def test_data_with_an_order_of_its_own_is_refused() -> None:
    with pytest.raises(ModelwrightError, match="order that the data brings"):
        Local(parts=2).order(Bringing(10), batch=2, seed=0)


def test_negative_positions_are_refused() -> None:
    with pytest.raises(ModelwrightError, match="positions count from 0"):
        Local(parts=2).order(Numbers(10), batch=2, seed=0)([3, -1])


GOLDEN = [[0, 2, 6, 4, 7, 9], [3, 1, 5, 5, 8, 8], [3, 1, 6, 4, 7, 9]]
GOLDEN_OVERLAP = [
    [299052715589, 483039726769, 10329344884, 468561815600, 643340195835, 682075708526, 662132003411, 552946032072],
    [10329344884, 468561815600, 156889152198, 420821756227, 662132003411, 552946032072, 655081234981, 794216214666],
]
