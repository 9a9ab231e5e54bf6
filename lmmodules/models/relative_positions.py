"""A trained bias per head and bucket of distances, with the buckets of COCO-LM."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lmmodules.errors import InputError
from lmmodules.models.positions import Learned, Positions, PositionScheme


class RelativeBias(PositionScheme):
    """Scores of distant keys get a trained number: one per head and bucket of distances, the same in every layer.

    Near distances have buckets of their own, far ones share them, as in T5. COCO-LM adds trained absolute positions to
    the embeddings as well.

    Args:
        num_heads: Number of query heads of the model.
        num_buckets: Buckets of both directions together; one of them is never used.
        max_distance: Distance, in tokens, from which on all share the outermost bucket of their side.
        absolute: Trained positions added to the embeddings besides; `None` for none.

    Raises:
        InputError: When the sizes leave no bucket for near or none for far distances.

    Source:
        Meng et al. 2021, COCO-LM; microsoft/COCO-LM, `fairseq/fairseq/modules/transformer_sentence_encoder.py`. The
        idea: Raffel et al. 2020, T5, section 2.1.
    """

    def __init__(
        self, num_heads: int, num_buckets: int = 32, max_distance: int = 128, absolute: Learned | None = None
    ) -> None:
        super().__init__()
        if num_buckets < 8 or num_buckets % 4:
            raise InputError(
                f"`num_buckets` must be a multiple of 4 and at least 8, but is {num_buckets}; "
                "use `model.position.num_buckets=32`"
            )
        if max_distance - 1 <= num_buckets // 4:
            raise InputError(
                f"`max_distance` must be more than a quarter of `num_buckets` ({num_buckets // 4}) and one, but is "
                f"{max_distance}; use `model.position.max_distance={4 * num_buckets}`"
            )
        self.num_heads = num_heads
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.absolute = absolute
        self.max_length = None if absolute is None else absolute.max_length
        self.table = nn.Embedding(num_buckets, num_heads)

    def check(self, *, hidden_size: int, num_heads: int, head_dim: int) -> None:
        """One bias per query head, and absolute positions of the size of the embeddings.

        Raises:
            InputError: When they do not fit.
        """
        if self.num_heads != num_heads:
            raise InputError(
                f"`num_heads` of the relative positions must be that of the model ({num_heads}), but is "
                f"{self.num_heads}; use `model.position.num_heads={num_heads}`"
            )
        if self.absolute is not None and self.absolute.table.embedding_dim != hidden_size:
            raise InputError(
                f"`hidden_size` of the absolute positions must be that of the embeddings ({hidden_size}), but is "
                f"{self.absolute.table.embedding_dim}; use `model.position.absolute.hidden_size={hidden_size}`"
            )

    def embed(self, embeddings: Tensor, positions: Positions) -> Tensor:
        """Add the absolute positions, where there are any."""
        return embeddings if self.absolute is None else self.absolute.embed(embeddings, positions)

    def bias(
        self, query_length: int, key_length: int, *, causal: bool, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        """The trained biases, (1, H, query_length, key_length); minus infinity at the future of a causal model."""
        distances = torch.arange(1 - key_length, query_length, device=device)
        by_distance = self.table(distance_buckets(distances, self.num_buckets, self.max_distance))
        by_distance = by_distance.to(dtype).T  # (H, keys + T - 1)
        if causal:
            by_distance = by_distance.masked_fill(distances > 0, float("-inf"))
        # Each query reads the same numbers one place further on: windows over one vector instead of T^2 look-ups,
        # whose gradient would be a sum of T^2 numbers into a few rows.
        windows: Tensor = by_distance.unfold(1, key_length, 1)
        return windows.flip(1)[None]

    def extra_repr(self) -> str:
        """Sizes that the table alone does not show."""
        return f"num_buckets={self.num_buckets}, max_distance={self.max_distance}"


def distance_buckets(distances: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """Bucket of each signed distance, key minus query, counted from 0 at the far past.

    A quarter of the buckets holds one distance each on either side; the next quarter grows geometrically, rounded up.

    Args:
        distances: (...) int64.
        num_buckets: Buckets of both directions together.
        max_distance: Distance from which on all share a bucket.

    Returns:
        (...) int64, from 0 to `num_buckets` - 2; distance 0 has `num_buckets` / 2 - 1.

    Source:
        microsoft/COCO-LM, `relative_position_bucket`.

    Differences:
        T5 rounds down and keeps the two directions in separate halves, so that its buckets differ from distance 9 on.
    """
    outermost = num_buckets // 2 - 1
    exact = num_buckets // 4
    size = distances.abs()
    growth = (outermost - exact) / math.log((max_distance - 1) / exact)
    far = exact + torch.ceil(torch.log(size.clamp(min=exact) / exact) * growth).long()
    bucket = torch.where(size < exact, size, far.clamp(max=outermost))
    return bucket * distances.sign() + outermost
