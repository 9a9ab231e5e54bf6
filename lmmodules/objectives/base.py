"""What every objective shares: normalisation, optimizer, running totals. A paper adds one method, `losses`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from lmmodules.batch import check_batch, provides
from lmmodules.errors import InputError
from lmmodules.models.backbone import Backbone
from lmmodules.optim import ParameterGroups, build_optimizer
from lmmodules.parallel.clipping import clip_gradient_norm
from lmmodules.parallel.draws import seed_draws
from lmmodules.parallel.mesh import data_parallel_group, local_tensor, shard_over_mesh
from lmmodules.parallel.reduce import rank
from lmmodules.parallel.totals import Term, Totals

OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]
SEED_KEY = "lmmodules_seed"
"""Of the seed of a run's random draws in its checkpoints."""


class Objective(L.LightningModule, ABC):
    """A backbone and the way it learns.

    A subclass states what it needs (`batch_type`, `needs_causal`) and implements `losses`, which turns a batch into
    named (sum, count) terms. Everything else is here: the loss that is optimised is the weighted sum of the terms'
    means, each over *all* its targets on all ranks and accumulated batches.

    Args:
        backbone: Token ids in, hidden states out; `lmmodules.models.Transformer` or anything of its shape.
        optimizer: Builds the optimizer from parameter groups, for example
            `functools.partial(torch.optim.AdamW, lr=3e-4)`. `None` gives AdamW at 3e-4.
        parameter_groups: Which parameters are decayed, and at what share of the learning rate. `None` decays all but
            norms and biases.

    Raises:
        InputError: When the backbone is causal and the objective needs a bidirectional one, or the other way round.
    """

    batch_type: ClassVar[type]
    """The `TypedDict` of `lmmodules.batch` that `losses` reads."""
    needs_causal: ClassVar[bool | None] = None
    """Kind of backbone: causal, bidirectional, or `None` for either."""
    backbone: Backbone
    perplexity_term: str | None = "loss"
    """The term, in nats per token, whose exponential is reported as perplexity; `None` where there is none."""
    contrast_option: ClassVar[str | None] = None
    """The option by which samples are told from each other, for which one is too few; `None` where there is none."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        optimizer: OptimizerFactory | None = None,
        parameter_groups: ParameterGroups | None = None,
    ) -> None:
        super().__init__()
        self.check_backbone(bool(backbone.causal), type(backbone).__name__)
        self.backbone = backbone
        self.optimizer_factory = optimizer or partial(torch.optim.AdamW, lr=3e-4, fused=True)
        self.parameter_groups = parameter_groups or ParameterGroups()
        self.training_totals = Totals()
        self.validation_totals = Totals()
        self._reference_counts: Tensor | None = None  # (terms,) of the first batch of an accumulation window
        self._window_counts: Tensor | None = None  # (terms,) summed over the window so far
        self._batch_checked = False
        self._seed: int | None = None

    @classmethod
    def check_backbone(cls, causal: bool, model: str) -> None:
        """Compare the kind of a backbone with the kind this objective needs.

        Args:
            causal: Whether the backbone's positions see only what came before.
            model: What to call the backbone in the error.

        Raises:
            InputError: When they differ.
        """
        if cls.needs_causal is None or causal == cls.needs_causal:
            return
        needed, given = ("a causal", "bidirectional") if cls.needs_causal else ("a bidirectional", "causal")
        remedy = "decoder_small" if cls.needs_causal else "encoder_small"
        raise InputError(
            f"`{cls.__name__}` needs {needed} backbone, but `{model}` is {given}; use for example `model={remedy}`"
        )

    @classmethod
    def check_batch_size(cls, num_samples: int, contrasted: bool) -> None:
        """Compare the number of samples with what telling them from each other takes.

        Args:
            num_samples: Of a batch, or of those that are compared together.
            contrasted: Whether `contrast_option` is chosen.

        Raises:
            InputError: When there is one.
        """
        if contrasted and num_samples < 2:
            raise InputError(
                f"`data.batch_size` must be at least 2 with `objective.{cls.contrast_option}=true`, by which samples "
                f"are told from each other, but is {num_samples}; use `data.batch_size=8` or "
                f"`objective.{cls.contrast_option}=false`"
            )

    @abstractmethod
    def losses(self, batch: Any) -> dict[str, Term]:
        """Turn a batch into named terms.

        Args:
            batch: A batch of `batch_type`.

        Returns:
            Terms by name. Those with a weight are optimised; the others are only watched. A term called `loss`
            stands for the whole of an objective that has but one.
        """

    def flops_per_token(self, length: int) -> float:
        """Floating-point operations of one forward per token: the backbone's, where a subclass does not add to them.

        Args:
            length: Tokens per sequence T.
        """
        return self.backbone.flops_per_token(length)

    # Training

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Let what the batch draws at random, as for dropout, depend on the seed, its number and its data rank alone.

        The seed is the one that torch was given last before the first batch, and travels in checkpoints: a resumed run
        draws what an unbroken one does.
        """
        if self._seed is None:
            self._seed = torch.initial_seed()
        batches = self.trainer.fit_loop.total_batch_idx  # `batch_idx` begins anew with every pass over the data
        seed_draws(self._seed, batches, rank(data_parallel_group(self)), self.trainer.strategy.root_device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the seed of the draws."""
        checkpoint[SEED_KEY] = self._seed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the seed of the draws."""
        self._seed = checkpoint.get(SEED_KEY)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The optimised loss of one batch, scaled so that gradients come out per target over ranks and batches."""
        if not self._batch_checked:
            check_batch(batch, self.batch_type, type(self).__name__)
            self._batch_checked = True
        terms = self.losses(batch)
        self.training_totals.add(terms)
        return self._normalise(terms)

    def _normalise(self, terms: Mapping[str, Term]) -> Tensor:
        """Weighted sum of sums over global counts.

        The strategy averages gradients over ranks and Lightning over accumulated batches, so the sum of a rank is
        multiplied by the number of ranks here, and what accumulation adds is mended in `on_before_optimizer_step`,
        where the counts of the whole window are known.
        """
        optimised = [term for term in terms.values() if term.weight]
        device = optimised[0].sum.device
        counts = torch.stack([torch.as_tensor(term.count, device=device, dtype=torch.float32) for term in optimised])
        ranks = 1
        if dist.is_available() and dist.is_initialized():
            group = data_parallel_group(self)
            ranks = dist.get_world_size(group)
            if ranks > 1:
                dist.all_reduce(counts, group=group)
        if self._accumulates():
            self._window_counts = counts if self._window_counts is None else self._window_counts + counts
            if self._reference_counts is None:
                self._reference_counts = counts
            counts = self._reference_counts
        totals = [term.sum if term.weight == 1 else term.weight * term.sum for term in optimised]
        means = [total / count for total, count in zip(totals, counts.clamp(min=1), strict=True)]
        loss: Tensor = sum(means[1:], start=means[0])
        if ranks > 1:
            loss = ranks * loss
        return loss

    def _accumulates(self) -> bool:
        return self._trainer is not None and self.trainer.accumulate_grad_batches > 1

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Divide accumulated gradients by the number of targets of the window instead of by its number of batches.

        Exact for an objective with one term. With several, all are scaled as the first: they differ only as far as
        the proportions of their counts differ between the batches of one window.
        """
        if self._window_counts is None or self._reference_counts is None:
            return
        batches = self.trainer.accumulate_grad_batches
        scale = batches * self._reference_counts[0].clamp(min=1) / self._window_counts[0].clamp(min=1)
        self._window_counts = self._reference_counts = None
        if scale.device.type == "cpu" and scale == 1:
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    local_tensor(parameter.grad).mul_(scale.to(parameter.grad.device))

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the normalised gradients, and keep their norm before clipping for the log.

        Lightning's own clipping refuses fused optimizers under mixed precision, though without a loss scale, as with
        bfloat16, nothing speaks against them.
        """
        if not gradient_clip_val:
            return
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(parameters, gradient_clip_val)
            return
        norm = clip_gradient_norm(parameters, gradient_clip_val)
        self.training_totals.add({"gradient_norm": Term(norm, 1, weight=0.0)})

    def configure_optimizers(self) -> Optimizer:
        """The optimizer over this objective's parameter groups; the learning rate is written by `WarmupDecay`."""
        return build_optimizer(self, self.optimizer_factory, self.parameter_groups)

    def configure_model(self) -> None:
        """Spread parameters over the device mesh, when the strategy brought one."""
        shard_over_mesh(self)

    def on_fit_start(self) -> None:
        """Compare the data module with what the objective needs, and say so when nothing sets the learning rate.

        Raises:
            InputError: When the data module yields another kind of batch, or more tokens than the backbone knows.
        """
        data = getattr(self.trainer, "datamodule", None)
        batch_type = getattr(data, "batch_type", self.batch_type)
        if not provides(batch_type, self.batch_type):
            raise InputError(
                f"`{type(self).__name__}` needs a `{self.batch_type.__name__}`, but the data module yields a "
                f"`{batch_type.__name__}`; give it the transform of the objective"
            )
        vocab_size = getattr(data, "vocab_size", 0)
        if vocab_size > self.backbone.vocab_size:
            raise InputError(
                f"`vocab_size` of the backbone must be at least that of the tokenizer ({vocab_size}), but is "
                f"{self.backbone.vocab_size}"
            )
        callbacks = getattr(self.trainer, "callbacks", [])
        if not self.trainer.lr_scheduler_configs and not any(hasattr(callback, "schedule") for callback in callbacks):
            L.pytorch.utilities.rank_zero_warn(
                "The learning rate stays constant: add `WarmupDecay(...)` to the trainer's callbacks to warm it up and "
                "decay it."
            )

    # Validation

    def on_validation_epoch_start(self) -> None:
        """Start with empty totals."""
        self.validation_totals.clear()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Add one batch to the validation totals."""
        self.validation_totals.add(self.losses(batch))

    def on_validation_epoch_end(self) -> None:
        """Reduce the totals once and log them: `val/loss`, `val/perplexity` and every other term."""
        means = self.validation_totals.collect(data_parallel_group(self))
        if not means:
            return
        metrics = {f"val/{name}": value for name, value in means.items()}
        if self.perplexity_term in means:
            metrics["val/perplexity"] = math.exp(min(means[self.perplexity_term], 700.0))
        # Equal on all ranks already; saying so with `sync_dist` is what Lightning asks of an epoch's metrics.
        self.log_dict({name: torch.tensor(value) for name, value in metrics.items()}, sync_dist=True)

    def collect_training_metrics(self) -> dict[str, float]:
        """Means of the training terms since the last call, over all ranks, by one collective.

        Every rank must call it at the same step; `RankZeroLogging` does.
        """
        return self.training_totals.collect(data_parallel_group(self))
