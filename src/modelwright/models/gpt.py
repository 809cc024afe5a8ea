"""A decoder-only transformer in the common modern form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import Tensor, nn
from torch.nn import functional

from modelwright.base.errors import ModelwrightError
from modelwright.models.attention import Attention, rotations, rotations_at, seen_within
from modelwright.models.experts import Experts
from modelwright.models.stochastic_depth import StochasticDepth, check_rate, rates
from modelwright.models.writing.cache import Cache

INITIAL_DEVIATION = 0.02


@dataclass(frozen=True, kw_only=True)
class GPT:
    """A language model: tokens ``[batch, time]`` -> logits ``[batch, time, vocabulary]``.

    Documents that share a window are kept apart where the data says where they begin (``documents: separate``).

    Sources: GPT-2 (Radford et al. 2019) for the initialisation, where weights that write into the residual
    stream shrink with depth; LLaMA (Touvron et al. 2023, arXiv:2302.13971) for the block; SwiGLU from Shazeer
    2020 (arXiv:2002.05202).

    Attributes:
        vocabulary: number of different tokens; ``None``: that of the data.
        layers: number of blocks.
        width: width of the residual stream.
        heads: attention heads; divides ``width``, and ``width / heads`` is even.
        kv_heads: heads of key and value, each shared by ``heads / kv_heads`` query heads; ``None``:
            ``heads``.
        hidden: width inside the feed-forward, or inside each expert; ``None``: ``4 * width`` for gelu, and for swiglu,
            which has a third matrix, two thirds of that, rounded up to a multiple of 32.
        activation: ``swiglu`` or ``gelu``.
        experts: feed-forwards of each block, of which a router chooses some for each token; ``None``: one, for all.
        experts_per_token: how many it chooses.
        balance: coefficient of the loss that keeps all experts in use, per block and sample.
        tied_embeddings: the head uses the embedding's weight.
        qk_norm: normalise query and key per head: steadier at high learning rates, a quarter slower on
            CPU.
        dropout: dropout of the embedding and of what each block adds to the residual stream.
        attention_dropout: dropout of the shares in which attention mixes values.
        stochastic_depth: chance that a sample skips the branches of the last block in training; it grows evenly
            with the depth.
        rope_base: base of the rotary frequencies; larger for longer contexts.
    """

    vocabulary: int | None = None
    layers: int = 4
    width: int = 192
    heads: int = 6
    kv_heads: int | None = None
    hidden: int | None = None
    activation: Literal["swiglu", "gelu"] = "swiglu"
    experts: int | None = None
    experts_per_token: int = 2
    balance: float = 0.01
    tied_embeddings: bool = True
    qk_norm: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0
    stochastic_depth: float = 0.0
    rope_base: float = 10000.0

    def __post_init__(self) -> None:
        self._check_sizes()
        if self.width % self.heads or self.width // self.heads % 2:
            raise ModelwrightError(
                f"gpt: width {self.width} must be an even multiple of heads {self.heads}",
                remedy=f"for example width {max(1, round(self.width / self.heads / 2)) * self.heads * 2}",
            )
        if self.heads % (self.kv_heads or self.heads):
            raise ModelwrightError(f"gpt: kv_heads {self.kv_heads} must divide heads {self.heads}")
        if self.activation not in ("swiglu", "gelu"):
            raise ModelwrightError(f"gpt: activation is swiglu or gelu, not {self.activation!r}")
        check_rate(
            "gpt",
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            stochastic_depth=self.stochastic_depth,
        )
        if self.rope_base <= 1:
            raise ModelwrightError(f"gpt: rope_base is above 1, not {self.rope_base}")
        self._check_experts()

    def build(self) -> GPTModule:
        """The module, with new weights.

        Raises:
            ModelwrightError: the size of the vocabulary is still open.
        """
        if self.vocabulary is None:
            raise ModelwrightError(
                "gpt: the size of the vocabulary is not known",
                remedy="set model.vocabulary, or use data that has a tokenizer",
            )
        return GPTModule(self, self.vocabulary)

    def _check_sizes(self) -> None:
        for name in ("vocabulary", "layers", "width", "heads", "kv_heads", "hidden", "experts", "experts_per_token"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ModelwrightError(f"gpt: {name} is at least 1, not {value}")

    def _check_experts(self) -> None:
        if self.experts is not None and self.experts_per_token > self.experts:
            raise ModelwrightError(
                f"gpt: experts_per_token {self.experts_per_token} is more than there are experts ({self.experts})",
                remedy="lower it, or raise experts",
            )
        if self.balance < 0:
            raise ModelwrightError(f"gpt: balance is at least 0, not {self.balance}")


class GPTModule(nn.Module):
    """``head(features(inputs))``; see :class:`GPT`."""

    def __init__(self, config: GPT, vocabulary: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocabulary, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates(config.layers, config.stochastic_depth))
        self.norm = nn.RMSNorm(config.width)
        self.head = nn.Linear(config.width, vocabulary, bias=False)
        if config.tied_embeddings:
            self.head.weight = self.embedding.weight
        self._initialise()

    def forward(self, inputs: Tensor, segments: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Tokens ``[batch, time]`` -> logits ``[batch, time, vocabulary]``; see :meth:`features`."""
        return self.head(self.features(inputs, segments=segments, positions=positions))  # type: ignore[no-any-return]

    def features(
        self,
        inputs: Tensor,
        cache: Cache | None = None,
        *,
        segments: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Tokens ``[batch, time]`` -> what the head reads ``[batch, time, width]``.

        Args:
            inputs: the tokens.
            cache: holds the tokens before them, and is given these too.
            segments: number of the document that each token is of, int64 ``[batch, time]``: tokens see their own
                document only. Not with a cache.
            positions: place of each token in its document, int64 ``[batch, time]``; ``None``: counted from the first
                token.
        """
        x = self.dropout(self.embedding(inputs))
        if cache is not None:
            return self._go_on(x, cache)
        rotation = self._rotation(inputs.size(1), positions, x)
        for block, seen in zip(self.blocks, self._seen(segments), strict=True):
            x = block(x, rotation) if seen is None else block(x, rotation, seen=seen)
        return self.norm(x)  # type: ignore[no-any-return]

    def _seen(self, segments: Tensor | None) -> list[Any]:
        """What positions see in each block, made once for all of them; ``None``: everything up to themselves."""
        if segments is None:
            return [None] * len(self.blocks)
        kernels = [cast(Block, block).attention.kernel for block in self.blocks]
        seen = seen_within(segments, kernels)
        return [seen[kernel] for kernel in kernels]

    def _go_on(self, x: Tensor, cache: Cache) -> Tensor:
        time = x.size(1)
        rotation = self._rotation(time, cache.positions(time), x)
        for layer, block in enumerate(self.blocks):
            x = block(x, rotation, cache, layer)
        cache.advance(time)
        return self.norm(x)  # type: ignore[no-any-return]

    def new_cache(self, padding: Tensor, capacity: int) -> Cache:
        """An empty cache for texts ``[batch]`` with so much ``padding`` on the left; see :class:`Cache`."""
        return Cache(self.config.layers, padding, capacity)

    def _rotation(self, time: int, positions: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
        head_width = self.config.width // self.config.heads
        if positions is None:
            return rotations(time, head_width, self.config.rope_base, like=like)
        return rotations_at(positions, head_width, self.config.rope_base, like=like)

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue
            writes = name.endswith(("attention.output.weight", "feed_forward.down.weight", "feed_forward.down"))
            shrink = (2 * self.config.layers) ** -0.5 if writes else 1.0
            nn.init.normal_(parameter, std=INITIAL_DEVIATION * shrink)


class Block(nn.Module):
    """Attention, then feed-forward, each added to the residual stream ``[batch, time, width]``."""

    def __init__(self, config: GPT, skipped: float = 0.0) -> None:
        super().__init__()
        kv_heads = config.kv_heads or config.heads
        self.attention_norm = nn.RMSNorm(config.width)
        self.attention = Attention(
            config.width, config.heads, kv_heads, qk_norm=config.qk_norm, dropout=config.attention_dropout
        )
        self.feed_forward_norm = nn.RMSNorm(config.width)
        self.feed_forward = _feed_forward(config)
        self.dropout = nn.Dropout(config.dropout)
        self.skip = StochasticDepth(skipped)

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        cache: Cache | None = None,
        layer: int = 0,
        seen: Any = None,
    ) -> Tensor:
        """``x [batch, time, width]`` -> the same shape; arguments as those of :class:`Attention`."""
        mixed = self.attention(self.attention_norm(x), rotation, cache, layer, seen)
        x = x + self.skip(self.dropout(mixed))
        return x + self.skip(self.dropout(self.feed_forward(self.feed_forward_norm(x))))  # type: ignore[no-any-return]


class SwiGLU(nn.Module):
    """``down(silu(gate(x)) * up(x))``."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``x [..., width]`` -> the same shape."""
        return self.down(functional.silu(self.gate(x)) * self.up(x))  # type: ignore[no-any-return]


class GELU(nn.Module):
    """``down(gelu(up(x)))``."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``x [..., width]`` -> the same shape."""
        return self.down(functional.gelu(self.up(x)))  # type: ignore[no-any-return]


def _feed_forward(config: GPT) -> nn.Module:
    gated = config.activation == "swiglu"
    hidden = config.hidden or (-(-8 * config.width // 96) * 32 if gated else 4 * config.width)
    if config.experts is None:
        return SwiGLU(config.width, hidden) if gated else GELU(config.width, hidden)
    return Experts(
        config.width,
        hidden,
        experts=config.experts,
        chosen=config.experts_per_token,
        gated=gated,
        balance=config.balance,
    )
