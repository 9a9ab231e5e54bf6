"""Multi-head attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmmodules.models.cache import KVCache
from lmmodules.models.chosen_queries import ChosenQueries
from lmmodules.models.visibility import Visibility


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
        query = query.flatten(2, 3)  # (B, T, H, K)
        key = key.squeeze(3).transpose(1, 2)  # (B, kv_heads, T, K)
        value = value.squeeze(3).transpose(1, 2)
        if cache is not None:
            key, value = cache.append(layer, key, value)
        chosen = None if rows is None else ChosenQueries.where_fewer(rows, batch, length, visibility)
        if chosen is not None:
            query, visibility = chosen.gather(query), chosen.visibility(visibility, key.shape[2])
        gathered = visibility.attend(query.transpose(1, 2), key, value, dropout=self.dropout if self.training else 0.0)
        gathered = gathered.transpose(1, 2).flatten(2)  # (B, T, H * K)
        if chosen is not None:
            gathered = chosen.scatter(gathered)
        elif rows is not None:
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
