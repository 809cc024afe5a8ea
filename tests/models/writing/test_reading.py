"""A model with a cache says what it says without."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from modelwright.base.choice import import_path
from modelwright.models.attention import set_attention
from modelwright.models.gpt import GPT, GPTModule
from modelwright.models.sequence_to_sequence import SequenceToSequence
from modelwright.models.writing.cache import Cache
from modelwright.models.writing.drawing import Sampling
from modelwright.models.writing.reading import Anew, Decoding, Reader, Recalling, View, reader_of
from modelwright.models.writing.sampling import Continuation, continue_texts

EXACT = {"rtol": 0.0, "atol": 1e-12}


def model_of(**settings: object) -> GPTModule:
    torch.manual_seed(0)
    model = GPT(**{"vocabulary": 29, "layers": 2, "width": 24, "heads": 4, "kv_heads": 2, **settings})  # type: ignore[arg-type]
    module = model.build().double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(29, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


class Both:
    """Asks two readers and compares what they say; the second one answers."""

    def __init__(self, first: Reader, second: Reader) -> None:
        self.readers = first, second
        self.asked = 0

    def __call__(self, views: list[View]) -> Tensor:
        first, second = (reader(views) for reader in self.readers)
        torch.testing.assert_close(second, first, **EXACT)
        self.asked += 1
        return second


class Counted(nn.Module):
    """Counts the tokens that a model reads."""

    def __init__(self, model: GPTModule) -> None:
        super().__init__()
        self.model, self.head, self.new_cache = model, model.head, model.new_cache
        self.reads: list[tuple[int, ...]] = []

    def features(self, tokens: Tensor, cache: Cache) -> Tensor:
        self.reads.append(tuple(tokens.shape))
        return self.model.features(tokens, cache)


@pytest.mark.parametrize("settings", [{}, {"qk_norm": True}, {"kv_heads": 4, "rope_base": 50.0}], ids=str)
def test_logits_with_cache_equal_those_without(settings: dict[str, object]) -> None:
    model = model_of(**settings)
    both = Both(Anew(model), reader_of(model, 16))
    texts = [Continuation(prompt(length, length), number) for number, length in enumerate((3, 9, 1, 6))]
    for _ in continue_texts(model, texts, Sampling(length=30, temperature=1.0), context=16, reader=both):  # type: ignore[arg-type]
        pass
    assert both.asked == 30
    assert all(len(text.tokens) == 30 for text in texts)


def test_a_wrong_position_would_be_seen() -> None:
    """The negative control: without the padding's mask and positions the logits are others."""

    class Unpadded(nn.Module):
        def __init__(self, model: GPTModule) -> None:
            super().__init__()
            self.features, self.head = model.features, model.head
            self.new_cache = lambda padding, capacity: model.new_cache(torch.zeros_like(padding), capacity)

    model = model_of()
    views = [View(0, 0, prompt(3)), View(1, 0, prompt(7))]
    right, wrong = reader_of(model, 8)(views), reader_of(Unpadded(model), 8)(views)
    torch.testing.assert_close(right, Anew(model)(views), **EXACT)
    torch.testing.assert_close(wrong[1], right[1], **EXACT)
    assert (wrong[0] - right[0]).abs().max() > 1e-3


def test_one_token_is_read_a_step_and_a_full_context_is_read_anew() -> None:
    counted = Counted(model_of())
    list(continue_texts(counted, [Continuation(prompt(5))], Sampling(length=14, temperature=0), context=8))
    # 5 tokens, 3 steps; then, full, a quarter of 8 is forgotten: 7 of 9 tokens, 1 step, and so on.
    assert counted.reads == [(1, 5), *[(1, 1)] * 3, *[(1, 7), (1, 1)] * 5]


def test_texts_that_end_leave_the_batch_once_they_are_half_of_it() -> None:
    counted = Counted(model_of())
    texts = [Continuation(prompt(4, row), row) for row in range(4)]
    for place, text in enumerate(continue_texts(counted, texts, Sampling(length=9, temperature=0), context=32)):
        if (len(text.tokens), text.number) in ((2, 0), (4, 1)):
            text.finish = "stop"
        assert place < 99
    assert [len(text.tokens) for text in texts] == [2, 4, 9, 9]
    assert counted.reads == [(4, 4), *[(4, 1)] * 3, (2, 8), *[(2, 1)] * 4]


