"""Keys and values of tokens already read, so that decoding computes only those of the new ones."""

from __future__ import annotations

import torch
from torch import Tensor

from lmmodules.errors import InputError
from lmmodules.models.backbone import Backbone


class KVCache:
    """Preallocated keys and values of every layer.

    The transformer appends to each layer and then calls `advance`; until then `length` is that before the forward.

    Args:
        num_layers: Number of layers.
        batch_size: Number of sequences B.
        num_kv_heads: Key/value heads of a layer.
        head_dim: Size K of a head.
        max_length: Tokens per sequence there is room for.
        device: Where the tensors live.
        dtype: Their type.
    """

    def __init__(
        self,
        num_layers: int,
        batch_size: int,
        num_kv_heads: int,
        head_dim: int,
        max_length: int,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape = (num_layers, batch_size, num_kv_heads, max_length, head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.max_length = max_length
        self.length = 0

    @classmethod
    def for_backbone(cls, backbone: Backbone, batch_size: int, max_length: int) -> KVCache:
        """A cache with the sizes, device and dtype of a backbone."""
        weight = backbone.token_embedding.weight
        return cls(
            backbone.num_layers,
            batch_size,
            backbone.num_kv_heads,
            backbone.head_dim,
            max_length,
            device=weight.device,
            dtype=weight.dtype,
        )

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new keys and values of a layer and return all of them.

        Args:
            layer: Index of the layer.
            key: (B, kv_heads, T, K) keys of the new tokens.
            value: (B, kv_heads, T, K) values of the new tokens.

        Returns:
            Views (B, kv_heads, length + T, K) of keys and values.

        Raises:
            InputError: When there is no room.
        """
        end = self.length + key.shape[2]
        if end > self.max_length:
            raise InputError(
                f"`max_length` of the cache is {self.max_length}, but {end} tokens were given; make it "
                f"with `max_length={end}`"
            )
        keys, values = self.keys[layer], self.values[layer]
        keys.narrow(2, self.length, key.shape[2]).copy_(key)
        values.narrow(2, self.length, key.shape[2]).copy_(value)
        return keys.narrow(2, 0, end), values.narrow(2, 0, end)

    def advance(self, length: int) -> None:
        """Count `length` more tokens, when every layer has been appended to."""
        self.length += length

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        if not 0 <= length <= self.length:
            raise InputError(f"`length` must be between 0 and the {self.length} cached tokens, but is {length}")
        self.length = length

    def reorder(self, indices: Tensor) -> None:
        """Let sequence b continue what was sequence `indices[b]`, as beam search does.

        Args:
            indices: (B,) int64.
        """
        self.keys = self.keys.index_select(1, indices)
        self.values = self.values.index_select(1, indices)
