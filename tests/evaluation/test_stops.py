"""Writing ends where a stop begins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lmmodules.evaluation import stops
from lmmodules.evaluation.stops import generate_until, until

LETTERS = "abcdefghij"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A generator that writes the alphabet from each prompt's last letter on, and the number of its steps."""
    taken: list[int] = []

    def generate(model: Any, prompts: Any, *, stream: Any, max_new_tokens: int, stop_ids: Any = ()) -> None:
        tokens = [prompt[-1] for prompt in prompts]
        for step in range(max_new_tokens):
            taken.append(step)
            tokens = [token + 1 for token in tokens]
            stream([None if token in stop_ids or token >= len(LETTERS) else token for token in tokens])

    monkeypatch.setattr(stops, "generate", generate)
    return taken


def decode(ids: list[int]) -> str:
    return "".join(LETTERS[token] for token in ids)


def write(*prompts: int, stops: tuple[str, ...] = (), **options: Any) -> list[str]:
    return generate_until(SimpleNamespace(), [[prompt] for prompt in prompts], decode, stops, **options)


def test_a_stop_over_several_tokens_ends_what_is_written(steps: list[int]) -> None:
    assert write(0, 3, stops=("fg",), max_new_tokens=9) == ["bcde", "e"]
    assert len(steps) == 6, "when the last has met it, nothing more is written"


def test_the_first_of_several_stops_counts(steps: list[int]) -> None:
    assert write(0, stops=("e", "c"), max_new_tokens=9) == ["b"]


def test_without_a_stop_everything_is_kept(steps: list[int]) -> None:
    assert write(0, 8, max_new_tokens=3) == ["bcd", "j"]
    assert write(0, max_new_tokens=9, stop_ids=[4]) == ["bcd"]


def test_a_text_until_its_first_stop() -> None:
    assert until("one\ntwo\n\nthree", ["\n\n", "o\n"]) == "one\ntw"
    assert until("one", []) == until("one", ["x"]) == "one"
