"""A causal training step against GPT2LMHeadModel, against a GPT of eighty lines, and against litgpt.

The network has 4 layers of 256; a batch is 8 samples of 256 tokens, without dropout. Every peer has its own case,
in which ours computes what the peer computes: GPT-2's GELU by tanh, the exact one, or litgpt's rotary positions and
output matrix of its own. Weights are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmarks import litgpt_peer
from benchmarks.small_gpt import SmallGPT, names_of_small_gpt
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
    random_gpt2,
    same_loss_and_gradients,
    transformers_loss,
)
from benchmarks.workload import OURS, Agreement, Candidate, Case, Comparison, Grid, Step, Workload
from lmmodules import CausalLM, CorpusDataModule
from lmmodules.batch import IGNORED
from lmmodules.objectives import LanguageModel

GPT2 = "GPT2LMHeadModel"
GPT2_FUSED = "GPT2LMHeadModel, fused GELU and AdamW"
SMALL_GPT = "nanoGPT-like, fused AdamW"
LITGPT = "litgpt, chunked loss"
LITGPT_FUSED = "litgpt, fused AdamW"

# vocabulary: goal, floor
GPT2_GOALS = {8192: (1.35, 1.2), 50257: (1.5, 1.35)}
SMALL_GPT_GOALS = {8192: (1.2, 1.12), 50257: (1.4, 1.25)}
LITGPT_GOALS = {8192: (1.2, 1.12), 50257: (1.4, 1.3)}
LARGE_VOCABULARY = 50000

adamw = partial(torch.optim.AdamW, lr=3e-4)


@dataclass(frozen=True)
class CausalLMStep(Workload):
    """See the module."""

    title: ClassVar[str] = "Causal training step"
    grid: ClassVar[Grid] = {"vocab": (8192, 50257)}
    measures_memory: ClassVar[bool] = True

    sizes: Sizes = SMALL
    length: int = 256
    batch_size: int = 8

    def cases(self, grid: Grid) -> Iterator[Case]:
        """Three for each size of the vocabulary, one for each thing that is to be computed."""
        for vocab_size in grid["vocab"]:
            memory_goal = 0.35 if vocab_size >= LARGE_VOCABULARY else None
            gpt2_goal, gpt2_floor = GPT2_GOALS.get(vocab_size, (None, None))
            small_goal, small_floor = SMALL_GPT_GOALS.get(vocab_size, (None, None))
            litgpt_goal, litgpt_floor = LITGPT_GOALS.get(vocab_size, (None, None))
            agreement = partial(self.agreement_with_gpt2, vocab_size)
            yield self._case(
                f"vocabulary {vocab_size:,}, GELU by tanh",
                partial(self.our_gpt2, vocab_size, "gelu_new"),
                vocab_size,
                Candidate(GPT2, partial(self.gpt2_step, vocab_size, "gelu_new", adamw), ("transformers",), agreement),
                Candidate(
                    GPT2_FUSED,
                    partial(self.gpt2_step, vocab_size, "gelu_pytorch_tanh", fused_adamw),
                    ("transformers",),
                    agreement,
                ),
                comparisons=(
                    Comparison(GPT2, gpt2_goal, gpt2_floor, memory_goal),
                    Comparison(GPT2_FUSED),
                ),
            )
            yield self._case(
                f"vocabulary {vocab_size:,}, exact GELU",
                partial(self.our_gpt2, vocab_size, "gelu"),
                vocab_size,
                Candidate(
                    SMALL_GPT,
                    partial(self.small_gpt_step, vocab_size),
                    ("transformers",),
                    partial(self.agreement_with_small_gpt, vocab_size),
                ),
                comparisons=(Comparison(SMALL_GPT, small_goal, small_floor),),
            )
            agreement = partial(self.agreement_with_litgpt, vocab_size)
            yield self._case(
                f"vocabulary {vocab_size:,}, exact GELU, rotary, untied",
                partial(self.our_litgpt, vocab_size),
                vocab_size,
                Candidate(LITGPT, partial(self.litgpt_step, vocab_size, adamw, 128), ("litgpt",), agreement),
                Candidate(LITGPT_FUSED, partial(self.litgpt_step, vocab_size, fused_adamw, 0), ("litgpt",), agreement),
                comparisons=(
                    Comparison(LITGPT, litgpt_goal, litgpt_floor),
                    Comparison(LITGPT_FUSED),
                ),
            )

    def _case(
        self,
        name: str,
        objective: Callable[[], LanguageModel],
        vocab_size: int,
        *peers: Candidate,
        comparisons: tuple[Comparison, ...],
    ) -> Case:
        packages = tuple({package for peer in peers for package in peer.packages if package == "transformers"})
        ours = Candidate(OURS, lambda: our_step(objective(), self.data(vocab_size)), packages)
        return Case(name, (ours, *peers), comparisons, self.batch_size * self.length)

    def data(self, vocab_size: int) -> CorpusDataModule:
        """Next-token prediction over the stored tokens."""
        return corpus(vocab_size, self.length, self.batch_size)

    def batches(self, vocab_size: int) -> Iterator[Batch]:
        """What the peers are given: ready tensors, a few of them over and over."""
        loader = iter(self.data(vocab_size).train_dataloader())
        yield from endless([next(loader) for _ in range(8)])

    # GPT-2 of transformers

    def gpt2(self, vocab_size: int, activation: str) -> Any:
        """The peer's network, with the same random weights each time."""
        return random_gpt2(vocab_size, self.length, self.sizes, activation)

    def our_gpt2(self, vocab_size: int, activation: str) -> LanguageModel:
        """Ours with these weights."""
        return objective_from(self.gpt2(vocab_size, activation), CausalLM)

    def gpt2_step(self, vocab_size: int, activation: str, optimizer: Callable[..., torch.optim.Optimizer]) -> Step:
        """It shifts the labels itself, so it is given the inputs, and predicts one token less per sample."""
        batches = (
            {"input_ids": batch["input_ids"], "labels": batch["input_ids"]} for batch in self.batches(vocab_size)
        )
        return peer_step(self.gpt2(vocab_size, activation), batches, transformers_loss, optimizer)

    def agreement_with_gpt2(self, vocab_size: int) -> list[Agreement]:
        """Loss and gradients where both have a label."""
        model = self.gpt2(vocab_size, "gelu_new").eval()
        batch = next(self.batches(vocab_size))
        loss = model(input_ids=batch["input_ids"], labels=batch["input_ids"]).loss
        shortened = {**batch, "labels": batch["labels"].clone()}
        shortened["labels"][:, -1] = IGNORED
        objective = self.our_gpt2(vocab_size, "gelu_new")
        return same_loss_and_gradients(objective, shortened, model, loss, names_of_transformers("gpt2"))

    # A GPT of eighty lines

    def small_gpt(self, vocab_size: int) -> SmallGPT:
        """With the weights of the GPT-2 above."""
        sizes = self.sizes
        model = SmallGPT(vocab_size, self.length, sizes.hidden_size, sizes.num_layers, sizes.num_heads)
        model.load_state_dict(names_of_small_gpt(self.gpt2(vocab_size, "gelu").state_dict()))
        return model

    def small_gpt_step(self, vocab_size: int) -> Step:
        """With the optimizer that such scripts take."""
        return peer_step(self.small_gpt(vocab_size), self.batches(vocab_size), _loss_of_small_gpt, fused_adamw)

    def agreement_with_small_gpt(self, vocab_size: int) -> list[Agreement]:
        """Loss and gradients."""
        model, batch = self.small_gpt(vocab_size).eval(), next(self.batches(vocab_size))
        in_transformers = names_of_transformers("gpt2")
        return same_loss_and_gradients(
            self.our_gpt2(vocab_size, "gelu"),
            batch,
            model,
            _loss_of_small_gpt(model, batch),
            lambda objective: names_of_small_gpt(in_transformers(objective)),
        )

    # litgpt

    def our_litgpt(self, vocab_size: int) -> LanguageModel:
        """What litgpt can be."""
        return litgpt_peer.ours(vocab_size, self.length, self.sizes)

    def litgpt(self, vocab_size: int) -> nn.Module:
        """With the weights of ours."""
        return litgpt_peer.build(vocab_size, self.length, self.sizes)

    def litgpt_step(self, vocab_size: int, optimizer: Callable[..., torch.optim.Optimizer], chunk_size: int) -> Step:
        """With the loss in chunks of positions, as litgpt trains, or in one."""
        loss = partial(litgpt_peer.loss, chunk_size=chunk_size)
        return peer_step(self.litgpt(vocab_size), self.batches(vocab_size), loss, optimizer)

    def agreement_with_litgpt(self, vocab_size: int) -> list[Agreement]:
        """Loss and gradients."""
        model, batch = self.litgpt(vocab_size).eval(), next(self.batches(vocab_size))
        value = litgpt_peer.loss(model, batch, chunk_size=0)
        return same_loss_and_gradients(self.our_litgpt(vocab_size), batch, model, value, litgpt_peer.names_of_litgpt)


def _loss_of_small_gpt(model: nn.Module, batch: Batch) -> Tensor:
    loss: Tensor = model(**batch)
    return loss
