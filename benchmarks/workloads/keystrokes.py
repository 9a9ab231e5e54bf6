"""Filling in while somebody types, the suffix first and kept, against reading the prompt anew at every key.

Behind a prefix of 128 tokens stand a suffix of as many or more; eight more are typed one by one, and after each one
token of the middle is asked for. In the order SPM a session reads the token that was typed, in the order PSM the whole
suffix besides; without a session the whole prompt is read. The network has 4 layers of 256 and rotary positions, a
vocabulary of 8,192 and random weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from benchmarks.training import SMALL, Sizes, random_decoder
from benchmarks.workload import OURS, Agreement, Candidate, Case, Comparison, Grid, Step, Workload
from lmmodules.data.fim_sentinels import Order, Sentinels
from lmmodules.evaluation.infill import infill
from lmmodules.evaluation.infilling_session import InfillingSession
from lmmodules.models import LanguageModelHead
from lmmodules.objectives.fim import FIM

PSM = "a session in the order PSM"
ANEW = "no session"
ALPHABET = "abcdefghijklmnopqrstuvwxyz"


class Letters:
    """A tokenizer whose every letter is a token: what is measured is the network."""

    def encode(self, text: str) -> list[int]:
        """Ids from 4 on."""
        return [4 + ALPHABET.index(letter) for letter in text]

    def decode(self, ids: list[int]) -> str:
        """Letters again; what is none becomes one."""
        return "".join(ALPHABET[(token - 4) % len(ALPHABET)] for token in ids)


@dataclass(frozen=True)
class Keystrokes(Workload):
    """See the module."""

    title: ClassVar[str] = "A key while filling in"
    grid: ClassVar[Grid] = {"length": (128, 512)}

    sizes: Sizes = SMALL
    vocab_size: int = 8192
    prefix: int = 128
    keys: int = 8

    def cases(self, grid: Grid) -> Iterator[Case]:
        """One for each length of the suffix."""
        for length in grid["length"]:
            agreement = partial(self.agreement, length)
            candidates = (
                Candidate(OURS, partial(self.session_step, length, "spm")),
                Candidate(PSM, partial(self.session_step, length, "psm")),
                Candidate(ANEW, partial(self.step_anew, length), agreement=agreement),
            )
            comparisons = (Comparison(PSM), Comparison(ANEW))
            yield Case(f"suffix of {length}", candidates, comparisons, self.keys, unit="keys", counts_operations=False)

    def model(self) -> FIM:
        """The same random weights each time."""
        backbone = random_decoder(self.vocab_size, self.sizes)
        return FIM(backbone, head=LanguageModelHead(backbone.hidden_size, self.vocab_size)).eval()

    def texts(self, length: int) -> tuple[list[str], str]:
        """The prefix before the first key and after each, and the suffix."""
        letters = "".join(ALPHABET[(7 * place) % len(ALPHABET)] for place in range(self.prefix + self.keys))
        return [letters[: self.prefix + key] for key in range(self.keys + 1)], "z" * length

    def options(self) -> dict[str, Any]:
        """Of every request."""
        return {"max_new_tokens": 1, "temperature": 0.0, "top_p": None}

    def session(self, model: FIM, suffix: str, order: Order) -> InfillingSession:
        """One that has read nothing."""
        tokenizer: Any = Letters()
        return InfillingSession(model, tokenizer, suffix, order=order, sentinels=Sentinels(0, 1, 2, 3))

    def session_step(self, length: int, order: Order) -> Step:
        """The keys one by one, behind a prefix that was read before."""
        prefixes, suffix = self.texts(length)
        session = self.session(self.model(), suffix, order)

        def step() -> None:
            for prefix in prefixes[1:]:
                session.complete(prefix, **self.options())

        return step

    def step_anew(self, length: int) -> Step:
        """The keys one by one, nothing kept."""
        model, (prefixes, suffix) = self.model(), self.texts(length)
        tokenizer: Any = Letters()

        def step() -> None:
            for prefix in prefixes[1:]:
                infill(model, tokenizer, prefix, suffix, sentinels=Sentinels(0, 1, 2, 3), **self.options())

        return step

    def agreement(self, length: int) -> list[Agreement]:
        """The share of keys behind which a session of either order writes something else than is written anew."""
        model, (prefixes, suffix) = self.model(), self.texts(length)
        tokenizer: Any = Letters()
        orders: tuple[Order, ...] = ("spm", "psm")
        wrong = 0
        for order in orders:
            session = self.session(model, suffix, order)
            for prefix in prefixes:
                kept = session.complete(prefix, **self.options()).text
                options = self.options() | {"order": order, "sentinels": Sentinels(0, 1, 2, 3)}
                wrong += kept != infill(model, tokenizer, prefix, suffix, **options)
        return [Agreement("share of keys", wrong / (2 * len(prefixes)), 0.0)]
