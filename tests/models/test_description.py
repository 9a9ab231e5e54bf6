"""What is read off a network is what it was made with."""

from __future__ import annotations

import pytest
import torch

from lmmodules.models import Alibi, Learned, RelativeBias, Rotary, Transformer
from lmmodules.models.description import describe

SIZES = {"vocab_size": 11, "hidden_size": 8, "num_layers": 1, "num_heads": 2, "causal": False}
CHANGES = {
    "vocab_size": 12,
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 4,
    "causal": True,
    "num_kv_heads": 1,
    "head_dim": 6,
    "intermediate_size": 10,
    "embedding_size": 4,
    "pre_norm": False,
    "norm": "rms_norm",
    "norm_eps": 1e-7,
    "activation": "relu",
    "bias": False,
    "embedding_norm": True,
    "num_token_types": 2,
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_argument_shows(name):
    before, after = describe(Transformer(**SIZES)), describe(Transformer(**{**SIZES, name: CHANGES[name]}))
    assert after[name] == CHANGES[name] != before[name]


def test_nothing_else_does():
    unseen = {
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "initializer_std": 1.0,
        "scale_residual_init": True,
        "pad_id": 3,
    }
    assert describe(Transformer(**SIZES, **unseen)) == describe(Transformer(**SIZES))
    assert describe(Transformer(**SIZES)).keys() == CHANGES.keys() | {"position", "position.theta"}


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        (lambda: Rotary(77.0), {"position": "Rotary", "position.theta": 77.0}),
        (lambda: Learned(9, 8, 2), {"position": "Learned", "position.max_length": 9, "position.offset": 2}),
        (lambda: Alibi(2, "offset"), {"position": "Alibi", "position.bidirectional": "offset"}),
        (
            lambda: RelativeBias(2, 16, 64, Learned(9, 8)),
            {
                "position": "RelativeBias",
                "position.num_buckets": 16,
                "position.max_distance": 64,
                "position.absolute": "Learned",
            },
        ),
    ],
)
def test_positions_show_their_own_arguments(position, expected):
    described = describe(Transformer(**SIZES, position=position()))
    assert {name: value for name, value in described.items() if name.startswith("position")} == expected


def test_the_meta_device_will_do():
    with torch.device("meta"):
        backbone = Transformer(**SIZES)
    assert describe(backbone) == describe(Transformer(**SIZES))
