"""What objectives, decoding and callbacks use of a model, so that others than ours can stand in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor, nn

if TYPE_CHECKING:
    from lmmodules.models.cache import KVCache


@runtime_checkable
class Backbone(Protocol):
    """Token ids in, hidden states out.

    Attributes:
        causal: Whether a position sees only itself and what came before.
        vocab_size: Number of token embeddings V.
        hidden_size: Size D of a hidden state.
        num_layers: Number of layers.
        num_kv_heads: Key/value heads of a layer.
        head_dim: Size K of a head.
        max_length: Longest sequence, in tokens; `None` where there is no limit.
        token_embedding: Embeddings (V, D), which a tied head shares.
        blocks: The layers, which strategies shard one by one.
    """

    causal: bool
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    max_length: int | None
    token_embedding: nn.Embedding
    blocks: nn.ModuleList

    def __call__(
        self,
        input_ids: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        document_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: KVCache | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, T, D), or (M, D) of the `rows` (M,) of the flattened batch."""
        ...

    def flops_per_token(self, length: int) -> int:
        """Floating-point operations of one forward, per token of sequences of a length, without a head."""
        ...
