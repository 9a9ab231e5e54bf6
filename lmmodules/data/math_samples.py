"""Questions with programs as batches: the program is predicted, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmmodules.batch import IGNORED
from lmmodules.data.math_prompts import direct_prompt, program_prompt
from lmmodules.data.math_questions import MathQuestion
from lmmodules.data.randomness import Int64Array
from lmmodules.data.samples import Keys, SampleSource
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.errors import InputError

TARGETS = ("program", "answer")
"""What may be learned to be written: a program that prints the answer, or the answer itself."""


@dataclass(frozen=True)
class PairLayout:
    """From a question to the tokens of a prompt, of what is written after it, and of the end.

    Prompt and target are encoded each by itself, as they are when the target is not there yet. Where both are too long,
    the question loses from its beginning, never the prompt around it and never the target.

    Args:
        tokenizer: Of both.
        target: One of `TARGETS`.
        prompt_style: One of `math_prompts.PROMPTS`; a model that answers directly is given the bare question.
        max_length: Most tokens of a pair, the end included.

    Raises:
        InputError: When there is no such target or style.
    """

    tokenizer: Tokenizer
    target: str = "program"
    prompt_style: str = "docstring"
    max_length: int = 256

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise InputError(f"`data.target` must be one of {', '.join(TARGETS)}, but is {self.target}")
        self.prompt("")  # refuses a style that does not exist

    def prompt(self, question: str) -> str:
        """What the model is given.

        Args:
            question: In words.
        """
        return direct_prompt(question) if self.target == "answer" else program_prompt(question, self.prompt_style)

    def pairs(self, questions: Sequence[MathQuestion]) -> list[tuple[list[int], list[int]] | None]:
        """Tokens of prompts and of targets with their end; `None` for a target that leaves no room for its prompt.

        Args:
            questions: With what is to be written.
        """
        prompts = self.tokenizer.encode_batch([self.prompt(question.question) for question in questions])
        targets = self.tokenizer.encode_batch([getattr(question, self.target) for question in questions])
        return [
            self._fit(question, prompt, [*target, self.tokenizer.eos_id])
            for question, prompt, target in zip(questions, prompts, targets, strict=True)
        ]

    def _fit(self, question: MathQuestion, prompt: list[int], target: list[int]) -> tuple[list[int], list[int]] | None:
        room = self.max_length - len(target)
        if len(prompt) > room:
            prompt = self._cut(question.question, room)
        return (prompt, target) if prompt else None

    def _cut(self, question: str, room: int) -> list[int]:
        """The prompt of as much of the end of a question as there is room for; nothing where there is none for any."""
        words = question.split(" ")
        low, high = 1, len(words)  # words left out
        while low < high:
            middle = (low + high) // 2
            short = len(self.tokenizer.encode(self.prompt(" ".join(words[middle:])))) <= room
            low, high = (low, middle) if short else (middle + 1, high)
        prompt = self.tokenizer.encode(self.prompt(" ".join(words[low:])))
        return prompt if low < len(words) and len(prompt) <= room else []


class PairSamples(SampleSource):
    """Pairs of prompt and target, padded to the longest of a batch.

    `labels` hold the target and the end token, each at the position before it, and nothing elsewhere. Padding is known
    by the lengths of pairs: it may be the very token that ends a program.

    Args:
        layout: Makes tokens of questions.
        count: Samples of an epoch.
        draw: Questions of (epochs, indices).
        known_lengths: (N,) tokens of each sample, where samples are the same in every epoch.
    """

    def __init__(
        self,
        layout: PairLayout,
        count: int,
        draw: Callable[[Int64Array, Int64Array], list[MathQuestion]],
        known_lengths: Int64Array | None = None,
    ) -> None:
        self.layout = layout
        self.known_lengths = known_lengths
        self._count = count
        self._draw = draw
        tokenizer = layout.tokenizer
        self._pad_id = tokenizer.pad_id if tokenizer.has("pad") else tokenizer.eos_id

    def __len__(self) -> int:
        return self._count

    def lengths(self, indices: Int64Array) -> Int64Array:
        """Tokens of samples.

        Args:
            indices: (B,) samples.
        """
        if self.known_lengths is None:
            return super().lengths(indices)
        lengths: Int64Array = self.known_lengths[indices]
        return lengths

    def __getitem__(self, keys: Keys) -> dict[str, Tensor]:
        epochs, indices = keys
        pairs = self.layout.pairs(self._draw(epochs, np.maximum(indices, 0)))
        return self.collate([None if index < 0 else pair for index, pair in zip(indices, pairs, strict=True)])

    def collate(self, pairs: Sequence[tuple[list[int], list[int]] | None]) -> dict[str, Tensor]:
        """A batch of pairs; where there is none, nothing is predicted.

        Args:
            pairs: Tokens of prompts and of targets.
        """
        # The last token is predicted and never read.
        rows = [([self._pad_id], [IGNORED]) if pair is None else _row(*pair) for pair in pairs]
        longest = max(len(tokens) for tokens, _ in rows)
        input_ids = torch.full((len(rows), longest), self._pad_id)
        labels = torch.full((len(rows), longest), IGNORED)
        mask = torch.zeros(len(rows), longest, dtype=torch.int64)
        for number, (tokens, targets) in enumerate(rows):
            input_ids[number, : len(tokens)] = torch.tensor(tokens)
            labels[number, : len(tokens)] = torch.tensor(targets)
            mask[number, : len(tokens)] = 1
        batch = {"input_ids": input_ids, "labels": labels}
        return batch if bool(mask.all()) else {**batch, "attention_mask": mask}


def _row(prompt: list[int], target: list[int]) -> tuple[list[int], list[int]]:
    return [*prompt, *target[:-1]], [*[IGNORED] * (len(prompt) - 1), *target]
