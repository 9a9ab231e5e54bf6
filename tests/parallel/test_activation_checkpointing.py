from __future__ import annotations

import torch
from torch import Tensor

from lmmodules.models import Transformer
from lmmodules.parallel.activation_checkpointing import RecomputedBlock, recompute_blocks
from lmmodules.plan import SavedBytes

B, T, D, LAYERS = 2, 8, 16, 3


def network() -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        vocab_size=20, hidden_size=D, num_layers=LAYERS, num_heads=2, causal=True, dropout=0.2, attention_dropout=0.2
    )


def run(network: Transformer) -> tuple[Tensor, dict[str, Tensor], SavedBytes]:
    torch.manual_seed(1)
    with SavedBytes(network) as saved:
        hidden = network(torch.arange(B * T).view(B, T) % 20)
    hidden.square().sum().backward()
    return hidden.detach(), {name: it.grad for name, it in network.named_parameters() if it.grad is not None}, saved


def test_numbers_stay_and_blocks_keep_their_input_alone() -> None:
    plain, recomputed = network(), network()
    recompute_blocks(recomputed)
    hidden, gradients, all_of_it = run(plain)
    again, found, saved = run(recomputed)
    assert torch.equal(again, hidden)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-6)
    outside = all_of_it.total - all_of_it.in_blocks
    inputs = 4 * B * T * D * LAYERS
    assert outside + inputs <= saved.total < 1.3 * (outside + inputs) < all_of_it.total / 2


def test_nothing_is_run_again_where_nothing_is_trained() -> None:
    recomputed = network().eval()
    recompute_blocks(recomputed)
    assert all(type(block) is RecomputedBlock for block in recomputed.blocks)
    expected = network().eval()(torch.arange(6)[None])
    assert torch.equal(recomputed(torch.arange(6)[None]), expected)
