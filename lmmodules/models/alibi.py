"""ALiBi: attention with linear biases."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from lmmodules.errors import InputError
from lmmodules.models.alibi_attention import BidirectionalBias, CausalBias
from lmmodules.models.alibi_forms import LinearBiases
from lmmodules.models.checks import check_choice
from lmmodules.models.positions import PositionScheme

Bidirectional = Literal["symmetric", "one_sided", "offset"]


class Alibi(PositionScheme):
    """Scores fall linearly with distance, by a fixed slope per head; nothing is added to the embeddings.

    A causal query i adds -m (i - j) to its score of key j, after the division by the root of the head size. The
    slopes m are constants, the same in every layer; nothing depends on a longest length, and nothing is saved.

    Args:
        num_heads: Number of query heads of the model.
        bidirectional: What a bidirectional model does with keys that come later. `symmetric`: they fall as the
            earlier ones do, -m |i - j|. `one_sided`: half of the heads see only what came before and half only what
            comes after, both with the slopes of num_heads / 2 heads. `offset`: they fall by m (j - i - 1/2), so that
            no two neighbours are alike. A causal model does not use it.

    Raises:
        InputError: When `num_heads` is less than 1 or, with `one_sided`, odd.

    Source:
        Press et al. 2022, "Train Short, Test Long", section 3. Symmetric and one-sided: the authors' repository,
        issue 5. Offset: there, as "non-symmetric with offset".
    """

    def __init__(self, num_heads: int, bidirectional: Bidirectional = "symmetric") -> None:
        super().__init__()
        check_choice("position.bidirectional", bidirectional, get_args(Bidirectional))
        if bidirectional == "one_sided" and num_heads % 2:
            raise InputError(
                f"`num_heads` must be even with one-sided heads, but is {num_heads}; "
                "use `model.position.bidirectional=symmetric`"
            )
        self.num_heads = num_heads
        self.bidirectional = bidirectional
        self.slopes = alibi_slopes(num_heads)
        self.keep_heads(0, num_heads)

    def keep_heads(self, start: int, stop: int) -> None:
        """Keep the slopes of some of the heads, with their numbers in the whole model, as a tensor-parallel rank does.

        Args:
            start: First head.
            stop: One more than the last.

        Raises:
            InputError: When there are no such heads.
        """
        if not 0 <= start < stop <= self.num_heads:
            raise InputError(
                f"`start` and `stop` must be heads of the model (0 to {self.num_heads}), but are {start} and {stop}"
            )
        past, future = self._slopes_of_both_sides()
        self._causal = LinearBiases(self.slopes[start:stop])
        self._bidirectional = LinearBiases(
            past[start:stop], future[start:stop], offset=0.5 if self.bidirectional == "offset" else 0.0
        )

    def check(self, *, hidden_size: int, num_heads: int, head_dim: int) -> None:
        """One slope per query head.

        Raises:
            InputError: When there are more or fewer.
        """
        if self.num_heads != num_heads:
            raise InputError(
                f"`num_heads` of ALiBi must be that of the model ({num_heads}), but is {self.num_heads}; "
                f"use `model.position.num_heads={num_heads}`"
            )

    def bias(
        self, query_length: int, key_length: int, *, causal: bool, device: torch.device, dtype: torch.dtype
    ) -> CausalBias | BidirectionalBias:
        """Minus slope times distance, in whatever form serves the attention kernel best."""
        if causal:
            return CausalBias(self._causal, query_length, key_length, device, dtype)
        return BidirectionalBias(self._bidirectional, key_length, device, dtype)

    def _slopes_of_both_sides(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Slopes towards earlier and later keys; an infinite one hides that side."""
        if self.bidirectional != "one_sided":
            return self.slopes, self.slopes
        half = alibi_slopes(self.num_heads // 2)
        hidden = (float("inf"),) * len(half)
        return half + hidden, hidden + half

    def extra_repr(self) -> str:
        """Number of heads, and the form for bidirectional models."""
        return f"num_heads={self.num_heads}, bidirectional={self.bidirectional}"


def alibi_slopes(num_heads: int) -> tuple[float, ...]:
    """Slopes of the heads, in order.

    For a power of two n they are 2^(-8 / n), 2^(-16 / n), ..., 2^-8. Any other number takes those of the next smaller
    power c, and then every other slope of 2c from its first.

    Args:
        num_heads: Number of heads of the whole model, whichever of them a process holds.

    Raises:
        InputError: When it is less than 1.

    Source:
        `get_slopes` in ofirpress/attention_with_linear_biases, `fairseq/models/transformer.py`.
    """
    if num_heads < 1:
        raise InputError(f"`num_heads` must be positive, but is {num_heads}; use for example `model.num_heads=8`")
    power = 1 << (num_heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * k / power) for k in range(1, power + 1)]
    between = [2.0 ** (-4.0 * k / power) for k in range(1, 2 * power, 2)]
    return tuple(slopes + between[: num_heads - power])
