"""Loss over the length of what a model is given to read: does it go on where its training ended?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lmmodules.errors import InputError, check_whole_number, check_whole_numbers
from lmmodules.objectives import LanguageModel

if TYPE_CHECKING:
    from lmmodules.data import CorpusDataModule
    from lmmodules.data.randomness import Int64Array
    from lmmodules.models.backbone import Backbone
    from lmmodules.objectives import Objective


@dataclass(frozen=True)
class Windows:
    """Windows of one size over a stream, of which only the last targets are scored.

    Attributes:
        starts: (n,) token that each begins with.
        size: Tokens that are read.
        scored: Targets that are scored.
    """

    starts: Int64Array
    size: int
    scored: int


def windows(num_targets: int, length: int, stride: int) -> Iterator[Windows]:
    """Windows that score every target of a stream once.

    The first scores all its targets, the others, each `stride` tokens on, those that no earlier one has. With a stride
    of `length` they do not overlap.

    Args:
        num_targets: Of the stream; its first token is none.
        length: Tokens of a window.
        stride: Tokens from one window to the next, at most `length`.
    """
    length = min(length, num_targets)
    yield Windows(np.zeros(1, dtype=np.int64), length, length)
    starts = np.arange(stride, num_targets - length + 1, stride)
    if len(starts):
        yield Windows(starts, length, stride)
    start = (len(starts) + 1) * stride
    scored = num_targets - length - len(starts) * stride
    if scored:
        yield Windows(np.array([start]), num_targets - start, scored)


@contextmanager
def _read_as_far_as_positions_reach(backbone: Backbone) -> Iterator[int | None]:
    """Lift the `max_length` of a model whose positions have no end: to read on behind it is what is asked for.

    Args:
        backbone: Of ours, or any other, whose limit stays.
    """
    position, limit = getattr(backbone, "position", None), backbone.max_length
    reach = limit if position is None or position.max_length is not None else None
    backbone.max_length = reach
    try:
        yield reach
    finally:
        backbone.max_length = limit


class Extrapolation:
    """Loss of a causal language model at several lengths, on the held-out text as one stream.

    The stream is cut into consecutive pieces, each read by itself: the longer they are, the more stands before a
    target. At every length the same targets are scored, all of them, whatever stands where a piece begins.

    Longer pieces have fewer beginnings, where little stands before a target, so loss falls with length even for a
    model that makes nothing of distant tokens: the early token curse. A sliding window, which moves by `stride` and
    scores only the new targets, tells both apart: what it gains over pieces of the same length is the curse.

    Args:
        lengths: Tokens of a piece, any number of them. Those beyond positions that end, as learned ones do, are
            left out, the last length is scored in their place, and the figures say so; where positions have no end,
            `max_length` of the model is none either.
        stride: Of the sliding window; `None` for no sliding window, which reads a token length / stride times.
        max_targets: Score only the first so many targets; `None` scores all.
        tokens_per_batch: Tokens that are read at once.

    Raises:
        InputError: When a length or another number is not positive, or the stride longer than a length; on use, when
            the model is no causal language model, or the text is too short.

    Source:
        Press et al. 2022, sections 2.2 and 4 (non-overlapping), appendix B (sliding window, early token curse).
    """

    def __init__(
        self,
        lengths: Sequence[int] = (128, 256, 512, 1024, 2048),
        stride: int | None = None,
        max_targets: int | None = None,
        tokens_per_batch: int = 16384,
    ) -> None:
        check_whole_numbers("lengths", lengths, least=1, remedy="evaluation.lengths=[128,256,512]")
        for name, value in (
            ("stride", stride),
            ("max_targets", max_targets),
            ("tokens_per_batch", tokens_per_batch),
        ):
            if value is not None:
                check_whole_number(name, value, least=1)
        self.lengths = sorted(set(lengths))
        self.stride = stride
        self._check_stride(self.lengths[0])
        self.max_targets = max_targets
        self.tokens_per_batch = tokens_per_batch

    def __call__(self, objective: Objective, data: CorpusDataModule) -> dict[str, Any]:
        """Score the validation text of the data at every length.

        Args:
            objective: In evaluation mode.
            data: Prepared; its packing, transform and length are not used.

        Returns:
            `lengths`, a row for each: `length`, `loss` and `perplexity` of pieces, and with a stride `sliding_loss`,
            `sliding_perplexity` and `early_token_curse`, the difference of the losses. Then the number of `targets`
            scored at each, `unigram_entropy`, and, where lengths were left out, a `note`.

        Raises:
            InputError: When the model is no causal language model, the text is too short, or the stride longer than
                the positions of the model reach.
        """
        if not isinstance(objective, LanguageModel) or not objective.backbone.causal:
            raise InputError(
                f"`evaluation=extrapolation` needs a causal language model, but the checkpoint is of "
                f"`{type(objective).__name__}`; use `evaluation=perplexity`"
            )
        with _read_as_far_as_positions_reach(objective.backbone) as limit:
            lengths, note = self._reachable(limit)
            self._check_stride(lengths[0])
            return self._figures(objective, data, lengths, note)

    def _figures(
        self, objective: LanguageModel, data: CorpusDataModule, lengths: list[int], note: str
    ) -> dict[str, Any]:
        store = data.validation_samples.store
        num_targets = min(len(store) - 1, self.max_targets or len(store))
        if num_targets < lengths[-1]:
            raise InputError(
                f"`lengths` must not exceed the held-out text ({num_targets} targets), but one is {lengths[-1]}; "
                "use a shorter one, or more text in `data.path`"
            )
        tokens = np.asarray(store.tokens[: num_targets + 1], dtype=np.int64)
        rows = []
        for length in lengths:
            loss = self._score(objective, tokens, length, length)
            row = {"length": length, "loss": loss, "perplexity": _perplexity(loss)}
            if self.stride is not None:
                sliding = self._score(objective, tokens, length, self.stride)
                row |= {"sliding_loss": sliding, "sliding_perplexity": _perplexity(sliding)}
                row["early_token_curse"] = loss - sliding
            rows.append(row)
        figures = {"lengths": rows, "targets": num_targets, "unigram_entropy": data.unigram_entropy()}
        return figures | ({"note": note} if note else {})

    def curves(self, figures: dict[str, Any]) -> dict[str, list[tuple[int, float]]]:
        """Perplexity over length, by the way of scoring.

        Args:
            figures: As returned.
        """
        ways = {"side by side": "perplexity", "sliding window": "sliding_perplexity"}
        curves = {
            way: [(row["length"], row[key]) for row in figures["lengths"] if key in row] for way, key in ways.items()
        }
        return {way: curve for way, curve in curves.items() if curve}

    def _check_stride(self, shortest: int) -> None:
        if self.stride is not None and self.stride > shortest:
            raise InputError(
                f"`stride` must not be longer than the shortest of the lengths that are scored ({shortest}), or "
                f"targets would be left out, but is {self.stride}; use `evaluation.stride={shortest}`"
            )

    def _reachable(self, max_length: int | None) -> tuple[list[int], str]:
        """The lengths that a model has positions for, and what there is to say."""
        if max_length is None or self.lengths[-1] <= max_length:
            return self.lengths, ""
        beyond = [length for length in self.lengths if length > max_length]
        within = [length for length in self.lengths if length <= max_length]
        note = f"the model's positions end at {max_length}: {', '.join(map(str, beyond))} could not be scored"
        return (within if max_length in within else [*within, max_length]), note

    def _score(self, objective: LanguageModel, tokens: Int64Array, length: int, stride: int) -> float:
        """Mean loss, in nats per target."""
        total, count = 0.0, 0
        for group in windows(len(tokens) - 1, length, stride):
            rows = max(1, self.tokens_per_batch // group.size)
            for first in range(0, len(group.starts), rows):
                places = group.starts[first : first + rows, None] + np.arange(group.size + 1)
                part, number = _sum_losses(objective, torch.from_numpy(tokens[places]), group.scored)
                total, count = total + part, count + number
        assert count == len(tokens) - 1
        return total / count


def _sum_losses(objective: LanguageModel, blocks: torch.Tensor, scored: int) -> tuple[float, int]:
    """Nats and number of the last targets of blocks (B, T + 1)."""
    blocks = blocks.to(objective.device)
    batch_size, length = blocks.shape[0], blocks.shape[1] - 1
    with torch.inference_mode():
        places = torch.arange(batch_size * length, device=blocks.device).view(batch_size, length)
        rows = places[:, length - scored :].flatten()
        hidden = objective.hidden_states({"input_ids": blocks[:, :-1]}, rows=rows)
        term = objective.cross_entropy(hidden, blocks[:, -scored:].flatten())["loss"]
    return float(term.sum), int(term.count)


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))
