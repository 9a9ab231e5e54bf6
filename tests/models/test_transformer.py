from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from lmmodules.errors import InputError
from lmmodules.models import Alibi, Backbone, Learned, NoPosition, Transformer
from lmmodules.models.block import build_norm
from lmmodules.models.mlp import MLP

SIZES = {"vocab_size": 20, "hidden_size": 16, "num_layers": 2, "num_heads": 4, "causal": True}


def model(**changes):
    torch.manual_seed(0)
    return Transformer(**{**SIZES, "initializer_std": 0.3, **changes})


def tokens(*shape):
    return torch.randint(1, 20, shape, generator=torch.Generator().manual_seed(0))


def test_it_is_a_backbone():
    assert isinstance(model(), Backbone)


# Options


def test_every_option_changes_a_number():
    def hidden(**changes):
        network = model(**changes)
        with torch.no_grad():  # so that biases, norms and epsilons show
            torch.manual_seed(1)
            for parameter in network.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        return network(tokens(2, 6))

    plain = hidden()
    assert torch.equal(plain, hidden())
    options = {
        "causal": False,
        "num_kv_heads": 2,
        "head_dim": 6,
        "intermediate_size": 24,
        "position": NoPosition(),
        "pre_norm": False,
        "norm": "rms_norm",
        "norm_eps": 0.1,
        "activation": "gelu_tanh",
        "bias": False,
        "embedding_norm": True,
        "num_token_types": 2,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "initializer_std": 0.1,
        "scale_residual_init": True,
    }
    for name, value in options.items():
        assert (hidden(**{name: value}) - plain).abs().max() > 1e-6, name
    assert (hidden(activation="relu") - plain).abs().max() > 1e-2
    assert (hidden(activation="swiglu") - plain).abs().max() > 1e-2


def test_dropout_acts_in_training_only():
    for option in ("dropout", "attention_dropout"):
        network, ids = model(**{option: 0.5}), tokens(2, 6)
        assert not torch.equal(network(ids), network(ids))
        network.eval()
        assert torch.equal(network(ids), network(ids))
        torch.testing.assert_close(network(ids), model()(ids))


def test_dropout_leaves_expectations_as_they_are():
    network = model(dropout=0.2, num_layers=1)
    inputs = torch.ones(1, 1, 16)
    with torch.no_grad():
        dropped = torch.stack([network._embed(inputs, None, network_positions()) for _ in range(4000)])
    assert dropped.mean() == pytest.approx(1.0, abs=0.02)
    assert (dropped == 0).float().mean() == pytest.approx(0.2, abs=0.02)


def network_positions():
    from lmmodules.models.positions import Positions

    return Positions(0, 1)


# Arithmetic


def test_pre_and_post_norm_by_hand():
    ids = tokens(1, 5)
    for pre_norm in (True, False):
        network = model(pre_norm=pre_norm, num_layers=1, causal=False, position=NoPosition()).double()
        block = network.blocks[0]

        def attend(x, attention=block.attention):
            query, key, value = (
                (x @ attention.query_key_value.weight.T).view(5, 4, 3, 4).unbind(2)  # (T, H, K) each
            )
            weights = (torch.einsum("ihk,jhk->hij", query, key) / 2).softmax(-1)
            return torch.einsum("hij,jhk->ihk", weights, value).flatten(1) @ attention.output.weight.T

        def norm(x):
            return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()

        def feed(x, mlp=block.mlp):
            inner = x @ mlp.up.weight.T
            return (inner * (1 + torch.erf(inner / math.sqrt(2))) / 2) @ mlp.down.weight.T

        x = network.token_embedding.weight[ids[0]]
        if pre_norm:
            x = x + attend(norm(x))
            expected = norm(x + feed(norm(x)))
        else:
            x = norm(x + attend(x))
            expected = norm(x + feed(x))
        torch.testing.assert_close(network(ids)[0], expected, atol=1e-10, rtol=0)
        assert isinstance(network.final_norm, nn.LayerNorm if pre_norm else nn.Identity)


def test_rms_norm_by_hand():
    norm = build_norm("rms_norm", 6, 0.1, bias=True)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(6.0))
    x = torch.randn(3, 6)
    torch.testing.assert_close(norm(x), x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt() * torch.arange(6.0))
    assert [name for name, _ in norm.named_parameters()] == ["weight"]
    assert [name for name, _ in build_norm("layer_norm", 6, 0.1, bias=False).named_parameters()] == ["weight"]


def test_swiglu_by_hand():
    mlp = MLP(4, 6, activation="swiglu", bias=True).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    gate = x @ mlp.gate.weight.T + mlp.gate.bias
    up = x @ mlp.up.weight.T + mlp.up.bias
    expected = (gate / (1 + (-gate).exp()) * up) @ mlp.down.weight.T + mlp.down.bias
    torch.testing.assert_close(mlp(x), expected)


