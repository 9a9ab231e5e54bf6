"""A mode of PyTorch that tells the largest tensor any operation made; tests have it as the fixture `largest_tensor`."""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that an operation made since the mode was entered."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            # An expanded tensor has elements, but no memory for them.
            if isinstance(tensor, Tensor) and 0 not in tensor.stride():
                self.elements = max(self.elements, tensor.numel())
        return result
