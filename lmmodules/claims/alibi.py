"""ALiBi: it goes on beyond its training length, and costs what having no such positions costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from time import process_time
from typing import TYPE_CHECKING, Any, cast

from lmmodules.claims.base import Claim, Measurement
from lmmodules.claims.rules import Below, NotAbove

if TYPE_CHECKING:
    import torch

    from lmmodules.objectives import Objective
    from lmmodules.trial import Trial

TRAIN_LENGTH, FAR = 128, 1024
LENGTHS = (128, 256, 512, 1024, 2048)
ROUNDS = 7


@dataclass(frozen=True)
class ExtrapolationClaim(Claim):
    """Trains one run per position scheme and scores each at every length."""

    def measure(self, trial: Trial) -> Measurement:
        """The losses at the training length and far beyond it; the curves are over length."""
        curves = {}
        for arm, overrides in self.arms.items():
            run = trial.train(arm, *overrides)
            lengths = f"evaluation.lengths=[{','.join(map(str, LENGTHS))}]"
            figures = cast("dict[str, Any]", trial.evaluate(run, "evaluation=extrapolation", lengths))
            rows = figures.get("lengths", [{"length": length, "loss": math.inf} for length in LENGTHS])
            curves[arm] = [(float(row["length"]), float(row["loss"])) for row in rows]
        at = {arm: dict(curve) for arm, curve in curves.items()}
        # What is drawn comes first, in colours of its own; a scheme that ends with training has but the one point.
        drawn = {arm if FAR in at[arm] else f"{arm} at {TRAIN_LENGTH}": curve for arm, curve in curves.items()}
        figures = {name: dict(curve).get(FAR, curve[-1][1]) for name, curve in drawn.items()}
        figures |= {f"{arm} at {TRAIN_LENGTH}": losses[TRAIN_LENGTH] for arm, losses in at.items()}
        return Measurement(figures, drawn)


@dataclass(frozen=True)
class CostClaim(Claim):
    """Takes the networks of short runs and weighs training steps on batches of as many tokens.

    Attributes:
        lengths: Tokens of a sequence, by arm.
        compared_with: The arm that stands for one.
        memory: Whether what a step keeps for its backward pass is weighed, and not its time.
        tokens: Of a batch.
    """

    lengths: tuple[tuple[str, int], ...] = ()
    compared_with: str = ""
    memory: bool = False
    tokens: int = 8192

    def measure(self, trial: Trial) -> Measurement:
        """Costs relative to that of one arm: medians over rounds in which the arms take turns."""
        import torch

        from lmmodules.checkpoint import load

        lengths = dict(self.lengths)
        steps = {}
        for arm, overrides in self.arms.items():
            run = trial.train(arm, *overrides)
            device = "cuda" if torch.cuda.is_available() and "trainer.accelerator=gpu" in trial.overrides else "cpu"
            steps[arm] = TrainingStep(load(run.directory, device=device).train(), lengths[arm], self.tokens)
        if self.memory:
            kept = {arm: float(step.kept_bytes()) for arm, step in steps.items()}
            return Measurement({arm: size / kept[self.compared_with] for arm, size in kept.items()})
        for step in steps.values():
            step.seconds()  # caches are filled and the optimizer has its state
        rounds = []
        arms = list(steps)
        for first in range(ROUNDS):
            turns = [*arms[first % len(arms) :], *arms[: first % len(arms)]]
            rounds.append({arm: steps[arm].seconds() for arm in turns})
        return Measurement({arm: median(turn[arm] / turn[self.compared_with] for turn in rounds) for arm in arms})


class TrainingStep:
    """One optimizer step on a batch that is the same each time.

    Args:
        objective: In training mode.
        length: Tokens of a sequence.
        tokens: Of the batch.
    """

    def __init__(self, objective: Objective, length: int, tokens: int) -> None:
        import torch

        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(objective.backbone.vocab_size, (tokens // length, length + 1), generator=generator)
        ids = ids.to(objective.device)
        self.batch = {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}
        self.objective = objective
        self.optimizer = objective.configure_optimizers()

    def seconds(self) -> float:
        """Seconds of the processor, or of the GPU, that a step takes."""
        import torch

        on_gpu = self.objective.device.type == "cuda"
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if on_gpu else []  # type: ignore[no-untyped-call]
        if on_gpu:
            events[0].record()
        begin = process_time()
        self._loss().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not on_gpu:
            return process_time() - begin
        events[1].record()
        events[1].synchronize()
        return float(events[0].elapsed_time(events[1]) / 1000)

    def kept_bytes(self) -> int:
        """Bytes of the tensors that the forward pass keeps for the backward pass, weights among them."""
        import torch

        sizes: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = self._loss()
        assert loss.requires_grad
        return sum(sizes.values())

    def _loss(self) -> torch.Tensor:
        term = self.objective.losses(self.batch)["loss"]
        return term.sum / term.count


_TEN_STEPS = ("max_steps=10", "trainer.limit_val_batches=1", "schedule.warmup_ratio=0.0")
_SHORT, _LONG = "sinusoidal", "sinusoidal at twice the length"
_COST_ARMS = {
    "alibi": ("position=alibi", "data.max_length=1024", "data.batch_size=1"),
    _SHORT: ("position=sinusoidal", "data.max_length=1024", "data.batch_size=1"),
    _LONG: ("position=sinusoidal", "data.max_length=2048", "data.batch_size=1"),
}
_COST_LENGTHS = (("alibi", 1024), (_SHORT, 1024), (_LONG, 2048))
_SMALL = ("model=decoder_small", "model.hidden_size=128", "model.num_heads=8")

CLAIMS = [
    ExtrapolationClaim(
        paper="alibi",
        name="extrapolation",
        statement="A model with ALiBi reads texts many times longer than those it was trained on, and is no worse for "
        "it; one with sinusoidal positions is.",
        source="Press et al. 2022, table 2 (WikiText-103, 247M parameters, trained on 512 tokens)",
        reported="Perplexity at 1012, 3512 and 15512 tokens: sinusoidal 43.54, 178.97, 406.01; rotary 21.37, 35.54, "
        "79.25; ALiBi 18.73, 18.40, 18.31.",
        arms={
            "alibi": ("position=alibi",),
            "rotary": ("position=rotary",),
            "sinusoidal": ("position=sinusoidal",),
            "learned": ("position=learned", f"model.max_length={TRAIN_LENGTH}"),
        },
        setting=(
            "objective=causal_lm",
            f"data.max_length={TRAIN_LENGTH}",
            "schedule=cosine",
            "optimizer.lr=3e-3",
            "log_every_steps=50",
            "validate_every_steps=100",
        ),
        sizes={
            "cpu": (*_SMALL, "model.initializer_std=0.088", "data.batch_size=16", "max_steps=300"),
            "gpu": (
                "model=gpt2",
                "model.max_length=null",
                "model.initializer_std=0.036",
                "model.dropout=0.0",
                "model.attention_dropout=0.0",
                "optimizer.lr=6e-4",
                "data.batch_size=128",
                "max_steps=3000",
            ),
        },
        rules=(
            NotAbove("alibi", f"alibi at {TRAIN_LENGTH}", tolerance=0.0),
            Below("alibi", "sinusoidal"),
            Below(f"sinusoidal at {TRAIN_LENGTH}", "sinusoidal"),
            Below("alibi", "rotary"),
        ),
        remarks=f"All are trained on {TRAIN_LENGTH} tokens. The held-out text is one stream, cut into pieces of each "
        "length that are read by themselves, so that at every length the same tokens are predicted. A figure without a "
        f"length is that at {FAR} tokens, eight times the training length. Learned positions end where training did. "
        "Embeddings begin with a standard deviation of one over the root of their size, so that sinusoidal positions, "
        "of about the size of one, do not drown them.",
        unit="loss on held-out text, nats per token",
        curve_label="tokens read at once",
    ),
    CostClaim(
        paper="alibi",
        name="step_time",
        statement="A training step with ALiBi takes as long as one with sinusoidal positions, and less than one on "
        "sequences twice as long.",
        source="Press et al. 2022, training speed and memory by position method, and table 11",
        reported="On one GPU, at 1024 tokens, 25.8k words per second with ALiBi and 26.0k with sinusoidal positions; "
        "1.3B parameters trained on 1024 tokens reach the perplexity of sinusoidal ones trained on 2048 11 % sooner.",
        arms=_COST_ARMS,
        setting=_TEN_STEPS,
        sizes={"cpu": _SMALL, "gpu": ("model=gpt2", "model.max_length=null")},
        rules=(NotAbove("alibi", _SHORT, tolerance=0.05), Below("alibi", _LONG)),
        remarks="Steps on batches of 8192 tokens, by the networks of runs of ten steps, in one process and taking "
        "turns; medians of seven rounds, processor time.",
        unit="time of a step, sinusoidal = 1",
        lengths=_COST_LENGTHS,
        compared_with=_SHORT,
    ),
    CostClaim(
        paper="alibi",
        name="step_memory",
        statement="A training step with ALiBi keeps no more memory than one with sinusoidal positions.",
        source="Press et al. 2022, training speed and memory by position method, and table 11",
        reported="On one GPU, at 1024 tokens, 19.3 GB with ALiBi and 19.2 GB with sinusoidal positions; 1.3B "
        "parameters trained on 1024 tokens take 26.2 GB, on 2048 tokens 29.3 GB.",
        arms=_COST_ARMS,
        setting=_TEN_STEPS,
        sizes={"cpu": _SMALL, "gpu": ("model=gpt2", "model.max_length=null")},
        rules=(NotAbove("alibi", _SHORT, tolerance=0.01), NotAbove("alibi", _LONG, tolerance=0.01)),
        remarks="Bytes of all tensors that the forward pass keeps for the backward pass, on batches of 8192 tokens. "
        "Attention by tiles keeps no scores, so that here a longer sequence takes no more memory per token.",
        unit="bytes kept by a step, sinusoidal = 1",
        lengths=_COST_LENGTHS,
        compared_with=_SHORT,
        memory=True,
    ),
]
