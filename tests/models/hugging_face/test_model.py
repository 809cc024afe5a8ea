from __future__ import annotations

import copy
import json
import socket
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.models.starts.depth import discriminative_rules, layer_patterns
from modelwright.models.starts.freezing import freeze
from modelwright.models.starts.heads import find_head, replace_head
from modelwright.models.starts.start import Start
from modelwright.models.starts.starting import load_start
from modelwright.objectives.classification import Classification
from modelwright.objectives.next_token import NextToken
from modelwright.optim.adamw import AdamW
from modelwright.parallel.recompute import set_recompute

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own imports
    transformers = pytest.importorskip("transformers")

from modelwright.models.hugging_face.adapter import language_parts
from modelwright.models.hugging_face.folder import save_transformers
from modelwright.models.hugging_face.model import Transformers

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**SIZES, "num_key_value_heads": 1},
    "qwen2": {**SIZES, "num_key_value_heads": 1},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16},
    "bert": {**SIZES, "max_position_embeddings": 16},
    "vit": {**SIZES, "image_size": 8, "patch_size": 4, "num_channels": 1},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0},
    "cohere": {**SIZES, "num_key_value_heads": 1, "logit_scale": 0.5},
}
AUTO = {
    "causal-lm": transformers.AutoModelForCausalLM,
    "seq2seq-lm": transformers.AutoModelForSeq2SeqLM,
    "sequence-classification": transformers.AutoModelForSequenceClassification,
    "image-classification": transformers.AutoModelForImageClassification,
    "masked-lm": transformers.AutoModelForMaskedLM,
    "features": transformers.AutoModel,
}
TASKS = [
    ("llama", "causal-lm"),
    ("qwen2", "causal-lm"),
    ("gpt2", "causal-lm"),
    ("bert", "masked-lm"),
    ("bert", "sequence-classification"),
    ("llama", "sequence-classification"),
    ("vit", "image-classification"),
    ("t5", "seq2seq-lm"),
    ("bert", "features"),
]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever asks the network fails the test."""

    def refused(*arguments: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


def ours(kind: str, task: str = "causal-lm", seed: int = 0, **fields: Any) -> Any:
    torch.manual_seed(seed)
    sizes = {"vocabulary": 32, "classes": 3}
    return Transformers(config={"model_type": kind, **CONFIGS[kind]}, task=task, **{**sizes, **fields}).build()


def theirs(kind: str, task: str = "causal-lm", seed: int = 0, **fields: Any) -> Any:
    named = {} if kind == "vit" else {"vocab_size": 32}
    config = transformers.AutoConfig.for_model(kind, **CONFIGS[kind], **named, num_labels=3, **fields)
    torch.manual_seed(seed)
    return AUTO[task].from_config(config)


def tokens(*shape: int) -> Tensor:
    return torch.randint(1, 32, shape, generator=torch.Generator().manual_seed(1))


def inputs_of(kind: str) -> tuple[Any, ...]:
    if kind == "vit":
        return (torch.rand(3, 1, 8, 8),)
    if kind == "t5":
        return tokens(3, 7), torch.arange(7) < torch.tensor([[7], [4], [2]]), tokens(3, 5)
    return (tokens(3, 7),)


def asked_directly(model: Any, kind: str, inputs: tuple[Any, ...]) -> Tensor:
    if kind == "t5":
        mask, decoder = inputs[1].long(), inputs[2]
        return model(input_ids=inputs[0], attention_mask=mask, decoder_input_ids=decoder).logits  # type: ignore[no-any-return]
    outputs = model(inputs[0])
    return outputs.logits if hasattr(outputs, "logits") else outputs.last_hidden_state  # type: ignore[no-any-return]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A language model that ``transformers`` itself saved."""
    theirs("llama", seed=5).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


