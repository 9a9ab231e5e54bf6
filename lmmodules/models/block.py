"""One layer of a transformer."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from lmmodules.models.attention import Attention
from lmmodules.models.cache import KVCache
from lmmodules.models.mlp import MLP
from lmmodules.models.visibility import Visibility

Norm = Literal["layer_norm", "rms_norm"]


def build_norm(norm: Norm, size: int, eps: float, *, bias: bool) -> nn.Module:
    """LayerNorm, with or without a bias, or RMSNorm, which has none."""
    return nn.LayerNorm(size, eps=eps, bias=bias) if norm == "layer_norm" else nn.RMSNorm(size, eps=eps)


class Block(nn.Module):
    """Attention and an MLP, each with a residual connection and a norm.

    Pre-norm: x + f(norm(x)). Post-norm, as published in 2017 and used by BERT: norm(x + f(x)).

    Args:
        attention: Self-attention.
        mlp: Feed-forward part.
        attention_norm: Norm of the attention's input (pre) or of its sum with the residual (post).
        mlp_norm: The same for the MLP.
        pre_norm: Where the norms stand.
        dropout: Probability of dropping an element of what is added to the residual.
    """

    def __init__(
        self,
        attention: Attention,
        mlp: MLP,
        *,
        attention_norm: nn.Module,
        mlp_norm: nn.Module,
        pre_norm: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention_norm = attention_norm
        self.attention = attention
        self.mlp_norm = mlp_norm
        self.mlp = mlp
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        hidden: Tensor,
        visibility: Visibility,
        rotation: tuple[Tensor, Tensor] | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, T, D) to (B, T, D), or to (M, D) of the `rows` alone; see `Attention.forward`."""
        source = self.attention_norm(hidden) if self.pre_norm else hidden
        gathered = self._dropped(self.attention(source, visibility, rotation, cache, layer, rows))
        if rows is not None:
            hidden = hidden.flatten(0, 1).index_select(0, rows)
        if self.pre_norm:
            hidden = hidden + gathered
            return hidden + self._dropped(self.mlp(self.mlp_norm(hidden)))
        hidden = self.attention_norm(hidden + gathered)
        return self.mlp_norm(hidden + self._dropped(self.mlp(hidden)))  # type: ignore[no-any-return]

    def _dropped(self, added: Tensor) -> Tensor:
        # Token by token, a call of a module that does nothing takes as long as a small product.
        return self.dropout(added) if self.training else added

    def extra_repr(self) -> str:
        """Where the norms stand."""
        return f"pre_norm={self.pre_norm}"
