"""The norm of gradients of which some are whole on every rank and others are spread, over one mesh or another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lmmodules.parallel.mesh import full_tensor, local_tensor


@torch.no_grad()
def clip_gradient_norm(parameters: Sequence[Tensor], max_norm: float) -> Tensor:
    """Scale gradients so that the norm of them all is at most `max_norm`; each counts once, on however many ranks.

    Torch's own function does it for ordinary tensors, and for tensors that are spread over one mesh. It refuses both
    together.

    Args:
        parameters: Those without a gradient are left out.
        max_norm: Largest norm.

    Returns:
        The norm before clipping, a scalar that is equal on all ranks.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    meshes = {gradient.device_mesh if isinstance(gradient, DTensor) else None for gradient in gradients}
    if len(meshes) <= 1:
        return full_tensor(torch.nn.utils.clip_grad_norm_(parameters, max_norm))
    by_mesh = [
        full_tensor(
            torch.nn.utils.get_total_norm(
                [grad for grad in gradients if (grad.device_mesh if isinstance(grad, DTensor) else None) == mesh]
            )
        )
        for mesh in sorted(meshes, key=str)  # in one order on all ranks, which reduce each in turn
    ]
    norm: Tensor = torch.stack(by_mesh).norm()
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        local_tensor(gradient).mul_(scale)
    return norm
