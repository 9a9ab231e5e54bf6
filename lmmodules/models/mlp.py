"""The feed-forward half of a block."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["gelu", "gelu_tanh", "relu", "swiglu"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "swiglu": F.silu,
}
"""What is applied between the matrices; for `swiglu`, what is applied to the gate."""


class MLP(nn.Module):
    """Two matrices with an activation between, down(f(up(x))), or gated, down(silu(gate(x)) * up(x)).

    Args:
        hidden_size: Size D of a hidden state.
        intermediate_size: Size between the matrices.
        activation: `gelu` is exact (erf), `gelu_tanh` its approximation, `swiglu` the gated form.
        bias: Whether the matrices have biases.

    Source:
        Hendrycks & Gimpel 2016 (GELU); Shazeer 2020, "GLU Variants Improve Transformer" (SwiGLU).
    """

    def __init__(self, hidden_size: int, intermediate_size: int, *, activation: Activation, bias: bool) -> None:
        super().__init__()
        self.activation = activation
        self.up = nn.Linear(hidden_size, intermediate_size, bias=bias)
        self.gate = nn.Linear(hidden_size, intermediate_size, bias=bias) if activation == "swiglu" else None
        self.down = nn.Linear(intermediate_size, hidden_size, bias=bias)
        self.activate = ACTIVATIONS[activation]

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., D) to (..., D)."""
        if self.gate is None:
            inner = self.activate(self.up(hidden))
        else:
            inner = self.activate(self.gate(hidden)) * self.up(hidden)
        return self.down(inner)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """The activation."""
        return f"activation={self.activation}"
