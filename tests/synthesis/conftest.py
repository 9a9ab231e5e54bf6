from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from lmmodules.synthesis import Decoding, Question


class ScriptedClient:
    """A model that says what it was told to say; it answers to the question that stands last in a prompt."""

    name = "scripted"
    prompt_style = "docstring"
    batch_size = 2

    def __init__(self, write: Callable[[str], str], room: int = 1 << 30) -> None:
        self.write = write
        self.room = room
        self.asked: list[str] = []

    def fits(self, prompt: str, decoding: Decoding) -> bool:
        return len(prompt) <= self.room

    def complete(self, prompts: Sequence[str], decoding: Decoding) -> list[str]:
        assert 0 < len(prompts) <= self.batch_size
        self.asked += prompts
        return [decoding.cut(self.write(prompt)) for prompt in prompts]


@pytest.fixture
def scripted() -> type[ScriptedClient]:
    return ScriptedClient


@pytest.fixture
def sums() -> list[Question]:
    """Four questions of one course; the answer of `What is n plus n?` is 2n."""
    return [
        Question(f"sums/{n}", f"What is {n} plus {n}?", str(2 * n), "sums", "addition", f"source {n}")
        for n in (1, 2, 3, 4)
    ]
