"""From stored tokens to a masked batch, against the collator of transformers.

Ours reads the memory map and makes ids and labels of whole batches; the collator is given rows that are already in
memory. Its whole words can only be replaced by `<mask>`, where ours keep the 80/10/10.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from benchmarks.training import corpus, endless
from benchmarks.transformers_data import collator, examples, examples_with_offsets
from benchmarks.workload import OURS, Agreement, Candidate, Case, Comparison, Grid, Step, Workload, forget
from lmmodules import CorpusDataModule
from lmmodules.batch import IGNORED
from lmmodules.data import Masking

PEER = "DataCollatorForLanguageModeling"
SHAPES = ((16, 128), (32, 512))
# whole words, batch size, length: goal, floor
GOALS = {(False, 32, 512): (30.0, 10.0), (True, 32, 512): (50.0, 20.0)}
COMPARED_BATCHES = 40
SHARE_TOLERANCE = 0.01
"""Of 0.15; the share of 80,000 positions has a standard deviation of 0.002 or less."""


@dataclass(frozen=True)
class MaskingTransform(Workload):
    """See the module."""

    title: ClassVar[str] = "Masking a batch"
    grid: ClassVar[Grid] = {"vocab": (8192,)}

    shapes: tuple[tuple[int, int], ...] = SHAPES

    def cases(self, grid: Grid) -> Iterator[Case]:
        """Tokens and whole words, small batches and large."""
        for vocab_size in grid["vocab"]:
            for whole_word in (False, True):
                for batch_size, length in self.shapes:
                    where = (vocab_size, whole_word, batch_size, length)
                    candidates = (
                        Candidate(OURS, partial(self.our_step, *where)),
                        Candidate(
                            PEER,
                            partial(self.their_step, *where),
                            ("transformers",),
                            partial(self.agreement, *where),
                        ),
                    )
                    goal, floor = GOALS.get(where[1:], (None, None))
                    name = f"{'whole words' if whole_word else 'tokens'}, {batch_size} x {length}"
                    name += "" if vocab_size == 8192 else f", vocabulary {vocab_size:,}"
                    yield Case(
                        name,
                        candidates,
                        (Comparison(PEER, goal, floor),),
                        batch_size * length,
                        counts_operations=False,
                        told_by="functions",
                    )

    def data(self, vocab_size: int, whole_word: bool, batch_size: int, length: int) -> CorpusDataModule:
        """Ours: the transform behind its loader."""
        return corpus(vocab_size, length, batch_size, Masking(whole_word=whole_word))

    def our_batches(self, *where: Any) -> Iterator[Any]:
        """As training gets them."""
        return endless(self.data(*where).train_dataloader())

    def their_batches(self, vocab_size: int, whole_word: bool, batch_size: int, length: int) -> Iterator[Any]:
        """Random rows through the collator."""
        data = self.data(vocab_size, whole_word, batch_size, length)
        rows = examples_with_offsets(data, length) if whole_word else examples(data, length)
        collate, chosen = collator(data.tokenizer, whole_word=whole_word), np.random.default_rng(0)
        torch.manual_seed(0)
        while True:
            # The collator takes the rows apart.
            yield collate([dict(rows[row]) for row in chosen.integers(len(rows), size=batch_size)])

    def our_step(self, *where: Any) -> Step:
        """One batch."""
        batches = self.our_batches(*where)
        return lambda: forget(next(batches))

    def their_step(self, *where: Any) -> Step:
        """One batch."""
        batches = self.their_batches(*where)
        return lambda: forget(next(batches))

    def agreement(self, vocab_size: int, whole_word: bool, batch_size: int, length: int) -> list[Agreement]:
        """The share of the positions that is selected and, for tokens, the share of these that becomes `<mask>`."""
        where = (vocab_size, whole_word, batch_size, length)
        mask_id = self.data(*where).tokenizer.mask_id
        (selected, masked), (their_selected, their_masked) = (
            _shares(batches, mask_id) for batches in (self.our_batches(*where), self.their_batches(*where))
        )
        found = [Agreement("share selected", abs(selected - their_selected), SHARE_TOLERANCE)]
        if not whole_word:
            found.append(Agreement("share of <mask>", abs(masked - their_masked), 3 * SHARE_TOLERANCE))
        return found


def _shares(batches: Iterator[Any], mask_id: int) -> tuple[float, float]:
    selected = masked = positions = 0
    for _ in range(COMPARED_BATCHES):
        batch = next(batches)
        chosen = batch["labels"] != IGNORED
        positions += chosen.numel()
        selected += int(chosen.sum())
        masked += int((batch["input_ids"][chosen] == mask_id).sum())
    return selected / positions, masked / selected
