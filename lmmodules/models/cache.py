"""Keys and values of tokens already read, so that decoding computes only those of the new ones."""

from __future__ import annotations

from typing import NamedTuple

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
        self.num_layers = num_layers
        self.max_length = max_length
        self.length = 0
        # Keys of all layers, and then values, so that one operator finds a place in all of them.
        shape = (2 * num_layers, batch_size, num_kv_heads, max_length, head_dim)
        self._tensors = torch.zeros(shape, device=device, dtype=dtype)
        self._views: _Views | None = None

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

    @property
    def keys(self) -> Tensor:
        """(layers, B, kv_heads, max_length, K), of which the first `length` tokens count."""
        return self._tensors[: self.num_layers]

    @property
    def values(self) -> Tensor:
        """(layers, B, kv_heads, max_length, K), of which the first `length` tokens count."""
        return self._tensors[self.num_layers :]

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
        places = layer, self.num_layers + layer
        if torch.is_grad_enabled():  # in which views end with the next write to what they are views of
            keys, values = (self._write(place, new) for place, new in zip(places, (key, value), strict=True))
            return keys, values
        if self._views is None or self._views.length != key.shape[2]:
            self._views = self._view(key.shape[2])
        new, seen = self._views.new, self._views.seen
        new[places[0]].copy_(key)
        new[places[1]].copy_(value)
        return seen[places[0]], seen[places[1]]

    def _write(self, place: int, new: Tensor) -> Tensor:
        """Write to one layer, and return what it holds then."""
        end = self._end(new.shape[2])
        self._tensors[place, :, :, self.length : end].copy_(new)
        return self._tensors[place, :, :, :end]

    def _view(self, length: int) -> _Views:
        """Views of all layers at once: token by token, finding each by itself takes longer than writing to it."""
        end = self._end(length)
        new, seen = self._tensors.narrow(3, self.length, length), self._tensors.narrow(3, 0, end)
        return _Views(length, new.unbind(), seen.unbind())

    def _end(self, length: int) -> int:
        """Number of tokens after so many more."""
        end = self.length + length
        if end > self.max_length:
            raise InputError(
                f"`max_length` of the cache is {self.max_length}, but {end} tokens were given; make it "
                f"with `max_length={end}`"
            )
        return end

    def advance(self, length: int) -> None:
        """Count `length` more tokens, when every layer has been appended to."""
        self.length += length
        self._views = None

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens.

        Raises:
            InputError: When there are not so many.
        """
        if not 0 <= length <= self.length:
            raise InputError(f"`length` must be between 0 and the {self.length} cached tokens, but is {length}")
        self.length = length
        self._views = None

    def reorder(self, indices: Tensor) -> None:
        """Let sequence b continue what was sequence `indices[b]`, as beam search does.

        Args:
            indices: (B,) int64.
        """
        self._tensors = self._tensors.index_select(1, indices)
        self._views = None


class _Views(NamedTuple):
    """Where the tokens of one forward go and what they see: keys of each layer, then values of each."""

    length: int
    new: tuple[Tensor, ...]  # (B, kv_heads, T, K)
    seen: tuple[Tensor, ...]  # (B, kv_heads, length + T, K)
