"""Memory and communication of a layout, against arithmetic done by hand."""

from __future__ import annotations

import pytest

from lmmodules.models import LanguageModelHead, Transformer
from lmmodules.objectives import ELECTRA, CausalLM
from lmmodules.scale import Layout, divided_parameters


@pytest.mark.parametrize(
    ("layout", "kept"),
    [
        (Layout(), 100.0),
        (Layout(data=4), 100.0),
        (Layout(data=4, sharded=True), 25.0),
        (Layout(tensor=2), 20 + 40.0),
        (Layout(tensor=4, data=8), 20 + 20.0),
        (Layout(tensor=4, data=8, sharded=True), 5.0),
    ],
)
def test_parameters_of_a_device(layout: Layout, kept: float) -> None:
    assert layout.parameters(100, 80) == kept


def test_bytes_of_the_tensor_axis() -> None:
    # A ring of four sends three quarters of what it reduces, and again to hand round the sums.
    ring = 2 * 3 / 4
    assert Layout(tensor=4).tensor_bytes(10, 1000) == (10 * 4 + 2) * ring * 1000
    assert Layout(tensor=4, recomputed=True).tensor_bytes(10, 1000) == (10 * 6 + 2) * ring * 1000
    assert Layout(tensor=1).tensor_bytes(10, 1000) == 0


def test_bytes_of_the_data_axis() -> None:
    ring = 2 * 7 / 8
    assert Layout(data=8).data_bytes(1000, batches=3) == ring * 1000, "gradients are summed once in a step"
    # Two gathers and a scatter for each batch, of half a ring each.
    assert Layout(data=8, sharded=True).data_bytes(1000, batches=3) == 3 * 1.5 * ring * 1000
    assert Layout(data=8, sharded=True).data_bytes(1000, 3, gathered_bytes=500) == 3 * ring * 1000
    assert Layout(data=1, sharded=True).data_bytes(1000, batches=1) == 0


@pytest.mark.parametrize("tied", [True, False])
def test_divided_parameters(tied: bool) -> None:
    vocabulary, hidden, layers = 48, 16, 3
    backbone = Transformer(vocab_size=vocabulary, hidden_size=hidden, num_layers=layers, num_heads=4, causal=True)
    head = LanguageModelHead(hidden, vocabulary, tied=tied)
    block = (3 * hidden * hidden + 3 * hidden) + hidden * hidden + (4 * hidden * hidden + 4 * hidden) + 4 * hidden**2
    expected = layers * block + vocabulary * hidden * (1 if tied else 2)
    assert divided_parameters(CausalLM(backbone, head=head), 2) == expected


@pytest.mark.parametrize(("ranks", "layers"), [(2, 1), (1, 2)])
def test_a_generator_that_is_too_narrow_is_not_divided(ranks: int, layers: int) -> None:
    vocabulary, hidden = 48, 16
    backbone = Transformer(vocab_size=vocabulary, hidden_size=hidden, num_layers=1, num_heads=4, causal=False)
    objective = ELECTRA(backbone, auxiliary_width=0.25)
    divided = divided_parameters(objective, ranks)
    widths = [hidden, hidden // 4][:layers]
    blocks = sum(
        (3 * width * width + 3 * width) + width * width + (4 * width * width + 4 * width) + 4 * width * width
        for width in widths
    )
    assert divided == blocks + vocabulary * hidden + vocabulary
