from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from tests.data.mixture.examples import mixture, texts, written

from modelwright.base.choice import Family
from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.data.batches import read
from modelwright.data.manifest import verify
from modelwright.data.mixture.mixture import Mixture, Phase, Source
from modelwright.data.npy import NpyArrays
from modelwright.data.tokenizers.bpe import Bpe
from modelwright.data.tokenizers.byte import Byte
from modelwright.data.tokenizers.local import Local
from modelwright.recipe.explain import explain, to_yaml
from modelwright.recipe.jsonschema import json_schema
from modelwright.recipe.load import read as read_recipe


def opened(technique: Mixture, cache: Path) -> Any:
    return technique.open(technique.prepare(cache))


def pair(one: Any, other: Any, **fields: Any) -> Mixture:
    return Mixture(sources={"sea": Source(data=one, weight=3), "city": Source(data=other)}, **fields)


def test_one_tokenizer_for_all(tmp_path: Path) -> None:
    splits = opened(mixture(tmp_path), tmp_path / "cache")
    alone = texts(tmp_path, "sea")
    own = alone.open(alone.prepare(tmp_path / "cache"))
    assert splits.tokenizer.token_bytes().tolist() == own.tokenizer.token_bytes().tolist()
    assert splits.facts == own.facts
    inputs = read(splits.train, range(len(own.train), len(splits.train)))["inputs"]
    text = splits.tokenizer.decode(inputs.ravel().tolist())
    assert b"market river" in text or b"river market" in text  # the second source, in the first one's tokens


def test_what_is_judged_by(tmp_path: Path) -> None:
    technique = mixture(tmp_path)
    splits = opened(technique, tmp_path / "cache")
    parts = {}
    for name, source in technique.sources.items():
        data = replace(source.data, tokenizer=Byte())  # type: ignore[type-var]
        parts[name] = dict(data.open(data.prepare(tmp_path / "bytes")).documents)
    told = dict(splits.documents)
    assert told == {f"{name}/{file}": text for name, part in parts.items() for file, text in part.items()}
    scored = int(read(splits.held_out, range(len(splits.held_out)))["bytes"].sum())
    assert scored == sum(map(len, told.values()))


def test_shares_hold_in_what_is_read(tmp_path: Path) -> None:
    splits = opened(pair(texts(tmp_path, "sea", tokenizer=Byte()), texts(tmp_path, "city", tokenizer=Byte())), tmp_path)
    indices = splits.train.order(seed=1)(np.arange(80))
    assert (indices < splits.train.begins["city"]).sum() == 60


@pytest.mark.parametrize(
    ("tokenizers", "fields", "said"),
    [
        ((Bpe(), Bpe()), {}, "'sea' would learn a tokenizer of its own"),
        ((Byte(), Bpe()), {}, "'city' would learn a tokenizer of its own"),
        ((Bpe(), Byte()), {"tokenizer_from": "sea"}, "'city' names a tokenizer of its own"),
        ((Bpe(), Bpe()), {"tokenizer_from": "see"}, "no source 'see'"),
    ],
)
def test_tokenizers_that_would_differ_are_refused_before_anything_is_read(
    tmp_path: Path, tokenizers: tuple[Any, Any], fields: dict[str, Any], said: str
) -> None:
    one, other = (texts(tmp_path, name, tokenizer=each) for name, each in zip(("sea", "city"), tokenizers, strict=True))
    with pytest.raises(ModelwrightError, match=said):
        pair(one, other, **fields)


def learnt(folder: Path, name: str) -> Path:
    data = texts(folder, name, tokenizer=Bpe(vocabulary=270))
    return data.prepare(folder / "learnt")


def test_tokenizers_of_one_size_and_different_words_are_refused(tmp_path: Path) -> None:
    folders = [learnt(tmp_path, name) for name in ("sea", "city")]
    sizes = {Local(folder=str(folder)).load(folder).vocabulary for folder in folders}
    assert len(sizes) == 1  # so the vocabulary tells nothing
    one, other = (
        texts(tmp_path, name, tokenizer=Local(folder=str(folder)))
        for name, folder in zip(("sea", "city"), folders, strict=True)
    )
    with pytest.raises(ModelwrightError, match="'sea' and 'city' have different tokenizers"):
        opened(pair(one, other), tmp_path / "cache")
    same = replace(other, tokenizer=one.tokenizer)
    assert opened(pair(one, same), tmp_path / "cache").facts["vocabulary"] == sizes.pop()


