"""ALiBi: attention with linear biases."""

from __future__ import annotations

import torch
from torch import Tensor

from lmmodules.errors import InputError
from lmmodules.models.positions import PositionScheme


class Alibi(PositionScheme):
    """Scores fall linearly with distance, by a fixed slope per head; nothing is added to the embeddings.

    A causal query i adds -m (i - j) to its score of key j, a bidirectional one -m |i - j|. The bias counts distances
    and not key positions: m j alone would give the same softmax, but in bfloat16 its rounding reaches whole units
    at the near keys that matter.

    Args:
        num_heads: Number of query heads of the model.

    Source:
        Press et al. 2022, "Train Short, Test Long", section 3. Bidirectional form: the authors' repository, issue 5.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.slopes = alibi_slopes(num_heads)
        self._last: tuple[tuple[int, bool, torch.device, torch.dtype], Tensor] | None = None

    def check(self, *, hidden_size: int, num_heads: int, head_dim: int) -> None:
        """One slope per query head."""
        if len(self.slopes) != num_heads:
            raise InputError(
                f"`num_heads` of ALiBi must be that of the model ({num_heads}), but is {len(self.slopes)}; "
                f"use `model.position.num_heads={num_heads}`"
            )

    def bias(
        self, query_length: int, key_length: int, *, causal: bool, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        """Minus slope times distance, (1, H, query_length, key_length); that of the last full length is kept."""
        if query_length != key_length:
            return self._compute(query_length, key_length, causal, device, dtype)
        key = (key_length, causal, device, dtype)
        if self._last is None or self._last[0] != key:
            # Not in inference mode, because training cannot use what was made there.
            with torch.inference_mode(False), torch.no_grad():
                self._last = (key, self._compute(query_length, key_length, causal, device, dtype))
        return self._last[1]

    def _compute(
        self, query_length: int, key_length: int, causal: bool, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        precise = torch.promote_types(dtype, torch.float32)
        slopes = torch.tensor(self.slopes, device=device, dtype=precise)[None, :, None, None]
        keys = torch.arange(key_length, device=device)
        queries = keys[key_length - query_length :, None]
        bias = -slopes * (queries - keys).abs()  # (1, H, query_length, key_length)
        if causal:
            bias = bias.masked_fill(keys > queries, float("-inf"))
        return bias.to(dtype)

    def extra_repr(self) -> str:
        """Number of heads."""
        return f"num_heads={len(self.slopes)}"


def alibi_slopes(num_heads: int) -> tuple[float, ...]:
    """Slopes of the heads, in order.

    For a power of two n they are 2^(-8 / n), 2^(-16 / n), ..., 2^-8. Any other number takes those of the next smaller
    power c, and then every other slope of 2c from its first.

    Source:
        `get_slopes` in ofirpress/attention_with_linear_biases, `fairseq/models/transformer.py`.
    """
    if num_heads < 1:
        raise InputError(f"`num_heads` must be positive, but is {num_heads}; use for example `model.num_heads=8`")
    power = 1 << (num_heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * k / power) for k in range(1, power + 1)]
    between = [2.0 ** (-4.0 * k / power) for k in range(1, 2 * power, 2)]
    return tuple(slopes + between[: num_heads - power])
