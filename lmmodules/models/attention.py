"""Multi-head attention, and who sees whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmmodules.models.cache import KVCache


class BiasForms(Protocol):
    """A bias that has cheaper ways to the attention kernel than a matrix added to the scores."""

    def visibility(self, attention_mask: Tensor | None, document_ids: Tensor | None) -> Visibility:
        """Bring the bias to the kernel together with padding (B, keys) and documents (B, T)."""
        ...


@dataclass(frozen=True)
class Visibility:
    """Who sees whom, and how well: decided once per forward and shared by all layers.

    Attributes:
        mask: Boolean (True = seen) or added to the scores, broadcast to (B, H, T, keys); `None` when none is needed.
        is_causal: Whether the kernel itself hides the future, without a mask.
    """

    mask: Tensor | None = None
    is_causal: bool = False

    @classmethod
    def decide(
        cls,
        query_length: int,
        key_length: int,
        *,
        causal: bool,
        device: torch.device,
        attention_mask: Tensor | None = None,
        document_ids: Tensor | None = None,
        bias: Tensor | BiasForms | None = None,
    ) -> Visibility:
        """Find the least that has to be said to the attention kernel.

        Args:
            query_length: Number of new tokens T; they are the last of the keys.
            key_length: Number of cached and new tokens.
            causal: Whether a token sees only itself and what came before.
            device: Where a mask is made.
            attention_mask: (B, keys), 1 at tokens and 0 at padding.
            document_ids: (B, T): tokens see only those of equal id.
            bias: From the position scheme: (1, H, T, keys), minus infinity at the future of a causal model; or one
                that has its own ways to the kernel.
        """
        if bias is not None and not isinstance(bias, Tensor):
            return bias.visibility(attention_mask, document_ids)
        if attention_mask is None and document_ids is None:
            if bias is not None:
                return Visibility(bias)
            if not causal or query_length == 1:
                return Visibility()
            if query_length == key_length:
                return Visibility(is_causal=True)
        seen = seen_keys(query_length, key_length, causal, device, attention_mask, document_ids)
        return Visibility(seen if bias is None else bias.masked_fill(~seen, float("-inf")))

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, *, dropout: float = 0.0, scale: float | None = None
    ) -> Tensor:
        """Weighted sums of the values that each query sees.

        Args:
            query: (B, H, T, K).
            key: (B, kv_heads, keys, K).
            value: (B, kv_heads, keys, K).
            dropout: Probability of dropping a weight.
            scale: Factor of the scores; `None` for one over the root of K.

        Returns:
            (B, H, T, K).
        """
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=self.mask,
            dropout_p=dropout,
            is_causal=self.is_causal,
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )


def seen_keys(
    query_length: int,
    key_length: int,
    causal: bool,
    device: torch.device,
    attention_mask: Tensor | None,
    document_ids: Tensor | None,
) -> Tensor:
    """Boolean mask, at most (B, 1, T, keys), in which every query sees a key: a softmax over nothing is no number.

    Args:
        query_length: Number of new tokens T; they are the last of the keys.
        key_length: Number of cached and new tokens.
        causal: Whether the future is hidden.
        device: Where the mask is made.
        attention_mask: (B, keys), 1 at tokens and 0 at padding.
        document_ids: (B, T): tokens see only those of equal id.
    """
    keys = torch.arange(key_length, device=device)
    queries = keys[key_length - query_length :, None]
    seen = keys <= queries if causal else None  # (T, keys)
    if document_ids is not None:
        together = (document_ids[:, :, None] == document_ids[:, None, :])[:, None]  # (B, 1, T, T)
        seen = together if seen is None else seen & together
    if attention_mask is not None:
        tokens = attention_mask.bool()[:, None, None]  # (B, 1, 1, keys)
        # Padding sees itself where it would see nothing; a row of padding alone, in which all is moot, sees all of it.
        seen = tokens | ~tokens.any(-1, keepdim=True) if seen is None else (seen & tokens) | (keys == queries)
    assert seen is not None
    return seen


class Attention(nn.Module):
    """Scaled dot-product attention with grouped key/value heads.

    Queries, keys and values come from one matrix, laid out per key/value group as [queries of the group | key |
    value], so that a split of its rows is a split of heads.

    Args:
        hidden_size: Size D of a hidden state.
        num_heads: Number of query heads H.
        num_kv_heads: Number of key/value heads, each shared by H / num_kv_heads query heads.
        head_dim: Size K of a head.
        bias: Whether the projections have biases.
        dropout: Probability of dropping an attention weight.

    Source:
        Vaswani et al. 2017, section 3.2; grouped heads: Ainslie et al. 2023; layout: Megatron-LM
        `core/transformer/attention.py`.
    """

    def __init__(
        self, hidden_size: int, num_heads: int, num_kv_heads: int, head_dim: int, *, bias: bool, dropout: float
    ) -> None:
        super().__init__()
        self.group_size = num_heads // num_kv_heads
        self.head_dim = head_dim
        self.dropout = dropout
        self.query_key_value = nn.Linear(hidden_size, (num_heads + 2 * num_kv_heads) * head_dim, bias=bias)
        self.output = nn.Linear(num_heads * head_dim, hidden_size, bias=bias)

    def forward(
        self,
        hidden: Tensor,
        visibility: Visibility,
        rotation: tuple[Tensor, Tensor] | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Let every token gather from those it sees.

        Args:
            hidden: (B, T, D).
            visibility: Who sees whom.
            rotation: Cosines and sines for queries and keys.
            cache: Keys and values of earlier tokens, to which those of these are appended.
            layer: Which layer of the cache is this one's.
            rows: (M,) positions of the flattened batch whose output is wanted; `None` for all.

        Returns:
            (B, T, D), or (M, D) with `rows`.
        """
        batch, length, _ = hidden.shape
        # The number of groups is left to the view: under tensor parallelism a rank holds only some of them.
        groups = self.query_key_value(hidden).view(batch, length, -1, self.group_size + 2, self.head_dim)
        if rotation is None:
            query, key, value = torch.split(groups, [self.group_size, 1, 1], dim=3)
        else:
            turning, value = torch.split(groups, [self.group_size + 1, 1], dim=3)
            query, key = torch.split(rotate(turning, *rotation), [self.group_size, 1], dim=3)
        query = query.flatten(2, 3).transpose(1, 2)  # (B, H, T, K)
        key = key.squeeze(3).transpose(1, 2)  # (B, kv_heads, T, K)
        value = value.squeeze(3).transpose(1, 2)
        if cache is not None:
            key, value = cache.append(layer, key, value)
        gathered = visibility.attend(query, key, value, dropout=self.dropout if self.training else 0.0)
        gathered = gathered.transpose(1, 2).flatten(2)  # (B, T, H * K)
        if rows is not None:
            gathered = gathered.flatten(0, 1).index_select(0, rows)
        return self.output(gathered)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """Sizes that the projections alone do not show."""
        return f"head_dim={self.head_dim}, queries_per_group={self.group_size}, dropout={self.dropout}"


def rotate(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each pair (i, i + K / 2) of the last dimension by its angle.

    Args:
        heads: (..., K).
        cosine: Broadcast to (..., K / 2).
        sine: Broadcast to (..., K / 2).
    """
    first, second = heads.chunk(2, dim=-1)
    turned_first = torch.addcmul(first * cosine, second, sine, value=-1)
    turned_second = torch.addcmul(second * cosine, first, sine)
    return torch.cat((turned_first, turned_second), dim=-1).type_as(heads)
