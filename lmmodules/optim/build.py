"""From an optimizer without parameters and a way to group them to an optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lmmodules.optim.parameter_groups import ParameterGroups


def build_optimizer(
    module: nn.Module,
    optimizer: Callable[[list[dict[str, Any]]], Optimizer],
    groups: ParameterGroups | None = None,
) -> Optimizer:
    """Build an optimizer over the parameter groups of a module.

    Only the optimizer knows the learning rate, so the groups' shares of it (`lr_factor`) are applied afterwards. The
    result is also kept as `initial_lr`, from which `WarmupDecay` computes the rate of every step.

    Args:
        module: Usually the whole objective.
        optimizer: Takes parameter groups, for example `functools.partial(torch.optim.AdamW, lr=3e-4, fused=True)`.
        groups: How the parameters are divided; all but norms and biases are decayed by default.

    Returns:
        The optimizer, at its peak learning rate.
    """
    built = optimizer((groups or ParameterGroups())(module))
    for group in built.param_groups:
        group["lr"] = group["lr"] * group["lr_factor"]
        group["initial_lr"] = float(group["lr"])
    return built
