"""Prompt encoders: networks without an input, whose output is the embeddings of pseudo-tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from lmmodules.errors import InputError
from lmmodules.models.checks import check_choice, check_positive, check_probability


class PromptEncoder(nn.Module, ABC):
    """P vectors of the size of token embeddings, computed from P seeds.

    Nothing of an example enters, so the output is the same for all of a batch, and after training it is all that is
    needed.

    Args:
        num_tokens: Pseudo-tokens P.
        embedding_size: Size E of a token embedding.
    """

    def __init__(self, num_tokens: int, embedding_size: int) -> None:
        super().__init__()
        check_positive(num_tokens=num_tokens, embedding_size=embedding_size)
        self.num_tokens = num_tokens
        self.embedding_size = embedding_size
        self.seeds = nn.Embedding(num_tokens, embedding_size)

    @abstractmethod
    def forward(self) -> Tensor:
        """Embeddings of the pseudo-tokens, (P, E)."""


class LSTMPromptEncoder(PromptEncoder):
    """Seeds through an LSTM of two layers in both directions, and an MLP.

    Args:
        num_tokens: Pseudo-tokens P.
        embedding_size: Size E of a token embedding.
        lstm_size: Hidden size of each direction; `None` for E / 2, as for LAMA, where the few-shot code has E.
        dropout: Probability of dropping an element between the two layers.

    Raises:
        InputError: When E is odd and `lstm_size` is left open.

    Source:
        Liu et al. 2021, "GPT Understands, Too", section 2.2; `LAMA/p_tuning/prompt_encoder.py` and
        `PT-Fewshot/pet/wrapper.py` of THUDM/P-tuning.
    """

    def __init__(
        self, num_tokens: int, embedding_size: int, *, lstm_size: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__(num_tokens, embedding_size)
        check_probability("dropout", dropout)
        if lstm_size is None and embedding_size % 2:
            raise InputError(
                f"`embedding_size` must be even for two directions of an LSTM, but is {embedding_size}; "
                "use `objective.encoder=mlp`"
            )
        lstm_size = embedding_size // 2 if lstm_size is None else lstm_size
        self.lstm = nn.LSTM(embedding_size, lstm_size, 2, dropout=dropout, bidirectional=True)
        self.mlp = _two_layers(2 * lstm_size, embedding_size)

    def forward(self) -> Tensor:
        """Embeddings of the pseudo-tokens, (P, E)."""
        embeddings: Tensor = self.mlp(self.lstm(self.seeds.weight)[0])
        return embeddings


class MLPPromptEncoder(PromptEncoder):
    """Seeds through an MLP, each by itself.

    Args:
        num_tokens: Pseudo-tokens P.
        embedding_size: Size E of a token embedding.

    Source:
        `PT-Fewshot/pet/wrapper.py` of THUDM/P-tuning, `prompt_encoder_type=mlp`.
    """

    def __init__(self, num_tokens: int, embedding_size: int) -> None:
        super().__init__(num_tokens, embedding_size)
        self.mlp = _two_layers(embedding_size, embedding_size)

    def forward(self) -> Tensor:
        """Embeddings of the pseudo-tokens, (P, E)."""
        embeddings: Tensor = self.mlp(self.seeds.weight)
        return embeddings


class PlainPromptEncoder(PromptEncoder):
    """The embeddings themselves are learned.

    Args:
        num_tokens: Pseudo-tokens P.
        embedding_size: Size E of a token embedding.
        initializer_std: Standard deviation of the first embeddings, best that of the tokens'.

    Source:
        Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", section 2.
    """

    def __init__(self, num_tokens: int, embedding_size: int, *, initializer_std: float = 0.02) -> None:
        super().__init__(num_tokens, embedding_size)
        nn.init.normal_(self.seeds.weight, std=initializer_std)

    def forward(self) -> Tensor:
        """Embeddings of the pseudo-tokens, (P, E)."""
        return self.seeds.weight


def _two_layers(input_size: int, size: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(input_size, size), nn.ReLU(), nn.Linear(size, size))


def _lstm(num_tokens: int, size: int, dropout: float, std: float) -> PromptEncoder:
    return LSTMPromptEncoder(num_tokens, size, dropout=dropout)


def _lstm_few_shot(num_tokens: int, size: int, dropout: float, std: float) -> PromptEncoder:
    return LSTMPromptEncoder(num_tokens, size, lstm_size=size, dropout=dropout)


def _mlp(num_tokens: int, size: int, dropout: float, std: float) -> PromptEncoder:
    return MLPPromptEncoder(num_tokens, size)


def _embeddings(num_tokens: int, size: int, dropout: float, std: float) -> PromptEncoder:
    return PlainPromptEncoder(num_tokens, size, initializer_std=std)


ENCODERS: Mapping[str, Callable[[int, int, float, float], PromptEncoder]] = MappingProxyType(
    {"lstm": _lstm, "lstm_few_shot": _lstm_few_shot, "mlp": _mlp, "embeddings": _embeddings}
)
"""Encoders by the names they have in a configuration: of so many tokens and such a size, dropout and deviation."""


class PromptTable(nn.Module):
    """The pseudo-tokens of several tasks as the rows of one matrix, each task with an encoder of its own.

    Args:
        lengths: Pseudo-tokens of each task; a task may have none.
        embedding_size: Size E of a token embedding.
        encoder: One of `ENCODERS`.
        dropout: Of an LSTM, between its layers.
        initializer_std: Of plain embeddings.

    Raises:
        InputError: When there is no such encoder, or an LSTM's dropout is asked of another.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        embedding_size: int,
        *,
        encoder: str = "lstm",
        dropout: float = 0.0,
        initializer_std: float = 0.02,
    ) -> None:
        super().__init__()
        check_choice("encoder", encoder, tuple(ENCODERS))
        if dropout and not encoder.startswith("lstm"):
            raise InputError(
                f"`encoder_dropout` lies between the layers of an LSTM, but `encoder` is {encoder}; use "
                "`objective.encoder_dropout=0`"
            )
        self.lengths = tuple(lengths)
        self.embedding_size = embedding_size
        self.encoders = nn.ModuleList(
            ENCODERS[encoder](length, embedding_size, dropout, initializer_std) for length in lengths if length
        )

    def forward(self) -> Tensor | None:
        """All pseudo-tokens, (P, E), task after task; `None` where there are none."""
        if not len(self.encoders):
            return None
        return torch.cat([encoder() for encoder in self.encoders])
