"""A small masked language model beside a large encoder, on the same embeddings."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmmodules.errors import InputError
from lmmodules.models.alibi import Alibi
from lmmodules.models.block import Block
from lmmodules.models.heads import LanguageModelHead
from lmmodules.models.hugging_face_auxiliary import share as share_wrapped
from lmmodules.models.hugging_face_auxiliary import smaller as smaller_wrapped
from lmmodules.models.hugging_face_backbone import HuggingFaceBackbone
from lmmodules.models.positions import Learned, PositionScheme
from lmmodules.models.relative_positions import RelativeBias
from lmmodules.models.transformer import Transformer
from lmmodules.parallel.vocabulary_parallel import drawn_tokens, is_vocabulary_parallel

Shared = Literal["embeddings", "tokens", "none"]


class AuxiliaryLM(nn.Module):
    """A shallow or narrow encoder of a larger one's kind, with BERT's head, that fills in masked tokens.

    What it shares with the main encoder is the very same modules, so that one parameter is trained by both.

    Args:
        main: The encoder it works for, a `Transformer` or a `HuggingFaceBackbone`.
        depth: Its share of the main encoder's blocks, rounded, and at least one.
        width: Its share of the main encoder's heads, hidden size and inner size, rounded to whole heads, at least one.
        dropout: Probability of dropping, elements and attention weights alike; `None` for the main encoder's.
        shared: `embeddings`: everything before the blocks (tokens, segments, trained positions, norm). `tokens`: the
            token embedding alone. `none`: nothing.

    Attributes:
        norm_eps: Epsilon of its head's norm, as the main encoder's.
        initializer_std: Standard deviation of its head's initial matrices, as the main encoder's.

    Raises:
        InputError: When `main` is another kind of network, or an argument is out of range; when a wrapped model, whose
            embeddings are as large as its hidden states, is to be narrower and share them.

    Source:
        Clark et al. 2020, ELECTRA, sections 2 and 3.2 (narrow); Meng et al. 2021, COCO-LM, section 3 (shallow);
        microsoft/COCO-LM, `fairseq/fairseq/models/cocolm/model.py` (what is shared, the head).
    """

    def __init__(
        self,
        main: nn.Module,
        *,
        depth: float = 1.0,
        width: float = 1.0,
        dropout: float | None = None,
        shared: Shared = "embeddings",
    ) -> None:
        super().__init__()
        if not isinstance(main, Transformer | HuggingFaceBackbone):
            raise InputError(
                "the auxiliary model is made after a `Transformer` or a `HuggingFaceBackbone`, but the backbone is a "
                f"`{type(main).__name__}`; use for example `model=encoder_small`"
            )
        for name, share in (("depth", depth), ("width", width)):
            if not 0.0 < share <= 1.0:
                raise InputError(
                    f"`auxiliary_{name}` must lie in (0, 1], but is {share}; use `objective.auxiliary_{name}=0.5`"
                )
        if dropout is not None and not 0.0 <= dropout < 1.0:
            raise InputError(
                f"`auxiliary_dropout` must be at least 0 and less than 1, but is {dropout}; use "
                "`objective.auxiliary_dropout=0.1`"
            )
        if shared not in get_args(Shared):
            raise InputError(
                f"`shared` must be one of {', '.join(get_args(Shared))}, but is {shared!r}; use "
                "`objective.shared=embeddings`"
            )
        self.encoder: Transformer | HuggingFaceBackbone
        self.norm_eps: float
        self.initializer_std: float
        if isinstance(main, Transformer):
            self.encoder = _smaller(main, depth, width, dropout)
            _share(self.encoder, main, shared)
            self.norm_eps, self.initializer_std = main.norm_eps, main.initializer_std
        else:
            self.encoder = smaller_wrapped(main, depth, width, dropout)
            share_wrapped(self.encoder, main, shared)
            self.norm_eps = main.fields.get("layer_norm_eps", 1e-5)
            self.initializer_std = main.fields.get("initializer_range", 0.02)
        self.head = LanguageModelHead(
            self.encoder.hidden_size,
            main.vocab_size,
            transform=True,
            bias=True,
            norm_eps=self.norm_eps,
            initializer_std=self.initializer_std,
            embedding_size=self.encoder.token_embedding.embedding_dim,
        )

    @property
    def output_weight(self) -> Tensor:
        """(V, E) the output matrix, which is its token embedding."""
        return self.head.output_weight(self.encoder.token_embedding.weight)

    def features(
        self,
        input_ids: Tensor,
        rows: Tensor,
        *,
        attention_mask: Tensor | None = None,
        document_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """What the output matrix is applied to, (M, E), at the `rows` (M,) of the flattened batch.

        Args:
            input_ids: (B, T) tokens, some of them masked.
            rows: (M,) positions of the flattened batch.
            attention_mask: (B, T), 1 at tokens and 0 at padding.
            document_ids: (B, T), tokens see only those of equal id.
            token_type_ids: (B, T) segments.
        """
        hidden = self.encoder(
            input_ids,
            attention_mask=attention_mask,
            document_ids=document_ids,
            token_type_ids=token_type_ids,
            rows=rows,
        )
        return self.head.features(hidden)

    @property
    def drops(self) -> bool:
        """Whether dropout makes its predictions in training differ from those in evaluation."""
        attributes = (item for module in self.modules() for item in vars(module).items())
        # `p` of `nn.Dropout`; attention has a number of its own.
        probabilities = (value for name, value in attributes if name == "p" or "dropout" in name)
        return self.training and any(isinstance(value, float) and value > 0 for value in probabilities)

    @contextmanager
    def without_dropout(self) -> Iterator[None]:
        """Evaluation mode for a while; every module returns to the mode it was in."""
        were_training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            yield
        finally:
            for module in were_training:
                module.training = True

    def flops_per_token(self, length: int) -> int:
        """Floating-point operations of one forward without the head, per token of sequences of a length.

        Args:
            length: Tokens per sequence T.
        """
        return self.encoder.flops_per_token(length)


@torch.no_grad()
def draw_tokens(
    features: Tensor, weight: Tensor, bias: Tensor | None, draws: Tensor, *, chunk_rows: int = 2048
) -> Tensor:
    """Draw a token for each row from the softmax over the whole vocabulary, without ever holding (M, V).

    The draw is the place where the cumulative distribution exceeds a given uniform number, so that it depends on that
    number and the row's own distribution and on nothing else: not on what else is in the batch, nor on a generator.

    Args:
        features: (M, E) what the output matrix is applied to.
        weight: (V, E) output matrix.
        bias: (V,) or none.
        draws: (M,) uniform in [0, 1).
        chunk_rows: Rows whose distributions are in memory at once.

    Returns:
        (M,) int64 token ids.
    """
    if is_vocabulary_parallel(weight):
        return drawn_tokens(features, weight, bias, draws, chunk_rows=chunk_rows)
    tokens = torch.empty(len(features), dtype=torch.int64, device=features.device)
    for start in range(0, len(features), chunk_rows):
        rows = slice(start, start + chunk_rows)
        logits = F.linear(features[rows], weight, bias)
        cumulative = torch.softmax(logits, dim=-1, dtype=torch.float32).cumsum(-1)
        # Rounding leaves the last number a little off 1; a token of probability 0 is never the first to exceed.
        wanted = draws[rows, None].float() * cumulative[:, -1:]
        tokens[rows] = torch.searchsorted(cumulative, wanted, right=True)[:, 0]
    return tokens.clamp_(max=len(weight) - 1)


def _smaller(main: Transformer, depth: float, width: float, dropout: float | None) -> Transformer:
    """A network like another, newly drawn, with other depth and width."""
    block = main.blocks[0]
    assert isinstance(block, Block)
    num_heads = max(1, round(width * main.num_heads))
    share = num_heads / main.num_heads
    group = main.num_heads // main.num_kv_heads
    return Transformer(
        vocab_size=main.vocab_size,
        hidden_size=round(share * main.hidden_size),
        num_layers=max(1, round(depth * main.num_layers)),
        num_heads=num_heads,
        causal=main.causal,
        num_kv_heads=num_heads // group if num_heads % group == 0 else num_heads,
        head_dim=main.head_dim,
        intermediate_size=round(share * main.intermediate_size),
        embedding_size=main.token_embedding.embedding_dim,
        max_length=main.max_length,
        position=_positions_for(main.position, num_heads),
        pre_norm=block.pre_norm,
        norm="rms_norm" if isinstance(block.attention_norm, nn.RMSNorm) else "layer_norm",
        norm_eps=main.norm_eps,
        activation=block.mlp.activation,
        bias=block.attention.output.bias is not None,
        embedding_norm=not isinstance(main.embedding_norm, nn.Identity),
        num_token_types=main.num_token_types,
        dropout=main.dropout.p if dropout is None else dropout,
        attention_dropout=block.attention.dropout if dropout is None else dropout,
        initializer_std=main.initializer_std,
        scale_residual_init=main.scale_residual_init,
        pad_id=main.token_embedding.padding_idx,
    )


def _positions_for(position: PositionScheme, num_heads: int) -> PositionScheme:
    """The same scheme for another number of heads, with tables of its own."""
    if isinstance(position, Alibi):
        return Alibi(num_heads, position.bidirectional)
    if isinstance(position, RelativeBias):
        absolute = None if position.absolute is None else _same_table(position.absolute)
        return RelativeBias(num_heads, position.num_buckets, position.max_distance, absolute)
    return _same_table(position) if isinstance(position, Learned) else copy.deepcopy(position)


def _same_table(position: Learned) -> Learned:
    return Learned(position.table.num_embeddings - position.offset, position.table.embedding_dim, position.offset)


def _share(encoder: Transformer, main: Transformer, shared: Shared) -> None:
    """Give an encoder what is before the blocks of another; what positions do to attention stays its own."""
    if shared != "none":
        encoder.token_embedding = main.token_embedding
    if shared != "embeddings":
        return
    encoder.token_type_embedding = main.token_type_embedding
    encoder.embedding_norm = main.embedding_norm
    if isinstance(main.position, Learned):
        encoder.position = main.position
    elif isinstance(main.position, RelativeBias) and isinstance(encoder.position, RelativeBias):
        encoder.position.absolute = main.position.absolute
