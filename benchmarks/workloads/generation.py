"""Greedy decoding with cached keys and values, against `generate` of transformers and of litgpt.

The network has 4 layers of 256; prompts have 32 tokens and 128 are written. The tokens must be the same. Beside
transformers it is GPT-2; beside litgpt, which writes behind one prompt, it has rotary positions and an output matrix of
its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmarks import litgpt_peer
from benchmarks.training import SMALL, Sizes, objective_from
from benchmarks.workload import OURS, Agreement, Candidate, Case, Comparison, Grid, Step, Workload
from lmmodules import CausalLM
from lmmodules.evaluation.generation import generate
from lmmodules.objectives import LanguageModel

PEER = "transformers generate"
LITGPT = "litgpt generate"
# vocabulary, batch size: goal, floor
GOALS = {(8192, 1): (2.4, 1.8), (50257, 1): (1.7, 1.45)}


@dataclass(frozen=True)
class Generation(Workload):
    """See the module."""

    title: ClassVar[str] = "Greedy generation"
    grid: ClassVar[Grid] = {"vocab": (8192, 50257), "batch": (1, 8)}

    sizes: Sizes = SMALL
    prompt_tokens: int = 32
    new_tokens: int = 128

    def cases(self, grid: Grid) -> Iterator[Case]:
        """One for each size of the vocabulary and each number of prompts, and one more beside litgpt."""
        for vocab_size in grid["vocab"]:
            for batch_size in grid["batch"]:
                where = (vocab_size, batch_size)
                candidates = (
                    Candidate(OURS, partial(self.our_step, *where), ("transformers",)),
                    Candidate(
                        PEER, partial(self.their_step, *where), ("transformers",), partial(self.agreement, *where)
                    ),
                )
                yield Case(
                    f"vocabulary {vocab_size:,}, {batch_size} prompt{'s' if batch_size > 1 else ''}",
                    candidates,
                    (Comparison(PEER, *GOALS.get(where, (None, None))),),
                    batch_size * self.new_tokens,
                    counts_operations=False,  # one token at a time waits for memory and for Python
                    told_by="operators",
                )
            yield Case(
                f"vocabulary {vocab_size:,}, 1 prompt, rotary, untied",
                (
                    Candidate(OURS, partial(self.our_litgpt_step, vocab_size)),
                    Candidate(
                        LITGPT,
                        partial(self.litgpt_step, vocab_size),
                        ("litgpt",),
                        partial(self.agreement_with_litgpt, vocab_size),
                    ),
                ),
                (Comparison(LITGPT),),
                self.new_tokens,
                counts_operations=False,
                told_by="operators",
            )

    def model(self, vocab_size: int) -> Any:
        """GPT-2 with the same random weights each time."""
        import transformers

        torch.manual_seed(0)
        config = transformers.GPT2Config(
            vocab_size=vocab_size,
            n_positions=self.prompt_tokens + self.new_tokens,
            n_embd=self.sizes.hidden_size,
            n_layer=self.sizes.num_layers,
            n_head=self.sizes.num_heads,
            bos_token_id=0,
            eos_token_id=None,
        )
        model: Any = transformers.GPT2LMHeadModel(config)
        return model.eval()

    def prompts(self, vocab_size: int, batch_size: int) -> Tensor:
        """(B, T) random tokens."""
        generator = torch.Generator().manual_seed(1)
        return torch.randint(4, vocab_size, (batch_size, self.prompt_tokens), generator=generator)

    def our_step(self, vocab_size: int, batch_size: int) -> Step:
        """All tokens once."""
        return self._writing(objective_from(self.model(vocab_size), CausalLM), self.prompts(vocab_size, batch_size))

    def _writing(self, objective: LanguageModel, prompts: Tensor) -> Step:
        def step() -> None:
            generate(objective, prompts, max_new_tokens=self.new_tokens, greedy=True)

        return step

    def their_step(self, vocab_size: int, batch_size: int) -> Step:
        """All tokens once."""
        model, prompts = self.model(vocab_size), self.prompts(vocab_size, batch_size)

        def step() -> None:
            self.their_tokens(model, prompts)

        return step

    def their_tokens(self, model: Any, prompts: Tensor) -> Tensor:
        """(B, new tokens) of transformers."""
        written: Tensor = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=False,
            max_new_tokens=self.new_tokens,
            pad_token_id=0,
        )
        return written[:, self.prompt_tokens :]

    def agreement(self, vocab_size: int, batch_size: int) -> list[Agreement]:
        """The share of tokens that differ."""
        model, prompts = self.model(vocab_size), self.prompts(vocab_size, batch_size)
        ours = generate(objective_from(model, CausalLM), prompts, max_new_tokens=self.new_tokens, greedy=True)
        theirs = self.their_tokens(model, prompts)
        return [Agreement("share of tokens", (torch.tensor(ours) != theirs).double().mean().item(), 0.0)]

    # litgpt

    @property
    def length(self) -> int:
        """Tokens of a prompt and of what is written behind it."""
        return self.prompt_tokens + self.new_tokens

    def our_litgpt_step(self, vocab_size: int) -> Step:
        """All tokens once, with the network that litgpt can be."""
        return self._writing(litgpt_peer.ours(vocab_size, self.length, self.sizes), self.prompts(vocab_size, 1))

    def litgpt_model(self, vocab_size: int) -> nn.Module:
        """With the weights of ours, and a cache for one prompt."""
        model: Any = litgpt_peer.build(vocab_size, self.length, self.sizes).eval()
        model.set_kv_cache(batch_size=1)
        return model  # type: ignore[no-any-return]

    def litgpt_step(self, vocab_size: int) -> Step:
        """All tokens once."""
        model, [prompt] = self.litgpt_model(vocab_size), self.prompts(vocab_size, 1)

        def step() -> None:
            litgpt_peer.write(model, prompt, self.length)

        return step

    def agreement_with_litgpt(self, vocab_size: int) -> list[Agreement]:
        """The share of tokens that differ."""
        objective, prompts = litgpt_peer.ours(vocab_size, self.length, self.sizes), self.prompts(vocab_size, 1)
        [ours] = generate(objective, prompts, max_new_tokens=self.new_tokens, greedy=True)
        theirs = litgpt_peer.write(self.litgpt_model(vocab_size), prompts[0], self.length)
        return [Agreement("share of tokens", (torch.tensor(ours) != theirs).double().mean().item(), 0.0)]
