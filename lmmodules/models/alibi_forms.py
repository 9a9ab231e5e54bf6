"""Linear biases as tensors: one definition, and three forms that attention kernels like better.

The *distance* form, -m |i - j| written out, is the definition. A softmax does not change when a number is added to a
whole row of scores, so causal queries may as well add -m (n - j), with n the last key: one *row* of numbers per head
that serves every query. The same product can be *folded* into the scores, as more dimensions of queries and keys,
which any kernel multiplies. *Clipped* is the distance form without what no softmax would notice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

NEGLIGIBLE = 60.0
"""Nats below which the clipped form hides a key: e^-60 is 1e-26, and what a backward pass makes of it a denormal."""
FOLDED = 8
"""Dimensions that folding adds. Four are used; kernels like multiples of eight."""


class LinearBiases:
    """The biases of some heads, each form made when first asked for and kept for the next layer and step.

    They are no buffers: `module.to(torch.bfloat16)` would round them, and checkpoints would hold them.

    Args:
        past: Slope of each head towards earlier keys; infinity hides them.
        future: Slope of each head towards later keys; `None` hides them.
        offset: What is taken off the distance of later keys.
    """

    def __init__(self, past: Sequence[float], future: Sequence[float] | None = None, offset: float = 0.0) -> None:
        self.past = tuple(past)
        self.future = (math.inf,) * len(self.past) if future is None else tuple(future)
        self.offset = offset
        self.num_heads = len(self.past)
        self.steepest = max(self.past)
        self._kept: dict[str, tuple[object, Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without the tensors, which a pickle or a copy makes again."""
        return {**vars(self), "_kept": {}}

    def distance(self, query_length: int, key_length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Minus slope times distance, (1, H, query_length, key_length), of the last `query_length` tokens.

        Right in every dtype: near keys, which count, have small numbers.
        """

        def compute() -> Tensor:
            keys = torch.arange(key_length, device=device)
            ahead = (keys - keys[key_length - query_length :, None]).to(_precise(dtype))  # (T, keys)
            later = _per_head(self.future, ahead) * (self.offset - ahead)
            earlier = _per_head(self.past, ahead) * ahead
            return torch.where(ahead > 0, later, torch.where(ahead < 0, earlier, 0.0)).to(dtype)

        return self._keep("distance", (query_length, key_length, device, dtype), compute)

    def clipped(self, length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The distance form, (1, H, length, length), minus infinity where it is far below any score."""

        def compute() -> Tensor:
            bias = self.distance(length, length, device, dtype)
            return bias.masked_fill(bias < -NEGLIGIBLE, -math.inf)

        return self._keep("clipped", (length, device, dtype), compute)

    def row(self, key_length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """What the last query adds to its scores, (1, H, 1, key_length); for the others it is off by a constant.

        In half precision it is right for the last query alone. At another one, the near keys, which count, have
        numbers of hundreds, and those are rounded to whole units.
        """

        def compute(distances: Tensor) -> Tensor:
            distances = distances.to(_precise(dtype))
            return (-_per_head(self.past, distances) * distances).transpose(2, 3).to(dtype)

        return self._until_last_key("row", key_length, device, dtype, compute).transpose(2, 3)

    def folded_key(self, key_length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """What keys get beside their K dimensions, (1, 1, key_length, 8).

        Their positions, as multiples of 256 and a rest, both of which bfloat16 holds exactly.
        """

        def compute(distances: Tensor) -> Tensor:
            rest = (-distances).remainder(256)
            multiple = -distances - rest
            return F.pad(torch.stack([multiple, rest, multiple, rest], dim=-1), (0, FOLDED - 4))[None, None].to(dtype)

        return self._until_last_key("folded_key", key_length, device, dtype, compute)

    def folded_query(self, head_dim: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """What queries get beside their K dimensions, (1, H, 1, 8).

        The slope, divided by the factor that scores are multiplied by, and once more what rounding took off it.
        """

        def compute() -> Tensor:
            exact = torch.tensor(self.past, device=device, dtype=torch.float64) * math.sqrt(head_dim)
            slope = exact.to(dtype)
            rest = (exact - slope).to(dtype)
            columns = torch.stack([slope, slope, rest, rest], dim=-1)  # (H, 4)
            return F.pad(columns, (0, FOLDED - 4))[None, :, None]

        return self._keep("folded_query", (head_dim, device, dtype), compute)

    def _until_last_key(
        self,
        form: str,
        key_length: int,
        device: torch.device,
        dtype: torch.dtype,
        compute: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """The end of a table (1, H or 1, length, columns) by distance from the last key, which serves all lengths."""
        kept = self._kept.get(form)
        if kept is None or kept[0] != (device, dtype) or kept[1].shape[2] < key_length:
            # Powers of two, so that decoding token by token makes the table seldom.
            distances = torch.arange((1 << (key_length - 1).bit_length()) - 1, -1, -1, device=device)
            self._kept.pop(form, None)
            table = self._keep(form, (device, dtype), lambda: compute(distances))
        else:
            table = kept[1]
        return table[:, :, table.shape[2] - key_length :]

    def _keep(self, form: str, key: object, compute: Callable[[], Tensor]) -> Tensor:
        kept = self._kept.get(form)
        if kept is None or kept[0] != key:
            # Not in inference mode, because training cannot use what was made there.
            with torch.inference_mode(False), torch.no_grad():
                kept = (key, compute())
            if not isinstance(kept[1], FakeTensor):  # of a network that is counted and not computed
                self._kept[form] = kept
        return kept[1]


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _per_head(slopes: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(slopes, device=like.device, dtype=like.dtype)[None, :, None, None]
