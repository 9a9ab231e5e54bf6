"""A P-tuning step on a frozen GPT-2 against peft's PromptEncoder on the same.

The network has 4 layers of 256; a batch is 16 rows of 20 pseudo-tokens and 128 tokens, of which the last four are asked
for. Both encode the prompt by the same LSTM with the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmarks.training import (
    GRADIENT_TOLERANCE,
    LOSS_TOLERANCE,
    SMALL,
    Batch,
    Sizes,
    fused_adamw,
    peer_step,
    random_gpt2,
)
from benchmarks.workload import OURS, Agreement, Candidate, Case, Comparison, Grid, Step, Workload
from lmmodules.batch import IGNORED
from lmmodules.models.hugging_face import from_transformers
from lmmodules.objectives.p_tuning import PTuning

PEFT = "peft PromptEncoder"
# vocabulary: goal, floor
GOALS = {8192: (2.7, 2.2), 50257: (7.0, 5.0)}


@dataclass(frozen=True)
class PTuningStep(Workload):
    """See the module."""

    title: ClassVar[str] = "P-tuning step on a frozen GPT-2"
    grid: ClassVar[Grid] = {"vocab": (8192, 50257)}
    measures_memory: ClassVar[bool] = True

    sizes: Sizes = SMALL
    prompt: int = 20
    length: int = 128
    asked: int = 4
    batch_size: int = 16

    def cases(self, grid: Grid) -> Iterator[Case]:
        """One for each size of the vocabulary."""
        for vocab_size in grid["vocab"]:
            goal, floor = GOALS.get(vocab_size, (None, None))
            agreement = partial(self.agreement, vocab_size)
            yield Case(
                f"vocabulary {vocab_size:,}",
                (
                    Candidate(OURS, partial(self.our_step, vocab_size), ("transformers",)),
                    Candidate(PEFT, partial(self.peft_step, vocab_size), ("transformers", "peft"), agreement),
                ),
                (Comparison(PEFT, goal, floor),),
                self.batch_size * (self.prompt + self.length),
            )

    def gpt2(self, vocab_size: int) -> Any:
        """The frozen network, with the same random weights each time."""
        return random_gpt2(vocab_size, self.prompt + self.length, self.sizes)

    def ours(self, vocab_size: int) -> PTuning:
        """P-tuning with the encoder of the LAMA experiments."""
        backbone, head = from_transformers(self.gpt2(vocab_size))
        torch.manual_seed(1)
        return PTuning(backbone, ["task"], [self.prompt], head=head, optimizer=fused_adamw)

    def peft(self, vocab_size: int) -> nn.Module:
        """The peer, with the encoder's weights of ours."""
        import peft

        config = peft.PromptEncoderConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.prompt,
            encoder_reparameterization_type="LSTM",
            encoder_hidden_size=self.sizes.hidden_size // 2,
        )
        model: nn.Module = peft.get_peft_model(self.gpt2(vocab_size), config)
        names = {"seeds": "embedding", "lstm": "lstm_head", "mlp": "mlp_head"}
        state = self.ours(vocab_size).prompts.encoders[0].state_dict()
        encoder: Any = model.get_submodule("prompt_encoder.default")
        encoder.load_state_dict(
            {name.replace(part := name.partition(".")[0], names[part], 1): tensor for name, tensor in state.items()}
        )
        return model

    def batches(self, vocab_size: int) -> Iterator[tuple[Batch, Batch]]:
        """Random tokens, for ours and for the peer, a few of them over and over."""
        generator = torch.Generator().manual_seed(2)
        made = []
        for _ in range(8):
            tokens = torch.randint(5, vocab_size, (self.batch_size, self.length), generator=generator)
            labels = torch.where(torch.arange(self.length) < self.length - self.asked, IGNORED, tokens)
            places = torch.arange(self.prompt).expand(self.batch_size, -1)
            nothing = torch.full_like(tokens, -1)
            shifted = torch.cat([labels[:, 1:], torch.full((self.batch_size, 1), IGNORED)], dim=1)
            ours = {
                "input_ids": torch.cat([torch.zeros_like(places), tokens], dim=1),
                "prompt_ids": torch.cat([places, nothing], dim=1),
                "labels": torch.cat([torch.full_like(places, IGNORED), shifted], dim=1),
                "task_ids": torch.zeros(self.batch_size, dtype=torch.long),
            }
            mask = torch.ones_like(tokens)
            made.append((ours, {"input_ids": tokens, "labels": labels, "attention_mask": mask}))
        while True:
            yield from made

    def our_step(self, vocab_size: int) -> Step:
        """What `lightning.Trainer` does in a step."""
        objective = self.ours(vocab_size).train()
        optimizer = objective.configure_optimizers()
        batches = self.batches(vocab_size)

        def step() -> None:
            loss = objective.training_step(next(batches)[0], 0)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return step

    def peft_step(self, vocab_size: int) -> Step:
        """The loop that everybody writes, over the parameters that are trained."""
        batches = (pair[1] for pair in self.batches(vocab_size))
        return peer_step(
            self.peft(vocab_size),
            batches,
            _loss,
            lambda parameters: fused_adamw([parameter for parameter in parameters if parameter.requires_grad]),
        )

    def agreement(self, vocab_size: int) -> list[Agreement]:
        """Loss, and gradients of the seeds."""
        ours, theirs = next(self.batches(vocab_size))
        objective, model = self.ours(vocab_size).eval(), self.peft(vocab_size)
        loss, peer_loss = objective.training_step(ours, 0), _loss(model, theirs)
        loss.backward()  # type: ignore[no-untyped-call]
        peer_loss.backward()  # type: ignore[no-untyped-call]
        first = objective.prompts.encoders[0].seeds.weight.grad  # type: ignore[union-attr]
        second = model.get_parameter("prompt_encoder.default.embedding.weight").grad
        assert isinstance(first, Tensor)
        assert isinstance(second, Tensor)
        return [
            Agreement("loss", abs(loss.item() - peer_loss.item()) / peer_loss.item(), LOSS_TOLERANCE),
            Agreement(
                "largest gradient",
                (first - second).abs().max().item() / second.abs().max().item(),
                GRADIENT_TOLERANCE,
            ),
        ]


def _loss(model: nn.Module, batch: Any) -> Tensor:
    loss: Tensor = model(**batch).loss
    return loss
