"""Gaps in held-out text, and how near a text comes to what stood in one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lmmodules.data.samples import Samples
from lmmodules.errors import InputError

if TYPE_CHECKING:
    from lmmodules.data.base import DataModule

_MOST_DRAWS = 20  # places looked at for one gap


@dataclass(frozen=True)
class Gap:
    """A text with a gap.

    Attributes:
        prefix: Before the gap.
        middle: What was taken out.
        suffix: Behind the gap.
    """

    prefix: str
    middle: str
    suffix: str


def take_line(text: str, max_gap: int, generator: np.random.Generator) -> Gap | None:
    """Take a line out of a text, with its line break and at least a line left on either side.

    Args:
        text: Any text.
        max_gap: Longest line, in characters.
        generator: Chooses among the lines that are not blank.

    Returns:
        The gap, or `None` where there is no such line.
    """
    lines = text.splitlines(keepends=True)
    found = [
        number
        for number in range(1, len(lines) - 1)
        if lines[number].strip() and lines[number].endswith("\n") and len(lines[number]) <= max_gap
    ]
    if not found:
        return None
    number = int(generator.choice(found))
    return Gap("".join(lines[:number]), lines[number], "".join(lines[number + 1 :]))


def take_span(text: str, max_gap: int, generator: np.random.Generator) -> Gap | None:
    """Take characters out of a text, with at least one left on either side; words may be torn.

    Args:
        text: Any text.
        max_gap: Most characters.
        generator: Chooses their number and their place.

    Returns:
        The gap, or `None` where the text is too short.
    """
    longest = min(max_gap, len(text) - 2)
    if longest < 1:
        return None
    size = int(generator.integers(1, longest + 1))
    start = int(generator.integers(1, len(text) - size))
    return Gap(text[:start], text[start : start + size], text[start + size :])


KINDS: Mapping[str, Callable[[str, int, np.random.Generator], Gap | None]] = {
    "single_line": take_line,
    "random_span": take_span,
}


def gaps_of(data: DataModule, kind: str, *, num_gaps: int, max_gap: int, context: int, seed: int) -> list[Gap]:
    """Choose gaps in held-out documents.

    Args:
        data: Prepared, with text held out.
        kind: One of `KINDS`.
        num_gaps: How many.
        max_gap: Longest gap, in characters.
        context: Tokens of a text that a gap is taken from.
        seed: Of the choice.

    Raises:
        InputError: When the held-out samples are no text, or have too few gaps of this kind.
    """
    samples = data.validation_samples
    if not isinstance(samples, Samples):
        raise InputError(
            "`evaluation=infilling` needs held-out text, but the samples are something else; use `data=text`"
        )
    store, end = samples.store, data.tokenizer.eos_id
    generator = np.random.default_rng(seed)
    gaps: list[Gap] = []
    for _ in range(_MOST_DRAWS * num_gaps):
        start = int(generator.integers(len(store)))
        document = int(np.searchsorted(store.offsets, start, side="right")) - 1
        tokens = store.tokens[start : min(start + context, int(store.offsets[document + 1]))]
        # What is left of a character at either side is no text.
        text = data.tokenizer.decode(tokens[tokens != end].tolist()).strip("\ufffd")
        gap = KINDS[kind](text, max_gap, generator)
        if gap is not None:
            gaps.append(gap)
        if len(gaps) == num_gaps:
            return gaps
    raise InputError(
        f"held-out text must have `num_gaps` ({num_gaps}) gaps of the kind {kind} in reach, but has {len(gaps)}; use "
        f"more text, a larger `data.max_length`, or `evaluation.num_gaps={max(len(gaps), 1)}`"
    )


def similarity(first: str, second: str) -> float:
    """One minus the edit distance of two texts over the longer length: 1 for equal texts, 0 for nothing in common."""
    if not first and not second:
        return 1.0
    distances = list(range(len(second) + 1))
    for row, letter in enumerate(first, start=1):
        diagonal, distances[0] = distances[0], row
        for column, other in enumerate(second, start=1):
            substituted = diagonal + (letter != other)
            diagonal = distances[column]
            distances[column] = min(substituted, diagonal + 1, distances[column - 1] + 1)
    return 1 - distances[-1] / max(len(first), len(second))