@pytest.mark.parametrize(("kind", "task"), TASKS)
def test_same_names_same_weights_same_outputs_as_transformers(kind: str, task: str) -> None:
    fields = {"pad_token_id": 0} if (kind, task) == ("llama", "sequence-classification") else {}
    model, reference, inputs = ours(kind, task), theirs(kind, task, **fields).train(), inputs_of(kind)
    assert model.training
    assert model.state_dict().keys() == reference.state_dict().keys()
    if fields:  # their padding row is zero from the start; ours learns
        reference.load_state_dict(model.state_dict())
    with torch.no_grad():
        outputs = model.eval()(*inputs)
        assert isinstance(outputs, Tensor)
        assert torch.equal(outputs, asked_directly(reference.eval(), kind, inputs))


def test_everything_of_transformers_still_answers() -> None:
    model, reference = ours("gpt2").eval(), theirs("gpt2").eval()
    assert isinstance(model, transformers.GPT2LMHeadModel)
    assert torch.equal(model(input_ids=tokens(2, 5)).logits, model(tokens(2, 5)))
    settings = {"max_new_tokens": 4, "do_sample": False, "attention_mask": torch.ones(2, 5), "pad_token_id": 0}
    assert torch.equal(model.generate(tokens(2, 5), **settings), reference.generate(tokens(2, 5), **settings))
    twin = copy.deepcopy(model)
    assert torch.equal(twin(tokens(2, 5)), model(tokens(2, 5)))


def test_a_folder_gives_the_losses_that_transformers_gives(folder: Path) -> None:
    model = Transformers(config=str(folder), weights=True, vocabulary=20).build()  # fewer tokens than it knows will do
    reference, text = AUTO["causal-lm"].from_pretrained(folder), tokens(4, 9)
    batch = {"inputs": text[:, :-1], "targets": text[:, 1:].clone()}
    batch["targets"][0, :3] = -100
    labels = torch.cat((text[:, :1], batch["targets"]), dim=1)
    objective = NextToken()
    total = objective.loss(objective.forward(model, batch), batch)["cross-entropy"]
    loss = total / objective.counts(batch)["cross-entropy"]
    assert loss.item() == pytest.approx(reference(input_ids=text, labels=labels).loss.item(), rel=1e-6)
    fresh = Transformers(config=str(folder)).build()
    assert objective.loss(objective.forward(fresh, batch), batch)["cross-entropy"].item() != pytest.approx(total.item())


