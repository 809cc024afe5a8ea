from __future__ import annotations

import pickle

import pytest

from modelwright.base.errors import (
    MissingExtra,
    Mistakes,
    ModelwrightError,
    RunFailed,
    Stopped,
    nearest,
    raise_all,
)


def test_an_error_says_what_where_and_what_to_do() -> None:
    error = ModelwrightError("it is wrong", where="a.yaml:3", remedy="mend it")
    assert str(error) == "it is wrong\n  where: a.yaml:3\n  to do: mend it"
    assert error.to_json() == {"what": "it is wrong", "where": "a.yaml:3", "remedy": "mend it"}


def test_exit_codes_are_those_documented() -> None:
    assert ModelwrightError("").exit_code == 2
    assert RunFailed("").exit_code == 3
    assert Stopped("", signal=2).exit_code == 130
    assert Stopped("", signal=15).exit_code == 143


@pytest.mark.parametrize(
    "error",
    [
        RunFailed("a", where="b", remedy="c"),
        MissingExtra("text", "bpe"),
        Mistakes([ModelwrightError("a", where="x"), ModelwrightError("b")]),
    ],
)
def test_errors_cross_process_borders(error: ModelwrightError) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(copy) is type(error)
    assert str(copy) == str(error)


def test_one_mistake_stays_itself_and_several_come_together() -> None:
    raise_all([])
    one, two = ModelwrightError("a", where="x"), ModelwrightError("b", remedy="y")
    with pytest.raises(ModelwrightError) as caught:
        raise_all([one])
    assert caught.value is one
    with pytest.raises(Mistakes) as caught:
        raise_all([one, two])
    assert str(caught.value) == "a\n  where: x\nb\n  to do: y"


def test_nearest_names_the_likeliest_or_lists_all() -> None:
    assert nearest("layres", ["layers", "width"]) == "did you mean 'layers'?"
    assert nearest("zzz", ["b", "a"]) == "known: a, b"
    assert nearest("zzz", []) == ""
