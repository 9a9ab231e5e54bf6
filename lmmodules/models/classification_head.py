"""From the state of one token to what is said of the whole sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmmodules.errors import InputError
from lmmodules.models.checks import check_positive


class ClassificationHead(nn.Module):
    """A few numbers for a sequence, from the state of its first token: dropout, dense, tanh, dropout, linear.

    In evaluation it is RoBERTa's classification head, and BERT's pooler with the classifier on top of it.

    Args:
        hidden_size: Size D of a hidden state.
        num_outputs: Numbers per sequence, C.
        dropout: Probability of dropping an element, before the dense layer and before the last one.
        initializer_std: Standard deviation of the initial matrices.

    Raises:
        InputError: When a size is not positive, or `dropout` is out of range.

    Source:
        Liu et al. 2019; fairseq, `models/roberta/model.py`, `RobertaClassificationHead`, whose default is no dropout
        (`pooler_dropout`). Devlin et al. 2019 drop only before the last layer.

    Differences:
        fairseq leaves the matrices as `nn.Linear` draws them; here they are normal, as all of BERT's are.
    """

    def __init__(
        self, hidden_size: int, num_outputs: int, *, dropout: float = 0.0, initializer_std: float = 0.02
    ) -> None:
        super().__init__()
        check_positive(hidden_size=hidden_size, num_outputs=num_outputs)
        if not 0.0 <= dropout < 1.0:
            raise InputError(
                f"`pooler_dropout` must be at least 0 and less than 1, but is {dropout}; use "
                "`objective.pooler_dropout=0.1`"
            )
        self.initializer_std = initializer_std
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, num_outputs)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the matrices from N(0, `initializer_std`) and set the biases to zero."""
        for layer in (self.dense, self.output):
            nn.init.normal_(layer.weight, std=self.initializer_std)
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """Outputs (..., C) of states (..., D)."""
        outputs: Tensor = self.output(self.dropout(torch.tanh(self.dense(self.dropout(pooled)))))
        return outputs

    def flops_per_sequence(self) -> int:
        """Floating-point operations of one forward: two per element of each matrix."""
        return 2 * (self.dense.weight.numel() + self.output.weight.numel())
