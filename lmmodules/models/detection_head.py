"""Whether the token at a position is the one that was written there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DetectionHead(nn.Module):
    """A logit for every position: that its token is the original, and to be copied.

    Args:
        hidden_size: Size D of a hidden state.
        transform: Whether states first pass dense and GELU, as in ELECTRA's discriminator. COCO-LM's copy head is the
            one vector alone.
        initializer_std: Standard deviation of the initial matrices.

    Source:
        Clark et al. 2020, section 2; google-research/electra, `run_pretraining.py`, `_get_discriminator_output`. Meng
        et al. 2021; microsoft/COCO-LM, `fairseq/fairseq/models/cocolm/model.py`.

    Differences:
        ELECTRA's logit says that the token was replaced; this one says that it was not, as COCO-LM's: a change of sign.
    """

    def __init__(self, hidden_size: int, *, transform: bool = False, initializer_std: float = 0.02) -> None:
        super().__init__()
        self.initializer_std = initializer_std
        self.dense = nn.Linear(hidden_size, hidden_size) if transform else None
        self.output = nn.Linear(hidden_size, 1)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the matrices from N(0, `initializer_std`) and set the biases to zero."""
        for layer in (self.dense, self.output):
            if layer is not None:
                nn.init.normal_(layer.weight, std=self.initializer_std)
                nn.init.zeros_(layer.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits (...) of hidden states (..., D)."""
        features = hidden if self.dense is None else F.gelu(self.dense(hidden))
        logits: Tensor = self.output(features)
        return logits.squeeze(-1)

    def flops_per_token(self) -> int:
        """Floating-point operations of one forward per row: two per element of each matrix."""
        return 2 * sum(layer.weight.numel() for layer in (self.dense, self.output) if layer is not None)
