"""Writing that ends at given texts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from lmmodules.evaluation.generation import Writer, generate

LOOKED_AT = 24
"""Tokens at the end of what is written in which a stop is looked for."""


def generate_until(
    model: Writer,
    prompts: Sequence[Sequence[int]],
    decode: Callable[[list[int]], str],
    stops: Sequence[str],
    **options: Any,
) -> list[str]:
    """Write on from prompts in one batch, until each has met a stop, ended or is long enough.

    Args:
        model: With a causal backbone and a head.
        prompts: Token ids of each, at least one.
        decode: Tokens to text.
        stops: Texts that end what is written, and are not part of it.
        **options: Of `generate`.

    Returns:
        What was written after each prompt, up to the first stop in it.
    """
    heard = _Listener(len(prompts), decode, stops)
    with contextlib.suppress(_Enough):
        generate(model, prompts, stream=heard, **options)
    return [until(decode(row), stops) for row in heard.rows]


def until(text: str, stops: Sequence[str]) -> str:
    """A text up to the first stop in it.

    Args:
        text: Written by a model that may have written on.
        stops: Texts that end it.
    """
    return text[: min((at for at in map(text.find, stops) if at >= 0), default=len(text))]


class _Enough(Exception):  # noqa: N818 - not an error
    """Everything that is written has met a stop."""


class _Listener:
    """Gathers what is written, and ends the writing when nothing more is wanted."""

    def __init__(self, count: int, decode: Callable[[list[int]], str], stops: Sequence[str]) -> None:
        self.rows: list[list[int]] = [[] for _ in range(count)]
        self._open = set(range(count))
        self._decode = decode
        self._stops = stops

    def __call__(self, step: list[int | None]) -> None:
        for number, token in enumerate(step):
            if token is None:
                self._open.discard(number)
            elif number in self._open:
                self.rows[number].append(token)
                end = self._decode(self.rows[number][-LOOKED_AT:]) if self._stops else ""
                if any(stop in end for stop in self._stops):
                    self._open.discard(number)
        if not self._open:
            raise _Enough