def test_fine_tuning_is_what_a_loop_by_hand_does(folder: Path) -> None:
    model, objective = Transformers(config=str(folder), weights=True).build(), NextToken()
    optimizer = AdamW(lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0).build(model)
    reference = AUTO["causal-lm"].from_pretrained(folder).train()
    by_hand = torch.optim.AdamW(reference.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    found, expected = [], []
    for step in range(5):
        text = torch.randint(32, (4, 9), generator=torch.Generator().manual_seed(step))
        batch = {"inputs": text[:, :-1], "targets": text[:, 1:]}
        total = objective.loss(objective.forward(model, batch), batch)["cross-entropy"]
        loss = total / objective.counts(batch)["cross-entropy"]
        wanted = reference(input_ids=text, labels=text).loss
        for each, stepper in ((loss, optimizer), (wanted, by_hand)):
            stepper.zero_grad()
            each.backward()
            stepper.step()
        found.append(loss.item())
        expected.append(wanted.item())
    assert found == pytest.approx(expected, rel=1e-5)
    assert found[0] != pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize(("kind", "pad"), [("bert", 0), ("llama", None), ("llama", 2), ("gpt2", 2)])
def test_padding_changes_nothing(kind: str, pad: int | None) -> None:
    model = ours(kind, "sequence-classification").eval()
    model.config.pad_token_id = model.config.pad_token_id if pad is None else pad  # a folder's own, not the data's 0
    text, lengths = tokens(3, 7), torch.tensor([7, 4, 2])
    mask = torch.arange(7) < lengths.unsqueeze(1)
    padded = text * mask
    alone = torch.cat([model(row[:length].unsqueeze(0)) for row, length in zip(text, lengths, strict=True)])
    for found in (
        model(padded, lengths),
        model(padded, lengths=lengths),
        model(padded, mask),
        model(padded, input_mask=mask),
    ):
        assert torch.allclose(found, alone, atol=1e-6)
    assert kind != "bert" or not torch.allclose(model(padded), alone, atol=1e-6)


def test_a_text_that_ends_in_token_0_is_read_to_its_end() -> None:
    model = ours("gpt2", "sequence-classification").eval()
    whole, short = torch.tensor([[5, 6, 0]]), torch.tensor([[5, 6]])
    assert not torch.allclose(model(whole, torch.tensor([3])), model(short, torch.tensor([2])), atol=1e-5)


def test_bytes_of_images_become_shares() -> None:
    model = ours("vit", "image-classification").eval()
    images = torch.randint(256, (2, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(model(images), model(images.float() / 255))
    batch = {"inputs": images, "targets": torch.tensor([0, 2])}
    assert Classification().forward(model, batch).shape == (2, 3)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_language_models_offer_features_and_head(kind: str) -> None:
    model = ours(kind).eval()
    names = set(model.state_dict())
    parts = language_parts(model)
    assert parts is not None
    features, head = parts
    assert features(tokens(2, 5)).shape == (2, 5, 16)
    assert torch.equal(head(features(tokens(2, 5))), model(tokens(2, 5)))
    assert set(model.state_dict()) == names
    assert language_parts(ours("bert", "sequence-classification")) is None


def test_objectives_take_the_head_apart_and_pass_lengths() -> None:
    model, batch = ours("llama").double().eval(), {"inputs": tokens(2, 5), "targets": tokens(2, 5)}
    losses = []
    for logits in ("chunked", "full"):
        objective = NextToken(logits=logits)  # type: ignore[arg-type]
        losses.append(objective.loss(objective.forward(model, batch), batch)["cross-entropy"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    classifier = ours("bert", "sequence-classification").eval()
    batch = {"inputs": tokens(2, 5), "lengths": torch.tensor([5, 2]), "targets": torch.tensor([0, 1])}
    found = Classification().forward(classifier, batch)
    assert torch.equal(found, classifier(batch["inputs"], batch["lengths"]))
    assert not torch.allclose(found, classifier(batch["inputs"]))


def test_a_model_that_scales_its_logits_offers_no_parts() -> None:
    model = ours("cohere").eval()
    assert language_parts(model) is None
    assert not hasattr(model, "features")
    assert not torch.equal(model.lm_head(model.base_model(tokens(2, 5)).last_hidden_state), model(tokens(2, 5)))


@pytest.mark.parametrize(("kind", "task"), [("llama", "causal-lm"), ("gpt2", "causal-lm"), ("t5", "seq2seq-lm")])
def test_recomputing_layers_leaves_the_gradients(kind: str, task: str) -> None:
    plain, sparing = (ours(kind, task).double().eval() for _ in range(2))
    assert len(set_recompute(sparing, "full")) == (4 if kind == "t5" else 2)
    for model in (plain, sparing):
        model(*inputs_of(kind)).square().sum().backward()
    wanted = {name: parameter.grad for name, parameter in plain.named_parameters()}
    for name, parameter in sparing.named_parameters():
        assert torch.allclose(parameter.grad, wanted[name], rtol=1e-12, atol=0), name


def test_what_is_saved_opens_with_from_pretrained(tmp_path: Path) -> None:
    for kind, task in (("gpt2", "causal-lm"), ("bert", "sequence-classification"), ("t5", "seq2seq-lm")):
        model = ours(kind, task, seed=3).eval()
        save_transformers(model, tmp_path / kind)
        reference = AUTO[task].from_pretrained(tmp_path / kind).eval()
        assert torch.equal(asked_directly(reference, kind, inputs_of(kind)), model(*inputs_of(kind)))
        assert json.loads((tmp_path / kind / "config.json").read_text())["architectures"] == [type(reference).__name__]
    with pytest.raises(ModelwrightError, match="something is there already"):
        save_transformers(model, tmp_path / "t5")
    with pytest.raises(ModelwrightError, match="no model of transformers"):
        save_transformers(nn.Linear(1, 1), tmp_path / "linear")
    assert {path.name for path in tmp_path.iterdir()} == {"gpt2", "bert", "t5"}


def test_a_folder_is_a_start_too_whole_or_sharded_with_tied_weights_named_once(tmp_path: Path) -> None:
    reference = theirs("gpt2", seed=5).eval()
    reference.save_pretrained(tmp_path / "whole")
    reference.save_pretrained(tmp_path / "shards", max_shard_size="4KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for folder in (tmp_path / "whole", tmp_path / "shards"):
        model = ours("gpt2").eval()
        loaded = load_start(model, Start(folder=folder))
        assert loaded.fresh == ()
        assert torch.equal(model(tokens(2, 5)), reference(tokens(2, 5)).logits)


def test_the_body_of_another_task_starts_by_the_remedy_that_is_told(tmp_path: Path) -> None:
    theirs("bert", "features", seed=5).save_pretrained(tmp_path / "body")
    model = ours("bert", "sequence-classification")
    with pytest.raises(ModelwrightError, match="missing in the source") as raised:
        load_start(model, Start(folder=tmp_path / "body"))
    assert '"embeddings.": "bert.embeddings."' in raised.value.remedy
    assert "missing: allow" in raised.value.remedy
    rename = {f"{part}.": f"bert.{part}." for part in ("embeddings", "encoder", "pooler")}
    loaded = load_start(model, Start(folder=tmp_path / "body", rename=rename, head="auto"))
    assert loaded.fresh == ("classifier.weight", "classifier.bias")
    reference = theirs("bert", "features", seed=5)
    assert torch.equal(model.bert.pooler.dense.weight, reference.pooler.dense.weight)


def test_a_folder_with_another_head_gets_a_new_one_and_says_so(tmp_path: Path) -> None:
    theirs("bert", "sequence-classification", seed=5).save_pretrained(tmp_path / "bert")
    events: list[Event] = []
    with listening(events.append):
        technique = Transformers(config=str(tmp_path / "bert"), weights=True, task="sequence-classification", classes=7)
        model = technique.build()
    assert model(tokens(2, 5)).shape == (2, 7)
    assert [event.kind for event in events] == ["weights-fresh"]
    assert events[0].details["names"] == ["classifier.bias", "classifier.weight"]
    reference = theirs("bert", "sequence-classification", seed=5)
    assert torch.equal(model.bert.pooler.dense.weight, reference.bert.pooler.dense.weight)  # type: ignore[arg-type, union-attr]


def test_depth_head_and_freezing_read_the_names_of_transformers() -> None:
    model = ours("bert", "sequence-classification")
    assert layer_patterns(model) == ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    assert find_head(model) == "classifier"
    rules = dict(discriminative_rules(model, 0.5))
    assert rules["bert.embeddings.word_embeddings.weight"] == 0.125
    assert rules["bert.encoder.layer.1.*"] == 0.5
    replace_head(model, 9, seed=0)
    assert model(tokens(2, 5)).shape == (2, 9)
    assert model.config.num_labels == 9
    assert model.classifier.weight.std() < 0.03  # as transformers draws it, not as nn.Linear does
    freeze(model, ["bert"])
    assert [name for name, each in model.named_parameters() if each.requires_grad] == [
        "classifier.weight",
        "classifier.bias",
    ]
    assert layer_patterns(ours("t5", "seq2seq-lm")) == [
        f"{half}.block.{i}" for half in ("encoder", "decoder") for i in (0, 1)
    ]


def test_dtype_and_attention_are_as_asked(folder: Path) -> None:
    model = Transformers(config=str(folder), weights=True, dtype="bfloat16", attention="eager").build()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    exact = Transformers(config=str(folder), weights=True).build()
    assert exact.config._attn_implementation == "sdpa"  # type: ignore[union-attr]
    assert model.config._attn_implementation == "eager"  # type: ignore[union-attr]
    assert torch.equal(model.state_dict()["lm_head.weight"], exact.state_dict()["lm_head.weight"].bfloat16())


@pytest.mark.parametrize(
    ("fields", "what", "where", "remedy"),
    [
        ({"config": {"hidden_size": 8}}, "model_type", "config", "model_type: llama"),
        ({"config": {"model_type": "lama"}}, "no model_type 'lama'", "config", "did you mean 'llama'?"),
        ({"config": {"model_type": "llama", "hiden_size": 8}}, "no field 'hiden_size'", "config", "'hidden_size'"),
        ({"config": {"model_type": "llama", "hidden_size": "x"}}, "hidden_size", "model_type: llama", ""),
        ({"config": {"model_type": "llama", "vocab_size": 9}, "vocabulary": 10}, "vocab_size of 9", "vocabulary", ""),
        ({"config": {"model_type": "t5"}}, "no 't5' for the task 'causal-lm'", "task", "seq2seq-lm"),
        ({"config": {"model_type": "llama"}, "weights": True}, "needs a folder", "weights", "path of the folder"),
        ({"config": {"model_type": "bert"}, "task": "sequence-classification"}, "classes", "classes", "model.classes"),
        ({"config": "meta-llama/Llama-3.2-1B"}, "nothing is downloaded", "meta-llama/Llama-3.2-1B", "copy"),
        ({"task": "causal"}, "task is not 'causal'", "task", "causal-lm"),
        ({"vocabulary": 0}, "at least 1", "vocabulary", ""),
    ],
)
def test_mistakes_are_told(fields: dict[str, Any], what: str, where: str, remedy: str) -> None:
    with pytest.raises(ModelwrightError) as raised:
        Transformers(**fields).build()
    assert what in raised.value.what
    assert raised.value.where == where
    assert remedy in raised.value.remedy


def test_a_folder_of_another_model_or_without_weights_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 20}))
    with pytest.raises(ModelwrightError, match=r"shape \[\d+, \d+\] in the folder"):
        Transformers(config=str(folder), weights=True).build()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelwrightError, match="cannot build it") as raised:
        Transformers(config=str(folder), weights=True).build()
    assert raised.value.where == str(folder)


CODE = """
import pathlib
import torch
from transformers import PretrainedConfig, PreTrainedModel

pathlib.Path({mark!r}).touch()


class OddConfig(PretrainedConfig):
    model_type = "odd"
    vocab_size = 32


class OddModel(PreTrainedModel):
    config_class = OddConfig

    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Embedding(config.vocab_size, 4)
        self.post_init()

    def forward(self, input_ids):
        return {{"last_hidden_state": self.layer(input_ids)}}
"""


def test_code_in_a_folder_runs_on_the_users_word_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    folder, mark = tmp_path / "odd", tmp_path / "ran"
    folder.mkdir()
    (folder / "code.py").write_text(CODE.format(mark=str(mark)))
    config = {"model_type": "odd", "auto_map": {"AutoConfig": "code.OddConfig", "AutoModel": "code.OddModel"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelwrightError, match="Python files of its own") as raised:
        Transformers(config=str(folder), task="features").build()
    assert raised.value.remedy.endswith("trust_remote_code: true")
    assert not mark.exists()
    elsewhere = {**config, "auto_map": {"AutoConfig": "someone/odd--code.OddConfig"}}
    (folder / "config.json").write_text(json.dumps(elsewhere))
    with pytest.raises(ModelwrightError, match="another repository"):
        Transformers(config=str(folder), task="features", trust_remote_code=True).build()
    assert not mark.exists()
