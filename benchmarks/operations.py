"""How many floating-point operations a step really does, in its matrix products and its attention."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.workload import Step

Shape = tuple[int, ...]


def count_operations(step: Step) -> int:
    """Operations of one step, two per multiplication and addition, counted as they are dispatched.

    Head, recomputation and rows that are left out count as what they are, so that the share of a matrix product's
    speed is that of work done. Attention counts in full where a causal kernel leaves a half out.

    Args:
        step: Runs once.
    """
    with FlopCounterMode(display=False, custom_mapping=_MORE) as counter:
        step()
    return int(counter.get_total_flops())


def _addmm_in_place(total: Shape, first: Shape, second: Shape, **_: Any) -> int:
    return 2 * first[0] * first[1] * second[1]


def _baddbmm(total: Shape, first: Shape, second: Shape, **_: Any) -> int:
    return 2 * first[0] * first[1] * first[2] * second[2]


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    batch, heads, queries, size = query
    return 2 * batch * heads * queries * key[-2] * (size + value[-1])


def _attention_backward(gradient: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    # The scores are computed again; then the gradients of scores, queries, keys and values.
    batch, heads, queries, size = query
    return 2 * batch * heads * queries * key[-2] * (3 * size + 2 * value[-1])


_aten = torch.ops.aten
# What torch's counter does not know: products in place, and the attention kernel of processors.
_MORE: dict[Any, Any] = {
    _aten.addmm_: _addmm_in_place,
    _aten.baddbmm_: _baddbmm,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
