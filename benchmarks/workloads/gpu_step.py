"""Training steps on a GPU in bfloat16, compiled: GPT-2 of 124M and 350M, ALiBi, and RoBERTa-base, against their peers.

Ours reads its batches through its own loader, masking included, and brings them to the device; the peers are given
tensors that lie there. Half the speed of a matrix product is the goal for 350M.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmarks import litgpt_peer
from benchmarks.training import (
    Batch,
    Sizes,
    corpus,
    endless,
    fused_adamw,
    names_of_transformers,
    objective_from,
    random_decoder,
    random_gpt2,
    random_roberta,
    same_loss_and_gradients,
    transformers_loss,
)
from benchmarks.workload import OURS, Agreement, Candidate, Case, Comparison, Grid, Step, Workload
from lmmodules import CausalLM, CorpusDataModule, MaskedLM
from lmmodules.batch import IGNORED
from lmmodules.data import Masking
from lmmodules.models import Alibi
from lmmodules.models.positions import PositionScheme
from lmmodules.objectives import LanguageModel

GPT2, LITGPT, ROBERTA = "GPT2LMHeadModel", "litgpt", "RobertaForMaskedLM"
NO_POSITIONS = f"{OURS}, no positions"
VOCABULARY = 50304
"""That of GPT-2 and a little more, to the next multiple of 64, as everybody takes it."""


@dataclass(frozen=True)
class GPUStep(Workload):
    """See the module.

    Attributes:
        device: Where the steps run.
        compiled: Whether networks are compiled.
        networks: Sizes of the GPT-2 networks, by name.
        roberta_sizes: Those of RoBERTa-base.
        vocab_size: Tokens known.
        tokens: Of a batch.
        causal_length: Of a causal sequence.
        masked_length: Of a masked one.
    """

    title: ClassVar[str] = "Training steps on a GPU"
    measures_memory: ClassVar[bool] = True

    device: str = "cuda"
    compiled: bool = True
    networks: dict[str, Sizes] = field(
        default_factory=lambda: {"GPT-2 124M": Sizes(768, 12, 12), "GPT-2 350M": Sizes(1024, 24, 16)}
    )
    roberta_sizes: Sizes = Sizes(768, 12, 12)  # noqa: RUF009
    vocab_size: int = VOCABULARY
    tokens: int = 16384
    causal_length: int = 1024
    masked_length: int = 512

    def cases(self, grid: Grid) -> Iterator[Case]:
        """Each network beside its peers, and the largest decoder with ALiBi beside itself without positions."""
        for name, sizes in self.networks.items():
            yield self._case(
                name,
                self._candidate(OURS, partial(self.our_gpt2_step, sizes), "transformers"),
                self._candidate(
                    GPT2,
                    partial(self.gpt2_step, sizes),
                    "transformers",
                    agreement=partial(self.agreement_with_gpt2, sizes),
                ),
                self._candidate(LITGPT, partial(self.litgpt_step, sizes), "litgpt"),
                comparisons=(Comparison(GPT2), Comparison(LITGPT)),
            )
        name, sizes = list(self.networks.items())[-1]
        yield self._case(
            f"{name}, ALiBi",
            self._candidate(OURS, partial(self.decoder_step, sizes, lambda: Alibi(sizes.num_heads))),
            self._candidate(NO_POSITIONS, partial(self.decoder_step, sizes, PositionScheme)),
            comparisons=(Comparison(NO_POSITIONS, 0.97),),
        )
        yield self._case(
            "RoBERTa-base, masked",
            self._candidate(OURS, self.our_roberta_step, "transformers"),
            self._candidate(ROBERTA, self.roberta_step, "transformers", agreement=self.agreement_with_roberta),
            comparisons=(Comparison(ROBERTA, 2.0),),
        )

    def _case(self, name: str, *candidates: Candidate, comparisons: tuple[Comparison, ...]) -> Case:
        return Case(name, candidates, comparisons, self.tokens, told_by="nothing", device=self.device)

    def _candidate(
        self,
        name: str,
        build: Callable[[], Step],
        *packages: str,
        agreement: Callable[[], list[Agreement]] | None = None,
    ) -> Candidate:
        return Candidate(name, build, packages, agreement, process="own", lacks=self.lacks)

    def lacks(self) -> str | None:
        """Why nothing can be measured here."""
        return "no GPU here" if self.device == "cuda" and not torch.cuda.is_available() else None

    # Data

    def data(self, length: int, masked: bool = False) -> CorpusDataModule:
        """Blocks of the stored tokens."""
        return corpus(self.vocab_size, length, self.tokens // length, Masking() if masked else None)

    def batches_there(self, length: int, masked: bool = False) -> Iterator[Batch]:
        """A few batches over and over, on the device already."""
        loader = iter(self.data(length, masked).train_dataloader())
        yield from endless([_moved(next(loader), self.device) for _ in range(4)])

    # Steps

    def step_of(
        self, model: nn.Module, loss: Callable[[Any], Tensor], batches: Iterator[Any], optimizer: torch.optim.Optimizer
    ) -> Step:
        """A step in bfloat16, finished when the device has.

        Args:
            model: On the device; in training mode from here on.
            loss: Of a batch.
            batches: Without an end.
            optimizer: Over its parameters.
        """
        model.train()

        def step() -> None:
            with torch.autocast(self.device, torch.bfloat16):
                value = loss(next(batches))
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if self.device == "cuda":
                torch.cuda.synchronize()

        return step

    def our_step(self, objective: LanguageModel, data: CorpusDataModule) -> Step:
        """What `lmm-train precision=bf16 compile=true` does in a step."""
        objective.to(self.device)
        if self.compiled:
            objective.backbone.compile()  # type: ignore[attr-defined]
        batches = (_moved(batch, self.device) for batch in endless(data.train_dataloader()))
        optimizer = objective.configure_optimizers()
        return self.step_of(objective, lambda batch: objective.training_step(batch, 0), batches, optimizer)

    def their_step(self, model: nn.Module, batches: Iterator[Any], loss: Callable[[nn.Module, Any], Tensor]) -> Step:
        """The loop that everybody writes, with the fused optimizer."""
        model.to(self.device)
        optimizer = fused_adamw(model.parameters())
        run: Any = torch.compile(model) if self.compiled else model
        return self.step_of(model, lambda batch: loss(run, batch), batches, optimizer)

    # GPT-2

    def gpt2(self, sizes: Sizes) -> Any:
        """The peer's network, with the same random weights each time."""
        return random_gpt2(self.vocab_size, self.causal_length, sizes, "gelu_pytorch_tanh")

    def our_gpt2_step(self, sizes: Sizes) -> Step:
        """Ours with these weights."""
        return self.our_step(objective_from(self.gpt2(sizes), CausalLM), self.data(self.causal_length))

    def gpt2_step(self, sizes: Sizes) -> Step:
        """It shifts the labels itself, so it is given the inputs."""
        given = self.batches_there(self.causal_length)
        batches = ({"input_ids": batch["input_ids"], "labels": batch["input_ids"]} for batch in given)
        return self.their_step(self.gpt2(sizes), batches, transformers_loss)

    def litgpt_step(self, sizes: Sizes) -> Step:
        """Its network has rotary positions and an output matrix of its own."""
        model = litgpt_peer.build(self.vocab_size, self.causal_length, sizes)
        return self.their_step(model, self.batches_there(self.causal_length), partial(litgpt_peer.loss, chunk_size=0))

    def agreement_with_gpt2(self, sizes: Sizes) -> list[Agreement]:
        """Loss and gradients on a processor, of the same widths in two layers, on one sequence."""
        model = self.gpt2(Sizes(sizes.hidden_size, 2, sizes.num_heads)).eval()
        batch = _first_sequence(next(iter(self.data(self.causal_length).train_dataloader())))
        loss = model(input_ids=batch["input_ids"], labels=batch["input_ids"]).loss
        batch["labels"][:, -1] = IGNORED
        objective = objective_from(self.gpt2(Sizes(sizes.hidden_size, 2, sizes.num_heads)), CausalLM)
        return same_loss_and_gradients(objective, batch, model, loss, names_of_transformers("gpt2"))

    # ALiBi

    def decoder_step(self, sizes: Sizes, position: Callable[[], PositionScheme]) -> Step:
        """Ours with a position scheme."""
        backbone = random_decoder(self.vocab_size, sizes, position=position(), activation="gelu_tanh")
        return self.our_step(CausalLM(backbone, optimizer=fused_adamw), self.data(self.causal_length))

    # RoBERTa

    def roberta(self, sizes: Sizes) -> Any:
        """The peer's network, with the same random weights each time."""
        return random_roberta(self.vocab_size, self.masked_length, sizes)

    def our_roberta_step(self) -> Step:
        """Ours with these weights, masking included."""
        objective = objective_from(self.roberta(self.roberta_sizes), MaskedLM)
        return self.our_step(objective, self.data(self.masked_length, masked=True))

    def roberta_step(self) -> Step:
        """On batches that are masked already."""
        batches = self.batches_there(self.masked_length, masked=True)
        return self.their_step(self.roberta(self.roberta_sizes), batches, transformers_loss)

    def agreement_with_roberta(self) -> list[Agreement]:
        """Loss and gradients on a processor, of the same widths in two layers."""
        sizes = Sizes(self.roberta_sizes.hidden_size, 2, self.roberta_sizes.num_heads)
        batch = next(iter(self.data(self.masked_length, masked=True).train_dataloader()))
        model = self.roberta(sizes).eval()
        loss = transformers_loss(model, batch)
        objective = objective_from(self.roberta(sizes), MaskedLM)
        return same_loss_and_gradients(objective, batch, model, loss, names_of_transformers("roberta"))


def _moved(batch: Batch, device: str) -> Batch:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def _first_sequence(batch: Batch) -> Batch:
    return {name: tensor[:1].clone() for name, tensor in batch.items()}
