"""Attention for the few tokens whose states are wanted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lmmodules.models.visibility import Visibility


@dataclass(frozen=True)
class ChosenQueries:
    """The queries of chosen rows, in as many places for each sequence as the one with most of them needs.

    Attributes:
        sources: (B R,) rows of the flattened batch that stand in the places; row 0 of a sequence fills those left over.
        places: (M,) place of each chosen row.
        positions: (B, R) positions within their sequences.
    """

    sources: Tensor
    places: Tensor
    positions: Tensor

    @classmethod
    def where_fewer(cls, rows: Tensor, batch: int, length: int, visibility: Visibility) -> ChosenQueries | None:
        """Lay out the chosen rows, if that at least halves the work of attention.

        How many places there are depends on the numbers in `rows`, for which an accelerator would have to be waited
        for and a compiler would have to make its program anew; both get `None`.

        Args:
            rows: (M,) positions of the flattened batch, in any order.
            batch: Sequences B.
            length: Tokens T of a sequence.
            visibility: Who sees whom; position schemes with ways of their own to the kernel get `None`.
        """
        plain = type(rows) is Tensor and type(visibility) is Visibility
        if not plain or rows.device.type != "cpu" or torch.compiler.is_compiling():
            return None
        sequences = rows.div(length, rounding_mode="floor")
        counts = torch.bincount(sequences, minlength=batch)
        most = int(counts.max()) if batch else 0
        if not 0 < 2 * most <= length:
            return None
        order = sequences.argsort(stable=True)
        within = torch.empty_like(rows)
        within[order] = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[sequences[order]]
        places = sequences * most + within
        sources = (torch.arange(batch) * length).repeat_interleave(most)
        sources[places] = rows
        return cls(sources, places, (sources % length).view(batch, most))

    def gather(self, query: Tensor) -> Tensor:
        """(B, T, H, K) queries of all tokens to (B, R, H, K) of the chosen ones."""
        return query.flatten(0, 1).index_select(0, self.sources).view(*self.positions.shape, *query.shape[2:])

    def visibility(self, every: Visibility, key_length: int) -> Visibility:
        """Whom the chosen queries see.

        Args:
            every: Whom all queries see.
            key_length: Number of keys.
        """
        if every.is_causal:
            if bool((self.positions == key_length - 1).all()):  # as when a prompt is read: the last see all
                return Visibility()
            return Visibility((torch.arange(key_length) <= self.positions[..., None])[:, None])
        mask = every.mask
        if mask is None or mask.shape[-2] == 1:
            return every
        mask = (mask[None, None] if mask.dim() == 2 else mask).expand(len(self.positions), -1, -1, -1)
        wanted = self.positions[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[-1])
        return Visibility(mask.gather(2, wanted))

    def scatter(self, gathered: Tensor) -> Tensor:
        """(B, R, D) of the places to (M, D) of the chosen rows."""
        return gathered.flatten(0, 1).index_select(0, self.places)
