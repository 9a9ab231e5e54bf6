"""BERT's optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from lmmodules.errors import InputError

_LOW_PRECISION = (torch.float16, torch.bfloat16)


class AdamWeightDecay(Optimizer):
    """Adam with decoupled weight decay and without bias correction.

    For a parameter p with gradient g, from m = v = 0 and at the learning rate of the step:

        m <- beta1 m + (1 - beta1) g
        v <- beta2 v + (1 - beta2) g²
        p <- p - lr (m / (sqrt(v) + eps) + weight_decay p)

    Against `torch.optim.AdamW`, the first updates are up to 6.6 times as large at the default betas, which is what the
    warmup of BERT is for, and `eps` is compared with the uncorrected sqrt(v). Parameters without a gradient are left
    as they are, and not decayed either. Moments of parameters in half precision are kept in float32.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate.
        betas: Decay rates of the two moments.
        eps: Added to the square root of the second moment.
        weight_decay: Share of a parameter that is taken off in each step, times the learning rate.
        correct_bias: Divide the moments by what they lack from starting at 0. The result is `torch.optim.AdamW`.

    Raises:
        InputError: If a number is out of range.

    Source:
        Devlin et al. 2019, "BERT"; google-research/bert, `optimization.py`.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-4,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        correct_bias: bool = False,
    ) -> None:
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if value < 0:
                raise InputError(f"`{name}` must not be negative, but is {value}; use `optimizer.{name}=0` for none")
        if not all(0.0 <= beta < 1.0 for beta in betas):
            raise InputError(f"`betas` must lie in [0, 1), but are {tuple(betas)}; use `optimizer.betas=[0.9,0.999]`")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "correct_bias": correct_bias}
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make one update.

        Args:
            closure: Evaluates the loss and its gradients first.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in parameters:
                self._prepare(parameter, group)
            together = [parameter for parameter in parameters if _is_plain(parameter)]
            if together:
                self._update_together(together, group)
            for parameter in parameters:
                if not _is_plain(parameter):
                    self._update(parameter, group)
        return loss

    def _prepare(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """Make moments of 0 before the first update, and count updates where the correction needs their number."""
        state = self.state[parameter]
        if not state:
            moment = parameter.float() if parameter.dtype in _LOW_PRECISION else parameter
            state["exp_avg"] = torch.zeros_like(moment, requires_grad=False)
            state["exp_avg_sq"] = torch.zeros_like(moment, requires_grad=False)
        if group["correct_bias"]:
            state["step"] = state.get("step", torch.tensor(0.0)) + 1

    def _corrections(self, parameter: Tensor, group: dict[str, Any]) -> tuple[float, float]:
        """What m and sqrt(v) are divided by."""
        if not group["correct_bias"]:
            return 1.0, 1.0
        beta1, beta2 = group["betas"]
        step = self.state[parameter]["step"].item()
        return 1 - beta1**step, math.sqrt(1 - beta2**step)

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """One parameter as the formula has it: the reference, and the path of half precision and of sharded tensors."""
        beta1, beta2 = group["betas"]
        first, second = self.state[parameter]["exp_avg"], self.state[parameter]["exp_avg_sq"]
        first_correction, second_correction = self._corrections(parameter, group)
        assert parameter.grad is not None
        gradient = parameter.grad.to(first.dtype)
        value = parameter.to(first.dtype)

        first.mul_(beta1).add_(gradient, alpha=1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        update = (first / first_correction) / ((second.sqrt() / second_correction).add_(group["eps"]))
        update = update + group["weight_decay"] * value
        parameter.copy_(value - float(group["lr"]) * update)

    def _update_together(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """The same for many parameters at once."""
        beta1, beta2 = group["betas"]
        lr = float(group["lr"])
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        first = [self.state[parameter]["exp_avg"] for parameter in parameters]
        second = [self.state[parameter]["exp_avg_sq"] for parameter in parameters]
        corrections = [self._corrections(parameter, group) for parameter in parameters]

        torch._foreach_mul_(first, beta1)
        torch._foreach_add_(first, gradients, alpha=1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, value=1 - beta2)
        denominators = torch._foreach_sqrt(second)
        if group["correct_bias"]:
            torch._foreach_div_(denominators, [second_correction for _, second_correction in corrections])
        torch._foreach_add_(denominators, group["eps"])
        if group["weight_decay"] != 0:
            torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        torch._foreach_addcdiv_(
            parameters, first, denominators, [-lr / first_correction for first_correction, _ in corrections]
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state_dict: What `state_dict()` returned.
        """
        super().load_state_dict(state_dict)
        # The base class casts moments to the dtype of their parameter, which would round those of half precision.
        indices = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        parameters = chain.from_iterable(group["params"] for group in self.param_groups)
        for index, parameter in zip(indices, parameters, strict=True):
            if parameter.dtype in _LOW_PRECISION and index in state_dict["state"]:
                for name in ("exp_avg", "exp_avg_sq"):
                    saved = state_dict["state"][index][name]
                    self.state[parameter][name] = saved.to(parameter.device, torch.float32, copy=True)


def _is_plain(parameter: Tensor) -> bool:
    """Whether the vectorised functions can take it: an ordinary tensor whose moments have its own dtype."""
    return type(parameter) in (Tensor, nn.Parameter) and parameter.dtype not in _LOW_PRECISION
