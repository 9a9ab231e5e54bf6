"""How tensors of transformers are laid out compared with ours, in both directions."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from lmmodules.models.transformer import Transformer


class Arrangement(Protocol):
    """A way to make one of our tensors from one or several of theirs, and back."""

    def join(self, theirs: list[Tensor], model: Transformer) -> Tensor:
        """Our tensor."""
        ...

    def split(self, ours: Tensor, model: Transformer) -> list[Tensor]:
        """Their tensors."""
        ...


class Same:
    """One tensor, as it is."""

    def join(self, theirs: list[Tensor], model: Transformer) -> Tensor:
        """The tensor itself."""
        return theirs[0]

    def split(self, ours: Tensor, model: Transformer) -> list[Tensor]:
        """The tensor itself."""
        return [ours]


class Transposed:
    """A matrix stored as (inputs, outputs), as in GPT-2's `Conv1D`; ours are (outputs, inputs)."""

    def join(self, theirs: list[Tensor], model: Transformer) -> Tensor:
        """The transposed matrix."""
        return theirs[0].T

    def split(self, ours: Tensor, model: Transformer) -> list[Tensor]:
        """The transposed matrix."""
        return [ours.T]


class FusedHeads:
    """Query, key and value projections apart; ours are one, per key/value group [queries | key | value].

    Rows are outputs, so weights and biases are arranged alike.
    """

    def join(self, theirs: list[Tensor], model: Transformer) -> Tensor:
        """Rows of the three, group by group."""
        grouped = [rows.reshape(model.num_kv_heads, -1, *rows.shape[1:]) for rows in theirs]
        return torch.cat(grouped, dim=1).flatten(0, 1)

    def split(self, ours: Tensor, model: Transformer) -> list[Tensor]:
        """Rows of the queries, of the keys, of the values."""
        queries = model.num_heads // model.num_kv_heads
        grouped = ours.reshape(model.num_kv_heads, -1, *ours.shape[1:])
        parts = torch.split(grouped, [queries * model.head_dim, model.head_dim, model.head_dim], dim=1)
        return [part.flatten(0, 1) for part in parts]


class TransposedFusedHeads:
    """GPT-2's `c_attn`: one transposed matrix, all queries before all keys before all values."""

    def __init__(self) -> None:
        self._heads = FusedHeads()

    def join(self, theirs: list[Tensor], model: Transformer) -> Tensor:
        """Columns to rows, reordered by head."""
        return self._heads.join(list(theirs[0].transpose(0, -1).chunk(3)), model)

    def split(self, ours: Tensor, model: Transformer) -> list[Tensor]:
        """Rows in their order, as columns."""
        return [torch.cat(self._heads.split(ours, model)).transpose(0, -1)]


class FoldedTokenType:
    """A position table and the only row of a token-type table, which every token receives: ours is their sum."""

    def join(self, theirs: list[Tensor], model: Transformer) -> Tensor:
        """Positions with the type added to each."""
        positions, token_type = theirs
        return positions + token_type

    def split(self, ours: Tensor, model: Transformer) -> list[Tensor]:
        """The sum as positions, and a type of zeros."""
        return [ours, ours.new_zeros(1, ours.shape[1])]


SAME = Same()
TRANSPOSED = Transposed()
