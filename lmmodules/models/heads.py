"""From hidden states to logits over the vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from lmmodules.errors import InputError
from lmmodules.models.mlp import ACTIVATIONS
from lmmodules.parallel.vocabulary_parallel import gathered_logits, is_vocabulary_parallel

STEPS_WORTH_A_LAYOUT = 32


class LanguageModelHead(nn.Module):
    """A logit for every token of the vocabulary.

    A tied head has no output matrix of its own: it receives the token embedding as an argument, so that the weight is
    registered once, in the backbone, and cannot come untied when modules are sharded or copied.

    Args:
        hidden_size: Size D of a hidden state.
        vocab_size: Number of tokens V.
        tied: Whether the output matrix is the token embedding.
        transform: Whether hidden states first pass dense, activation and LayerNorm, as in BERT and RoBERTa.
        activation: That of the transform.
        norm_eps: Epsilon of the transform's LayerNorm.
        bias: Whether logits have a bias, initialised to zero.
        initializer_std: Standard deviation of the initial weights.
        embedding_size: Size E of the rows of the output matrix, to which the transform takes hidden states; `None` for
            as large as these.

    Raises:
        InputError: When the sizes differ and no transform goes from one to the other.

    Source:
        Press & Wolf 2017 (tied output); Devlin et al. 2019, `get_masked_lm_output` in google-research/bert (transform).
    """

    def __init__(
        self,
        hidden_size: int,
        vocab_size: int,
        *,
        tied: bool = True,
        transform: bool = False,
        activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu",
        norm_eps: float = 1e-5,
        bias: bool = False,
        initializer_std: float = 0.02,
        embedding_size: int | None = None,
    ) -> None:
        super().__init__()
        embedding_size = hidden_size if embedding_size is None else embedding_size
        if embedding_size != hidden_size and not transform:
            raise InputError(
                f"`embedding_size` must be `hidden_size` ({hidden_size}) in a head without a transform, but is "
                f"{embedding_size}; use `model.embedding_size={hidden_size}`"
            )
        if activation not in ("gelu", "gelu_tanh", "relu"):
            raise InputError(
                f"`activation` must be one of gelu, gelu_tanh, relu in a head, but is {activation!r}; "
                "use `objective.head.activation=gelu`"
            )
        self.hidden_size = hidden_size
        self.embedding_size = embedding_size
        self.vocab_size = vocab_size
        self.tied = tied
        self.activation = activation
        self.initializer_std = initializer_std
        self.dense = nn.Linear(hidden_size, embedding_size) if transform else None
        self.norm = nn.LayerNorm(embedding_size, eps=norm_eps) if transform else None
        self.weight = None if tied else nn.Parameter(torch.empty(vocab_size, embedding_size))
        self.bias = nn.Parameter(torch.empty(vocab_size)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw weights from N(0, `initializer_std`), set biases to zero and norms to the identity."""
        if self.dense is not None and self.norm is not None:
            nn.init.normal_(self.dense.weight, std=self.initializer_std)
            nn.init.zeros_(self.dense.bias)
            self.norm.reset_parameters()
        if self.weight is not None:
            nn.init.normal_(self.weight, std=self.initializer_std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def features(self, hidden: Tensor) -> Tensor:
        """What the output matrix is applied to: the transformed states (..., E), or the states themselves."""
        if self.dense is None or self.norm is None:
            return hidden
        return self.norm(ACTIVATIONS[self.activation](self.dense(hidden)))  # type: ignore[no-any-return]

    def output_weight(self, embedding_weight: Tensor) -> Tensor:
        """The output matrix (V, E): the given token embedding when tied, the head's own otherwise."""
        return embedding_weight if self.weight is None else self.weight

    def forward(self, hidden: Tensor, embedding_weight: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., D).

        Args:
            hidden: Output of the backbone.
            embedding_weight: (V, E) token embedding of the backbone.
        """
        weight = self.output_weight(embedding_weight)
        if is_vocabulary_parallel(weight):
            return gathered_logits(self.features(hidden), weight, self.bias)
        return nn.functional.linear(self.features(hidden), weight, self.bias)

    def for_writing(self, embedding_weight: Tensor, batch_size: int, steps: int) -> Callable[[Tensor], Tensor]:
        """The head for the same few rows many times, as writing token by token needs it.

        On a CPU a step waits for the output matrix to come from memory, at a speed that depends on how the product
        is asked for: one row with the matrix laid out by columns takes half the time, and so do several rows as
        columns behind the matrix.

        Args:
            embedding_weight: (V, E) token embedding of the backbone.
            batch_size: Number of rows B of every step.
            steps: How many there will be at most. Laying out the matrix anew, once and in memory of its own, costs
                about as much as `STEPS_WORTH_A_LAYOUT` of them save.

        Returns:
            Logits (B, V) of hidden states (B, D).
        """
        weight = self.output_weight(embedding_weight)
        plain = is_vocabulary_parallel(weight) or weight.device.type != "cpu" or weight.dtype != torch.float32
        if plain or torch.is_autocast_enabled("cpu") or (batch_size == 1 and steps < STEPS_WORTH_A_LAYOUT):
            return lambda hidden: self(hidden, embedding_weight)
        columns = weight.t().contiguous() if batch_size == 1 else None

        def logits(hidden: Tensor) -> Tensor:
            features = self.features(hidden)
            product = torch.mm(weight, features.t()).t() if columns is None else torch.mm(features, columns)
            return product if self.bias is None else product + self.bias

        return logits

    def flops_per_token(self) -> int:
        """Floating-point operations of one forward per row: two per element of each matrix, the tied one included."""
        transform = 0 if self.dense is None else self.hidden_size * self.embedding_size
        return 2 * (transform + self.embedding_size * self.vocab_size)

    def extra_repr(self) -> str:
        """What the submodules alone do not show."""
        return f"tied={self.tied}, bias={self.bias is not None}"