@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
def test_greedy_text_is_that_of_the_whole_forward_pass(kernel: str) -> None:
    model = model_of()
    set_attention(model, kernel)
    text = Continuation(prompt(5))
    list(continue_texts(model, [text], Sampling(length=20, temperature=0), context=64))
    whole = [*text.prompt, *text.tokens]
    with torch.no_grad():
        likeliest = model(torch.tensor([whole])).argmax(-1)[0]
    assert likeliest[4:-1].tolist() == text.tokens


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_text_does_not_depend_on_its_batch(temperature: float) -> None:
    model = model_of()
    sampling = Sampling(length=25, temperature=temperature, top_p=0.9, seed=5)
    prompts = [prompt(length, length) for length in (2, 7, 4, 4)]
    together = [Continuation(tokens, number) for number, tokens in enumerate(prompts)]
    list(continue_texts(model, together, sampling, context=16))
    alone = [Continuation(tokens, number) for number, tokens in enumerate(prompts)]
    for text in alone:
        list(continue_texts(model, [text], sampling, context=16))
    assert [text.tokens for text in together] == [text.tokens for text in alone]
    assert together[2].tokens != together[3].tokens or temperature == 0


def test_a_model_without_cache_reads_views_of_equal_length_together() -> None:
    class Bare(nn.Module):
        def __init__(self, model: GPTModule) -> None:
            super().__init__()
            self.model = model
            self.shapes: list[tuple[int, ...]] = []

        def forward(self, tokens: Tensor) -> Tensor:
            self.shapes.append(tuple(tokens.shape))
            return self.model(tokens)

    model = model_of()
    bare = Bare(model)
    views = [View(0, 0, prompt(3)), View(1, 0, prompt(5, 1)), View(2, 0, prompt(3, 2))]
    torch.testing.assert_close(reader_of(bare, 8)(views), reader_of(model, 8)(views), **EXACT)
    assert bare.shapes == [(2, 3), (1, 5)]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "technique"])
def test_models_of_transformers_are_read_with_their_own_cache(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    model = _of_transformers(transformers, kind)
    reader = reader_of(model, 32)
    assert isinstance(reader, Recalling)
    texts = [Continuation(prompt(length, length), number) for number, length in enumerate((3, 9, 1))]
    both = Both(Anew(model), reader)
    list(continue_texts(model, texts, Sampling(length=12, temperature=0), context=16, reader=both))  # type: ignore[arg-type]
    for text in texts:
        if len(text.prompt) + 12 > 16:
            continue
        made = model.generate(
            torch.tensor([text.prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=None
        )
        assert made[0, len(text.prompt) :].tolist() == text.tokens


def _of_transformers(transformers: object, kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "technique":  # as recipes have it: it returns a plain tensor
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
        technique = import_path("modelwright.models.hugging_face.model:Transformers")
        model = technique(config={"model_type": "llama", **sizes}, vocabulary=29).build()
        return model.double().eval()  # type: ignore[no-any-return]
    if kind == "llama":
        config = transformers.LlamaConfig(  # type: ignore[attr-defined]
            vocab_size=29, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=48, max_position_embeddings=64,
        )  # fmt: skip
        return transformers.LlamaForCausalLM(config).double().eval()  # type: ignore[attr-defined, no-any-return]
    config = transformers.GPT2Config(vocab_size=29, n_embd=32, n_layer=2, n_head=4, n_positions=64)  # type: ignore[attr-defined]
    return transformers.GPT2LMHeadModel(config).double().eval()  # type: ignore[attr-defined, no-any-return]


def test_an_encoder_decoder_writes_what_its_whole_forward_pass_says() -> None:
    torch.manual_seed(0)
    config = SequenceToSequence(vocabulary=29, encoder_layers=1, decoder_layers=2, width=16, heads=2)
    model = config.build().double()
    sources = [prompt(length, length) for length in (3, 8, 5)]
    texts = [Continuation([1], number) for number in range(3)]
    reader = Decoding(model, sources)
    list(continue_texts(model, texts, Sampling(length=7, temperature=0), context=64, reader=reader))
    model.eval()
    for source, text in zip(sources, texts, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([source]), None, torch.tensor([[1, *text.tokens[:-1]]]))
        assert logits.argmax(-1)[0].tolist() == text.tokens
    assert texts[0].tokens != texts[1].tokens
