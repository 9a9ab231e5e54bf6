from __future__ import annotations

import pytest
import torch

from lmmodules.parallel.agreement import checksum


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_a_checksum_sees_every_element_and_their_order(dtype: torch.dtype) -> None:
    tensor = (torch.arange(12).view(3, 4) % 3 == 0).to(dtype)
    own = checksum(tensor)
    assert checksum(tensor.clone()) == own
    for index in range(12):
        other = tensor.clone()
        other.view(-1)[index] = 1 - other.view(-1)[index].int()
        assert checksum(other) != own
    assert checksum(tensor.flip(0)) != own
    assert checksum(torch.zeros(3)) != checksum(torch.zeros(4))
