"""A causal training step with ALiBi against BloomForCausalLM, and against the same network with learned positions.

Each is a process of its own, because that is what a choice concerns which matters here: the commands of lmmodules have
the processor take denormals for zeros, and a script around BLOOM does not.

The network has 4 layers of 256 and a vocabulary of 8,192; a batch is 2,048 tokens, in samples of 256 or 1,024. GELU
is that of BLOOM, by tanh.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch

from benchmarks.training import (
    SMALL,
    Batch,
    Sizes,
    corpus,
    endless,
    fused_adamw,
    names_of_transformers,
    objective_from,
    our_step,
    peer_step,
    random_decoder,
    same_loss_and_gradients,
    transformers_loss,
)
from benchmarks.workload import OURS, Agreement, Candidate, Case, Comparison, Grid, Step, Workload
from lmmodules import CausalLM, CorpusDataModule
from lmmodules.batch import IGNORED
from lmmodules.models import Learned
from lmmodules.models.floating_point import flush_denormals

BLOOM = "BloomForCausalLM"
LEARNED = f"{OURS}, learned positions"
TOKENS = 2048

# length: goal, floor
BLOOM_GOALS = {256: (1.4, 1.3), 1024: (2.4, 1.7)}
LEARNED_GOALS = {1024: (0.95, 0.9)}


@dataclass(frozen=True)
class AlibiStep(Workload):
    """See the module."""

    title: ClassVar[str] = "ALiBi training step"
    grid: ClassVar[Grid] = {"length": (256, 1024), "vocab": (8192,)}
    measures_memory: ClassVar[bool] = True

    sizes: Sizes = SMALL
    tokens: int = TOKENS

    def cases(self, grid: Grid) -> Iterator[Case]:
        """One for each length."""
        for vocab_size in grid["vocab"]:
            for length in grid["length"]:
                candidates = (
                    Candidate(OURS, partial(self.our_step, vocab_size, length), ("transformers",), process="own"),
                    Candidate(
                        BLOOM,
                        partial(self.their_step, vocab_size, length),
                        ("transformers",),
                        partial(self.agreement, vocab_size, length),
                        process="own",
                    ),
                    Candidate(LEARNED, partial(self.learned_step, vocab_size, length), process="own"),
                )
                bloom, learned = (goals.get(length, (None, None)) for goals in (BLOOM_GOALS, LEARNED_GOALS))
                comparisons = (Comparison(BLOOM, *bloom), Comparison(LEARNED, *learned))
                name = f"length {length:,}" + ("" if vocab_size == 8192 else f", vocabulary {vocab_size:,}")
                yield Case(name, candidates, comparisons, self.tokens)

    def data(self, vocab_size: int, length: int) -> CorpusDataModule:
        """Next-token prediction over the stored tokens."""
        return corpus(vocab_size, length, max(1, self.tokens // length))

    def batches(self, vocab_size: int, length: int) -> Iterator[Batch]:
        """What the peer is given: ready tensors, a few of them over and over."""
        loader = iter(self.data(vocab_size, length).train_dataloader())
        yield from endless([next(loader) for _ in range(8)])

    def bloom(self, vocab_size: int) -> Any:
        """The peer's network, with the same random weights each time."""
        import transformers

        torch.manual_seed(0)
        sizes = self.sizes
        config = transformers.BloomConfig(
            vocab_size=vocab_size, hidden_size=sizes.hidden_size, n_layer=sizes.num_layers, n_head=sizes.num_heads
        )
        return transformers.BloomForCausalLM(config)

    def our_step(self, vocab_size: int, length: int) -> Step:
        """Ours with these weights, in the state in which the commands put their process."""
        flush_denormals()
        return our_step(objective_from(self.bloom(vocab_size), CausalLM), self.data(vocab_size, length))

    def their_step(self, vocab_size: int, length: int) -> Step:
        """It shifts the labels itself, so it is given the inputs."""
        given = self.batches(vocab_size, length)
        batches = ({"input_ids": batch["input_ids"], "labels": batch["input_ids"]} for batch in given)
        optimizer = partial(torch.optim.AdamW, lr=3e-4)
        return peer_step(self.bloom(vocab_size), batches, transformers_loss, optimizer)

    def learned_step(self, vocab_size: int, length: int) -> Step:
        """Ours, told of positions by a table instead."""
        flush_denormals()
        position = Learned(length, self.sizes.hidden_size)
        backbone = random_decoder(
            vocab_size, self.sizes, position=position, activation="gelu_tanh", embedding_norm=True
        )
        return our_step(CausalLM(backbone, optimizer=fused_adamw), self.data(vocab_size, length))

    def agreement(self, vocab_size: int, length: int) -> list[Agreement]:
        """Loss and gradients where both have a label."""
        model, batch = self.bloom(vocab_size).eval(), next(self.batches(vocab_size, length))
        loss = model(input_ids=batch["input_ids"], labels=batch["input_ids"]).loss
        shortened = {**batch, "labels": batch["labels"].clone()}
        shortened["labels"][:, -1] = IGNORED
        objective = objective_from(self.bloom(vocab_size), CausalLM)
        return same_loss_and_gradients(objective, shortened, model, loss, names_of_transformers("bloom"))
