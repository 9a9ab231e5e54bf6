"""Who sees whom in attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


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
