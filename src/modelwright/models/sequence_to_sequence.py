"""An encoder-decoder transformer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.models.sizes import check_at_least_one, known
from modelwright.models.stochastic_depth import check_rate, rates
from modelwright.models.transformer import DecoderLayer, EncoderLayer, check_heads, counted, waves


@dataclass(frozen=True, kw_only=True)
class SequenceToSequence:
    """One sequence from another: source and target tokens -> logits ``[batch, target, vocabulary]``.

    Vaswani et al. 2017 (arXiv:1706.03762), with norms before the branches (Xiong et al. 2020, arXiv:2002.04745), one
    vocabulary for both sides and sine-cosine positions, so that sequences may have any length.

    Attributes:
        vocabulary: number of different tokens; ``None``: that of the data.
        encoder_layers: number of blocks that read the source.
        decoder_layers: number of blocks that write the target.
        width: width of the residual stream; even.
        heads: attention heads; divides ``width``.
        hidden: width inside the feed-forward; ``None``: ``4 * width``.
        tied_embeddings: the head uses the embedding's weight.
        dropout: dropout of the embeddings and in each block.
        stochastic_depth: chance that the last block of either side is left out, sample by sample; it grows linearly
            with depth.
    """

    vocabulary: int | None = None
    encoder_layers: int = 4
    decoder_layers: int = 4
    width: int = 256
    heads: int = 4
    hidden: int | None = None
    tied_embeddings: bool = True
    dropout: float = 0.1
    stochastic_depth: float = 0.0

    def __post_init__(self) -> None:
        name = "sequence-to-sequence"
        check_at_least_one(name, vocabulary=self.vocabulary, width=self.width, heads=self.heads, hidden=self.hidden)
        check_at_least_one(name, encoder_layers=self.encoder_layers, decoder_layers=self.decoder_layers)
        check_rate(name, dropout=self.dropout, stochastic_depth=self.stochastic_depth)
        check_heads(name, self.width, self.heads)
        if self.width % 2:
            raise ModelwrightError(f"{name}: width is even, not {self.width}")

    def build(self) -> SequenceToSequenceModule:
        """The module, with new weights.

        Raises:
            ModelwrightError: the size of the vocabulary is still open.
        """
        return SequenceToSequenceModule(self, *known("sequence-to-sequence", vocabulary=self.vocabulary))


class SequenceToSequenceModule(nn.Module):
    """``head(features(inputs, input_mask, decoder_inputs))``; see :class:`SequenceToSequence`."""

    def __init__(self, config: SequenceToSequence, vocabulary: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocabulary, config.width)
        self.dropout = nn.Dropout(config.dropout)
        sizes = (config.width, config.heads, config.hidden or 4 * config.width, config.dropout)
        drops = rates(config.encoder_layers, config.stochastic_depth)
        self.encoder = nn.ModuleList(EncoderLayer(*sizes, rate) for rate in drops)
        self.encoder_norm = nn.LayerNorm(config.width)
        drops = rates(config.decoder_layers, config.stochastic_depth)
        self.decoder = nn.ModuleList(DecoderLayer(*sizes, rate) for rate in drops)
        self.decoder_norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, vocabulary, bias=False)
        if config.tied_embeddings:
            self.head.weight = self.embedding.weight
        self._initialise()

    def forward(self, inputs: Tensor, input_mask: Tensor | None, decoder_inputs: Tensor) -> Tensor:
        """Logits ``[batch, target, vocabulary]`` of the token that follows each of ``decoder_inputs``.

        Args:
            inputs: tokens of the source ``[batch, source]``.
            input_mask: bool ``[batch, source]``, false where there is padding; ``None``: there is none.
            decoder_inputs: tokens of the target so far ``[batch, target]``. They need no mask: what stands behind a
                position is not seen from it.
        """
        return self.head(self.features(inputs, input_mask, decoder_inputs))  # type: ignore[no-any-return]

    def features(self, inputs: Tensor, input_mask: Tensor | None, decoder_inputs: Tensor) -> Tensor:
        """What the head reads ``[batch, target, width]``; for arguments see :meth:`forward`."""
        return self.decode(self.encode(inputs, input_mask), input_mask, decoder_inputs)

    def encode(self, inputs: Tensor, input_mask: Tensor | None = None) -> Tensor:
        """The source as the decoder reads it: the memory ``[batch, source, width]``, the same for all positions."""
        x = self._embedded(inputs)
        for layer in self.encoder:
            x = layer(x, input_mask)
        return self.encoder_norm(x)  # type: ignore[no-any-return]

    def decode(self, memory: Tensor, input_mask: Tensor | None, decoder_inputs: Tensor) -> Tensor:
        """What the head reads ``[batch, target, width]``, from the memory of :meth:`encode` and its mask."""
        x = self._embedded(decoder_inputs)
        for layer in self.decoder:
            x = layer(x, memory, input_mask)
        return self.decoder_norm(x)  # type: ignore[no-any-return]

    def _embedded(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) * self.config.width**0.5
        return self.dropout(x + waves(counted(tokens.size(1), x), self.config.width).to(x.dtype))  # type: ignore[no-any-return]

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.embedding.weight, std=self.config.width**-0.5)
        nn.init.normal_(self.head.weight, std=self.config.width**-0.5)
