"""In which precision sums are taken."""

from __future__ import annotations

import torch
from torch import Tensor

LOW_PRECISION = (torch.float16, torch.bfloat16)


def full_precision(tensor: Tensor) -> Tensor:
    """Half precision as float32, and everything else as it is."""
    return tensor.float() if tensor.dtype in LOW_PRECISION else tensor