# Rows


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_rows_are_exact_in_values_and_gradients(pre_norm, num_layers):
    network = model(pre_norm=pre_norm, num_layers=num_layers, causal=False, norm="rms_norm").double()
    ids, rows = tokens(3, 6), torch.tensor([0, 4, 4, 11, 17])
    pull = torch.randn(5, 16, dtype=torch.float64)
    gradients = []
    for hidden in (network(ids).flatten(0, 1)[rows], network(ids, rows=rows)):
        network.zero_grad()
        (hidden * pull).sum().backward()
        gradients.append([hidden.detach(), *(parameter.grad.clone() for parameter in network.parameters())])
    for whole, few in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, few, atol=1e-12, rtol=1e-10)


def test_no_rows_give_nothing_and_stay_connected():
    network = model()
    hidden = network(tokens(2, 4), rows=torch.empty(0, dtype=torch.long))
    assert hidden.shape == (0, 16)
    hidden.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in network.parameters())


def test_the_last_block_works_at_the_rows_only():
    network, seen = model(), []
    for block in network.blocks:
        block.mlp.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    network(tokens(2, 5), rows=torch.tensor([3, 8]))
    assert seen == [(2, 5, 16), (2, 16)]


# Embeddings


def test_inputs_embeds_stand_in_for_tokens():
    network, ids = model(), tokens(2, 5)
    torch.testing.assert_close(network(inputs_embeds=network.token_embedding(ids)), network(ids))
    for wrong in ({}, {"input_ids": ids, "inputs_embeds": network.token_embedding(ids)}):
        with pytest.raises(InputError, match="`input_ids` or `inputs_embeds` must be given, and not both"):
            network(**wrong)


def test_token_types():
    network, ids = model(num_token_types=2), tokens(1, 4)
    zeros = torch.zeros_like(ids)
    assert torch.equal(network(ids), network(ids, token_type_ids=zeros))
    assert not torch.allclose(network(ids), network(ids, token_type_ids=zeros + 1))
    with pytest.raises(
        InputError, match=r"`num_token_types` is 0, but the batch has `token_type_ids`; use `model.num_"
    ):
        model()(ids, token_type_ids=zeros)


def test_position_ids_are_taken_as_given():
    network, ids = model(position=Learned(9, 16)), tokens(1, 4)
    assert torch.equal(network(ids, position_ids=torch.arange(4)[None]), network(ids))
    assert not torch.allclose(network(ids, position_ids=torch.arange(4)[None] + 1), network(ids))


# Initialisation


def test_initial_weights():
    network = model(
        hidden_size=64,
        vocab_size=500,
        initializer_std=0.02,
        scale_residual_init=True,
        pad_id=3,
        position=Learned(50, 64),
    )
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif "norm" in name:
            assert (parameter == 1).all()
        else:
            scale = 0.5 if name.endswith(("attention.output.weight", "mlp.down.weight")) else 1.0  # 1 / sqrt(2 layers)
            assert parameter.std().item() == pytest.approx(0.02 * scale, rel=0.05), name
    assert not network.token_embedding.weight[3].any()
    assert model(pad_id=None).token_embedding.weight.abs().sum(-1).min() > 0


def test_the_pad_row_is_not_trained_as_an_input():
    network = model(pad_id=3)
    network(torch.tensor([[3, 4]]))[0, :, 0].sum().backward()
    assert not network.token_embedding.weight.grad[3].any()
    assert network.token_embedding.weight.grad[4].any()


def test_meta_construction_and_materialisation():
    with torch.device("meta"):
        network = Transformer(**SIZES, position=Learned(9, 16), num_token_types=2, embedding_norm=True, pad_id=0)
    assert all(parameter.is_meta for parameter in network.parameters())
    network.to_empty(device="cpu")
    torch.manual_seed(0)
    network.reset_parameters()
    torch.manual_seed(0)
    direct = Transformer(**SIZES, position=Learned(9, 16), num_token_types=2, embedding_norm=True, pad_id=0)
    torch.manual_seed(0)
    direct.reset_parameters()
    assert torch.equal(network(tokens(1, 5)), direct(tokens(1, 5)))


def test_names_of_weights():
    network = model(activation="swiglu", num_layers=1, position=Learned(9, 16), embedding_norm=True, num_token_types=2)
    linear = ["attention.query_key_value", "attention.output", "mlp.up", "mlp.gate", "mlp.down"]
    modules = ["attention_norm", *linear[:2], "mlp_norm", *linear[2:]]
    assert list(network.state_dict()) == [
        "token_embedding.weight",
        "token_type_embedding.weight",
        "position.table.weight",
        "embedding_norm.weight",
        "embedding_norm.bias",
        *(f"blocks.0.{module}.{kind}" for module in modules for kind in ("weight", "bias")),
        "final_norm.weight",
        "final_norm.bias",
    ]


