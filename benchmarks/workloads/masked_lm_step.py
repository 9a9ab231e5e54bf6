"""A masked-language-model training step, masking included, against RobertaForMaskedLM and its collator.

The network has 4 layers of 256 (feed-forward 1024); a batch is 16 samples of 128 tokens. Both start from the same
weights. The peer is transformers as its documentation has it: `DataCollatorForLanguageModeling`, logits at every
position, AdamW in its default implementation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from benchmarks.training import (
    SMALL,
    Sizes,
    corpus,
    endless,
    names_of_transformers,
    objective_from,
    our_step,
    peer_step,
    random_roberta,
    same_loss_and_gradients,
    transformers_loss,
)
from benchmarks.transformers_data import collator, examples
from benchmarks.workload import OURS, Agreement, Candidate, Case, Comparison, Grid, Step, Workload
from lmmodules import CorpusDataModule, MaskedLM
from lmmodules.data import Masking

PEER = "RobertaForMaskedLM"
PEER_FUSED = "RobertaForMaskedLM, fused AdamW"
NO_ATTENTION_DROPOUT = f"{OURS}, no attention dropout"

# (vocabulary, dropout): goal, floor
GOALS = {(8192, 0.0): (2.0, 1.7), (8192, 0.1): (1.8, 1.55), (50265, 0.0): (4.5, 3.3), (50265, 0.1): (3.9, 3.0)}
GOALS_WITHOUT_ATTENTION_DROPOUT = {8192: (2.3, 1.9)}
LARGE_VOCABULARY = 50000


@dataclass(frozen=True)
class MaskedLMStep(Workload):
    """See the module."""

    title: ClassVar[str] = "Masked-LM training step"
    grid: ClassVar[Grid] = {"vocab": (8192, 50265), "dropout": (0.0, 0.1)}
    measures_memory: ClassVar[bool] = True

    sizes: Sizes = SMALL
    length: int = 128
    batch_size: int = 16

    def cases(self, grid: Grid) -> Iterator[Case]:
        """One for each size of the vocabulary and each dropout."""
        for vocab_size in grid["vocab"]:
            for dropout in grid["dropout"]:
                yield self._case(vocab_size, dropout)

    def _case(self, vocab_size: int, dropout: float) -> Case:
        agreement = partial(self.agreement, vocab_size)
        theirs = partial(self.their_step, vocab_size, dropout)
        candidates = [
            Candidate(OURS, partial(self.our_step, vocab_size, dropout, dropout), ("transformers",)),
            Candidate(PEER, theirs, ("transformers",), agreement),
            Candidate(PEER_FUSED, partial(theirs, fused=True), ("transformers",), agreement),
        ]
        goal, floor = GOALS.get((vocab_size, dropout), (None, None))
        memory_goal = 0.35 if vocab_size >= LARGE_VOCABULARY else None
        comparisons = [Comparison(PEER, goal, floor, memory_goal), Comparison(PEER_FUSED)]
        if dropout:
            candidates.append(
                Candidate(NO_ATTENTION_DROPOUT, partial(self.our_step, vocab_size, dropout, 0.0), ("transformers",))
            )
            goal, floor = GOALS_WITHOUT_ATTENTION_DROPOUT.get(vocab_size, (None, None))
            comparisons.append(Comparison(PEER, goal, floor, ours=NO_ATTENTION_DROPOUT))
        name = f"vocabulary {vocab_size:,}, dropout {dropout:g}"
        return Case(name, tuple(candidates), tuple(comparisons), self.batch_size * self.length)

    def model(self, vocab_size: int, dropout: float, attention_dropout: float) -> Any:
        """The peer's network, with the same random weights each time."""
        return random_roberta(vocab_size, self.length, self.sizes, dropout, attention_dropout)

    def data(self, vocab_size: int) -> CorpusDataModule:
        """Our masking over the stored tokens."""
        return corpus(vocab_size, self.length, self.batch_size, Masking())

    def our_step(self, vocab_size: int, dropout: float, attention_dropout: float) -> Step:
        """Ours."""
        objective = objective_from(self.model(vocab_size, dropout, attention_dropout), MaskedLM)
        return our_step(objective, self.data(vocab_size))

    def their_step(self, vocab_size: int, dropout: float, fused: bool = False) -> Step:
        """Samples through the collator, and the model's own loss."""
        data = self.data(vocab_size)
        collate, rows = collator(data.tokenizer), examples(data, self.length)
        chosen = np.random.default_rng(0)

        def batches() -> Iterator[Any]:
            while True:
                yield collate([rows[row] for row in chosen.integers(len(rows), size=self.batch_size)])

        optimizer = partial(torch.optim.AdamW, lr=3e-4, fused=True if fused else None)
        return peer_step(self.model(vocab_size, dropout, dropout), batches(), transformers_loss, optimizer)

    def agreement(self, vocab_size: int) -> list[Agreement]:
        """Loss and gradients on a batch of our masking."""
        model = self.model(vocab_size, 0.0, 0.0).eval()
        objective = objective_from(model, MaskedLM)
        batch = next(endless(self.data(vocab_size).train_dataloader()))
        return same_loss_and_gradients(
            objective, batch, model, transformers_loss(model, batch), names_of_transformers("roberta")
        )
