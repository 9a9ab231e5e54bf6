"""Muon for the matrices of the layers, AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, overload

import torch
from torch import nn
from torch.optim import Optimizer

from lmmodules.errors import InputError


class Muon(Optimizer):
    """Orthogonalise the momentum of hidden matrices; update embeddings, heads, norms and biases by AdamW.

    `torch.optim.Muon` takes nothing but matrices. Here both live in one optimizer with one list of parameter groups, so
    that one schedule, one checkpoint and one step of the trainer cover them. Which matrices are hidden is said by the
    groups: `ParameterGroups(hidden_matrices=True)`. A fused projection is orthogonalised as the one matrix it is.

    Args:
        params: Parameter groups, of which those for Muon carry `hidden_matrices=True`.
        lr: Learning rate of the hidden matrices.
        adamw_lr: Learning rate of the others; `None` for the same, which suits `adjust_lr_fn="match_rms_adamw"`.
        weight_decay: Share of a parameter that is taken off in each step, times the learning rate; for both.
        momentum: Decay rate of Muon's momentum.
        nesterov: Whether the momentum looks one step ahead.
        ns_steps: Newton-Schulz iterations of the orthogonalisation.
        adjust_lr_fn: How the learning rate depends on the shape of a matrix: `match_rms_adamw` makes updates as large
            as AdamW's, so that both can share a rate; `original` keeps their spectral norm.
        betas: Decay rates of AdamW's moments.
        eps: AdamW's addition to the square root of the second moment.

    Raises:
        InputError: If no group is marked, or a rate is negative.

    Source:
        Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; `match_rms_adamw` from Liu et
        al. 2025, "Muon is Scalable for LLM Training", section 2.2.
    """

    def __init__(
        self,
        params: list[dict[str, Any]],
        lr: float = 1e-3,
        *,
        adamw_lr: float | None = None,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr_fn: Literal["original", "match_rms_adamw"] = "match_rms_adamw",
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        for name, value in (("lr", lr), ("adamw_lr", adamw_lr), ("weight_decay", weight_decay)):
            if value is not None and value < 0:
                raise InputError(f"`{name}` must not be negative, but is {value}; use `optimizer.{name}=0.001`")
        groups = [dict(group) for group in params if isinstance(group, dict)]
        matrices = [group for group in groups if group.get("hidden_matrices", False)]
        others = [group for group in groups if not group.get("hidden_matrices", False)]
        if not matrices:
            raise InputError(
                "`hidden_matrices` must mark at least one parameter group for `Muon`, but marks none; "
                "use `parameter_groups.hidden_matrices=true`"
            )
        for group in others:
            group.setdefault("lr", lr if adamw_lr is None else adamw_lr)
        # Each fills in its own defaults; the groups are the same objects as here.
        self._muon = torch.optim.Muon(
            matrices,
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
        )
        self._adamw: torch.optim.AdamW | None = None
        if others:
            self._adamw = torch.optim.AdamW(
                others, betas=betas, eps=eps, weight_decay=weight_decay, fused=_can_fuse(others)
            )
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "hidden_matrices": False})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make one update of everything.

        Args:
            closure: Evaluates the loss and its gradients first.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for inner, marked in ((self._muon, True), (self._adamw, False)):
            if inner is not None:
                # Loading a state replaces groups and states by new objects, so they are handed over at every step.
                inner.param_groups = [group for group in self.param_groups if group["hidden_matrices"] is marked]
                inner.state = self.state
                inner.step()  # type: ignore[no-untyped-call]
        return loss


def _can_fuse(groups: list[dict[str, Any]]) -> bool:
    """Whether AdamW may run as one kernel: on ordinary parameters, but not on those sharded over a mesh."""
    return all(
        type(parameter) is nn.Parameter and parameter.device.type in ("cpu", "cuda")
        for group in groups
        for parameter in group["params"]
    )