@pytest.mark.parametrize("position", [None, Alibi(4)], ids=["rotary", "alibi"])
def test_length_leaves_no_trace_in_the_state(position):
    network = model(position=position)
    before = list(network.state_dict())
    network(tokens(1, 15))
    assert list(network.state_dict()) == before
    copied = copy.deepcopy(network)
    assert torch.equal(copied(tokens(1, 7)), network(tokens(1, 7)))


def test_training_after_inference_mode():
    for position in (None, Alibi(4)):
        network = model(position=position)
        with torch.inference_mode():
            network(tokens(1, 6))
        network(tokens(1, 6)).sum().backward()


def test_autocast_and_half_precision():
    for position in (None, Alibi(4), Learned(9, 16)):
        network, ids = model(position=position), tokens(2, 8)
        exact = network(ids)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = network(ids)
        half = network.to(torch.bfloat16)(ids)
        assert half.dtype == torch.bfloat16
        for rough in (mixed, half):
            assert (rough.float() - exact).norm() / exact.norm() < 0.03


# Counting


def test_counts():
    network = model(num_layers=3, num_kv_heads=2, intermediate_size=24, position=Learned(9, 16))
    block = 16 * (16 + 2 * 8) + (16 + 2 * 8) + 16 * 16 + 16 + 2 * 16 * 24 + 24 + 16 + 4 * 16
    assert network.num_parameters() == 20 * 16 + 9 * 16 + 3 * block + 2 * 16
    matrices = 16 * (16 + 2 * 8) + 16 * 16 + 2 * 16 * 24
    assert network.flops_per_token(7) == 2 * 3 * matrices + 3 * 2 * (2 * 7 * 16)


def test_representation_shows_the_sizes():
    text = repr(model(num_kv_heads=2))
    assert "causal=True, vocab_size=20, hidden_size=16, num_layers=2, num_heads=4, num_kv_heads=2" in text
    assert "activation=gelu" in text


# Wrong input


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"num_heads": 5},
            r"`hidden_size` must be divisible by `num_heads` \(5\), but is 16; use .* `model.num_heads=4`",
        ),
        (
            {"num_kv_heads": 3},
            r"`num_heads` must be divisible by `num_kv_heads` \(3\), but is 4; use .*num_kv_heads=2`",
        ),
        ({"num_layers": 0}, "`num_layers` must be at least 1, but is 0; use a positive `model.num_layers`"),
        ({"vocab_size": -1}, "`vocab_size` must be at least 1, but is -1"),
        ({"norm": "batch_norm"}, "`norm` must be one of layer_norm, rms_norm, but is 'batch_norm'"),
        ({"activation": "tanh"}, "`activation` must be one of gelu, gelu_tanh, relu, swiglu, but is 'tanh'"),
        ({"dropout": 1.0}, "`dropout` must be at least 0 and less than 1, but is 1.0"),
        ({"attention_dropout": -0.1}, "`attention_dropout` must be at least 0 and less than 1, but is -0.1"),
        ({"num_token_types": -1}, "`num_token_types` must not be negative, but is -1"),
        ({"pad_id": 20}, r"`pad_id` must be less than `vocab_size` \(20\), but is 20; use `model.pad_id=null`"),
        (
            {"max_length": 10, "position": Learned(9, 16)},
            r"`max_length` must not exceed that of the positions \(9\), but is 10; use `model.max_length=9`",
        ),
    ],
)
def test_sizes_that_do_not_fit(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        model(**changes)


def test_lengths():
    assert model(position=Learned(9, 16)).max_length == 9
    assert model(position=Learned(9, 16), max_length=6).max_length == 6
    assert model().max_length is None
    for network in (model(max_length=6), model(position=Learned(6, 16)), model(position=Alibi(4), max_length=6)):
        network(tokens(1, 6))
        with pytest.raises(
            InputError, match=r"`max_length` is 6, but a sequence has 7 tokens; use `model.max_length=7`"
        ):
            network(tokens(1, 7))


def test_masks_of_the_wrong_shape():
    network, ids = model(), tokens(2, 5)
    with pytest.raises(
        InputError, match=r"`attention_mask` must have one entry per token seen \(2, 5\), but has shape"
    ):
        network(ids, attention_mask=torch.ones(2, 4))
    with pytest.raises(
        InputError, match=r"`document_ids` must have one entry per token \(2, 5\), but has shape \(5,\)"
    ):
        network(ids, document_ids=torch.ones(5))
