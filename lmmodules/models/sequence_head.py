"""From the state of a sequence's first token to a point on the unit sphere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SequenceHead(nn.Module):
    """A vector of length 1 for a whole sequence: dense, GELU, LayerNorm, division by the length.

    Args:
        hidden_size: Size D of a hidden state.
        size: Of the vector, S; `None` for `hidden_size`.
        norm_eps: Epsilon of the LayerNorm.
        initializer_std: Standard deviation of the initial matrix.

    Source:
        Meng et al. 2021, section 3; microsoft/COCO-LM, `fairseq/fairseq/models/cocolm/model.py`, `SCLHead`.
    """

    def __init__(
        self, hidden_size: int, size: int | None = None, *, norm_eps: float = 1e-5, initializer_std: float = 0.02
    ) -> None:
        super().__init__()
        self.initializer_std = initializer_std
        self.dense = nn.Linear(hidden_size, size or hidden_size)
        self.norm = nn.LayerNorm(size or hidden_size, eps=norm_eps)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the matrix from N(0, `initializer_std`), set its bias to zero and the norm to the identity."""
        nn.init.normal_(self.dense.weight, std=self.initializer_std)
        nn.init.zeros_(self.dense.bias)
        self.norm.reset_parameters()

    def forward(self, first: Tensor) -> Tensor:
        """Vectors (..., S) of the states (..., D) of first tokens, in float32 at least."""
        features = self.norm(F.gelu(self.dense(first)))
        return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)

    def flops_per_sequence(self) -> int:
        """Floating-point operations of one forward: two per element of the matrix."""
        return 2 * self.dense.weight.numel()