def npy(folder: Path, name: str, classes: int) -> NpyArrays:
    random = np.random.default_rng(0)
    np.save(folder / f"{name}-x.npy", random.normal(size=(20, 3)).astype(np.float32))
    np.save(folder / f"{name}-y.npy", np.arange(20) % classes)
    return NpyArrays(inputs=str(folder / f"{name}-x.npy"), targets=str(folder / f"{name}-y.npy"))


def test_facts_must_agree(tmp_path: Path) -> None:
    splits = opened(pair(npy(tmp_path, "a", 3), npy(tmp_path, "b", 3)), tmp_path / "cache")
    assert splits.facts == {"features": 3, "classes": 3}
    assert len(splits.train) == 36 and len(splits.held_out) == 4
    with pytest.raises(ModelwrightError, match="differ in facts"):
        opened(pair(npy(tmp_path, "a", 3), npy(tmp_path, "b", 4)), tmp_path / "cache")
    with pytest.raises(ModelwrightError, match="different tokenizers"):
        opened(pair(npy(tmp_path, "a", 3), texts(tmp_path, "city", tokenizer=Byte())), tmp_path / "cache")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"phases": (Phase(at=10, weights={"sea": 1}),)}, "at 10 gives no weight to 'city'"),
        ({"phases": (Phase(at=10, weights={"sea": 1, "city": 1, "sky": 1}),)}, "names 'sky', which is no source"),
        ({"phases": (Phase(at=10, weights={"sea": 0, "city": 0}),)}, "no source has a weight"),
        ({"phases": tuple(Phase(at=at, weights={"sea": 1, "city": 1}) for at in (20, 10))}, "in order"),
    ],
)
def test_phases_that_say_too_little_are_refused(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    one, other = npy(tmp_path, "a", 3), npy(tmp_path, "b", 3)
    with pytest.raises(ModelwrightError) as caught:
        pair(one, other, **fields)
    assert said in str(caught.value)


def test_mistakes_are_refused(tmp_path: Path) -> None:
    one = npy(tmp_path, "a", 3)
    with pytest.raises(ModelwrightError, match="needs sources"):
        Mixture(sources={})
    with pytest.raises(ModelwrightError, match="no dataclass with prepare"):
        pair(one, object())
    with pytest.raises(ModelwrightError, match="begins at 0"):
        Phase(at=0, weights={})
    with pytest.raises(ModelwrightError, match="no share"):
        Source(data=one, weight=float("inf"))
    with pytest.raises(ModelwrightError, match="differ in context: 16 in 'sea', 8 in 'city'"):
        pair(texts(tmp_path, "sea", tokenizer=Byte()), texts(tmp_path, "city", tokenizer=Byte(), context=8))


def test_a_source_that_fails_is_named(tmp_path: Path) -> None:
    bad = texts(tmp_path, "city", tokenizer=Byte())
    shutil.rmtree(tmp_path / "city")
    with pytest.raises(ModelwrightError) as caught:
        pair(texts(tmp_path, "sea", tokenizer=Byte()), bad).prepare(tmp_path / "cache")
    assert caught.value.where == "data.sources.city.data.files"


def test_what_is_never_drawn_is_told(tmp_path: Path) -> None:
    one, other = npy(tmp_path, "a", 3), npy(tmp_path, "b", 3)
    told: list[Event] = []
    technique = Mixture(sources={"sea": Source(data=one), "city": Source(data=other, weight=0)})
    with listening(told.append):
        technique.prepare(tmp_path / "cache")
        replace(technique, phases=(Phase(at=9, weights={"sea": 1, "city": 1}),)).prepare(tmp_path / "cache")
    assert [event.kind for event in told] == ["source-not-drawn"]


def test_the_folder_knows_its_sources(tmp_path: Path) -> None:
    technique = pair(texts(tmp_path, "sea", tokenizer=Byte()), texts(tmp_path, "city", tokenizer=Byte()))
    cache = tmp_path / "cache"
    folder = technique.prepare(cache)
    verify(folder)
    other_weights = replace(technique, phases=(Phase(at=5, weights={"sea": 1, "city": 9}),))
    assert other_weights.prepare(cache) == folder  # the same samples
    moved = cache.rename(tmp_path / "moved") / folder.name
    assert len(technique.open(moved).train) > 0
    third = Mixture(sources={**technique.sources, "third": Source(data=npy(tmp_path, "a", 3))})
    with pytest.raises(ModelwrightError, match="prepared of sea, city, not of sea, city, third"):
        third.open(moved)
    gone = technique.sources["city"].data.prepare(moved.parent)  # type: ignore[attr-defined]
    shutil.rmtree(gone)
    with pytest.raises(ModelwrightError, match="prepared data of the source 'city' is gone"):
        technique.open(moved)
    technique.prepare(moved.parent)
    assert len(technique.open(moved).train) > 0


def test_damage_in_a_source_is_found(tmp_path: Path) -> None:
    technique = pair(texts(tmp_path, "sea", tokenizer=Byte()), texts(tmp_path, "city", tokenizer=Byte()))
    technique.prepare(tmp_path)
    tokens = technique.sources["city"].data.prepare(tmp_path) / "train.bin"  # type: ignore[attr-defined]
    content = bytearray(tokens.read_bytes())
    content[100] ^= 1
    tokens.write_bytes(content)
    with pytest.raises(ModelwrightError, match="altered") as caught:
        technique.prepare(tmp_path)
    assert caught.value.where == str(tokens)


FAMILY = Family("data", {"mixture": "modelwright.data.mixture.mixture:Mixture"})


@dataclass(frozen=True, kw_only=True)
class Job:
    """A recipe of data only."""

    data: Annotated[object, FAMILY]


RECIPE = """
data:
  use: mixture
  tokenizer_from: sea
  sources:
    sea:
      weight: 0.7
      data: {{use: text-files, files: ["*.txt"], root: {place}/sea, context: 16, tokenizer: {{vocabulary: 300}}}}
    city:
      weight: 0.3
      data: {{use: text-files, files: ["*.txt"], root: {place}/city, context: 16}}
  phases:
    - {{at: 20k, weights: {{sea: 1, city: 1}}}}
"""


def test_recipes_hold_mixtures(tmp_path: Path) -> None:
    for name in ("sea", "city"):
        written(tmp_path, name)
    loaded = read_recipe(RECIPE.format(place=tmp_path), Job)
    technique: Any = loaded.recipe.data
    assert technique.phases == (Phase(at=20_000, weights={"sea": 1, "city": 1}),)
    assert technique.sources["sea"].data.tokenizer == Bpe(vocabulary=300)
    assert read_recipe(to_yaml(loaded.recipe), Job).recipe == loaded.recipe
    shown = {row.path: (row.value, row.origin) for row in explain(loaded)}
    assert shown["data.sources.sea.weight"] == (0.7, "recipe:7")
    assert shown["data.sources.city.data.held_out"] == (0.05, "default")
    assert len(opened(technique, tmp_path / "cache").train) > 0


@pytest.mark.parametrize(
    ("change", "where", "said"),
    [
        (("weight: 0.3", "weight: -1"), "recipe:10 (data.sources.city.weight)", "no share"),
        (("weight: 0.3", "wieght: 3"), "recipe:10 (data.sources.city.wieght)", "did you mean 'weight'"),
        (("20k", "0"), "recipe:13 (data.phases.0.at)", "a phase begins at 0"),
        (("city: 1", "town: 1"), "recipe:12 (data.phases)", "gives no weight to 'city'"),
        (("tokenizer_from: sea", "tokenizer_from: se"), "recipe:4 (data.tokenizer_from)", "did you mean 'sea'"),
        (("  tokenizer_from: sea\n", ""), "recipe:4 (data.sources)", "tokenizer of its own"),
        (("/city, context: 16", "/city, context: 8"), "recipe:5 (data.sources)", "differ in context"),
    ],
)
def test_mistakes_in_recipes_know_their_place(change: tuple[str, str], where: str, said: str) -> None:
    with pytest.raises(ModelwrightError) as caught:
        read_recipe(RECIPE.format(place="nowhere").replace(*change), Job)
    assert where in str(caught.value) and said in str(caught.value)


def test_editors_know_mixtures() -> None:
    with listening(lambda event: None):
        schema = json_schema(Job)
    fields = schema["$defs"]["data.mixture"]["properties"]
    source = fields["sources"]["additionalProperties"]["properties"]
    assert source["data"]["$ref"] == "#/$defs/data"
    assert source["weight"]["default"] == 1.0
    assert fields["phases"]["items"]["required"] == ["at", "weights"]
