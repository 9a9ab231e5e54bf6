from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lmmodules.errors import InputError
from lmmodules.models import (
    Alibi,
    AuxiliaryLM,
    DetectionHead,
    Learned,
    NoPosition,
    PositionScheme,
    RelativeBias,
    Rotary,
    SequenceHead,
    Sinusoidal,
    Transformer,
)
from lmmodules.models.auxiliary import draw_tokens

V, D, HEADS, LAYERS = 31, 32, 4, 6


def main(**options: Any) -> Transformer:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": V, "hidden_size": D, "num_layers": LAYERS, "num_heads": HEADS, "causal": False,
        "position": RelativeBias(HEADS, 8, 6, Learned(16, D)), "embedding_norm": True, "num_token_types": 2,
        "initializer_std": 0.2, "pre_norm": False,
    }  # fmt: skip
    return Transformer(**(sizes | options))


def names(module: nn.Module, other: nn.Module) -> set[str]:
    """Parameters of one network that are parameters of another."""
    theirs = {id(parameter) for parameter in other.parameters()}
    return {name for name, parameter in module.named_parameters() if id(parameter) in theirs}


class TestSharing:
    @pytest.mark.parametrize(
        ("shared", "expected"),
        [
            (
                "embeddings",
                {
                    "token_embedding.weight",
                    "token_type_embedding.weight",
                    "embedding_norm.weight",
                    "embedding_norm.bias",
                    "position.absolute.table.weight",
                },
            ),
            ("tokens", {"token_embedding.weight"}),
            ("none", set()),
        ],
    )
    def test_what_is_shared(self, shared: Any, expected: set[str]) -> None:
        network = main()
        auxiliary = AuxiliaryLM(network, shared=shared)
        assert names(auxiliary.encoder, network) == expected
        # What it does not share is drawn anew, not copied.
        own = dict(auxiliary.encoder.named_parameters())
        for name, parameter in network.named_parameters():
            if name not in expected and "table" in name:
                assert not torch.equal(own[name], parameter)

    def test_learned_positions_are_shared_and_rotary_ones_have_nothing_to_share(self) -> None:
        network = main(position=Learned(16, D))
        assert AuxiliaryLM(network).encoder.position is network.position
        assert AuxiliaryLM(network, shared="tokens").encoder.position is not network.position
        network = main(position=Rotary(500.0))
        assert AuxiliaryLM(network).encoder.position.theta == 500.0

    def test_the_output_matrix_is_the_token_embedding(self) -> None:
        network = main()
        assert AuxiliaryLM(network).output_weight is network.token_embedding.weight
        auxiliary = AuxiliaryLM(network, shared="none")
        assert auxiliary.output_weight is auxiliary.encoder.token_embedding.weight

    def test_a_shared_parameter_is_there_once_and_survives_saving(self) -> None:
        def build() -> nn.ModuleDict:
            network = main()
            return nn.ModuleDict({"main": network, "auxiliary": AuxiliaryLM(network)})

        one, other = build(), build()
        assert sum(p.shape == (V, D) for p in one.parameters()) == 1
        nn.init.normal_(one["main"].token_embedding.weight)
        other.load_state_dict(one.state_dict())
        assert torch.equal(other["main"].token_embedding.weight, one["main"].token_embedding.weight)
        assert other["main"].token_embedding is other["auxiliary"].encoder.token_embedding


class TestSize:
    @pytest.mark.parametrize(
        ("depth", "width", "layers", "heads", "hidden"),
        [
            (1.0, 1.0, 6, 4, 32),
            (1 / 3, 1.0, 2, 4, 32),
            (0.3333, 0.25, 2, 1, 8),
            (0.01, 0.5, 1, 2, 16),
            (1, 0.01, 6, 1, 8),
        ],
    )
    def test_depth_and_width(self, depth: float, width: float, layers: int, heads: int, hidden: int) -> None:
        encoder = AuxiliaryLM(main(), depth=depth, width=width).encoder
        assert (encoder.num_layers, encoder.num_heads, encoder.hidden_size) == (layers, heads, hidden)
        assert (encoder.head_dim, encoder.intermediate_size) == (D // HEADS, 4 * hidden)

    def test_it_is_of_the_same_kind(self) -> None:
        network = main(
            norm="rms_norm", activation="swiglu", bias=False, pre_norm=True, num_kv_heads=2, dropout=0.1,
            attention_dropout=0.2, norm_eps=1e-3, pad_id=1, intermediate_size=48, embedding_norm=False,
        )  # fmt: skip
        encoder = AuxiliaryLM(network, depth=1 / 3).encoder
        assert str(encoder.blocks[0]) == str(network.blocks[0])
        assert str(encoder.blocks) != str(network.blocks)
        assert encoder.token_embedding.padding_idx == 1

    @pytest.mark.parametrize(
        "position", [NoPosition(), Sinusoidal(), Rotary(), Learned(16, D), Alibi(HEADS), RelativeBias(HEADS, 8, 6)]
    )
    @pytest.mark.parametrize("width", [1.0, 0.25])
    def test_every_position_scheme(self, position: PositionScheme, width: float) -> None:
        auxiliary = AuxiliaryLM(main(position=position), depth=0.5, width=width)
        ids = torch.randint(V, (2, 9), generator=torch.Generator().manual_seed(0))
        rows = torch.tensor([1, 11, 17])
        features = auxiliary.features(ids, rows, attention_mask=torch.ones_like(ids))
        assert features.shape == (3, D)  # of the size of the embeddings, whatever its own
        torch.testing.assert_close(features, auxiliary.features(ids, rows))

    def test_embeddings_of_another_size_than_hidden_states(self) -> None:
        network = main(embedding_size=16, position=Learned(16, 16))
        auxiliary = AuxiliaryLM(network, width=0.5)
        assert auxiliary.encoder.hidden_size == 16
        assert auxiliary.features(torch.zeros(1, 4, dtype=torch.int64), torch.tensor([2])).shape == (1, 16)

    def test_it_can_be_planned_without_memory(self) -> None:
        with FakeTensorMode():
            network = main(num_layers=24)
            assert AuxiliaryLM(network, depth=0.25).encoder.num_layers == 6

    def test_segments_reach_it(self) -> None:
        auxiliary = AuxiliaryLM(main(), depth=0.2)
        ids, rows = torch.zeros(1, 4, dtype=torch.int64), torch.tensor([2])
        plain = auxiliary.features(ids, rows)
        assert torch.equal(plain, auxiliary.features(ids, rows, token_type_ids=torch.zeros_like(ids)))
        assert not torch.equal(plain, auxiliary.features(ids, rows, token_type_ids=torch.ones_like(ids)))

    def test_flops_are_those_of_the_encoder(self) -> None:
        auxiliary = AuxiliaryLM(main(), depth=1 / 3)
        assert auxiliary.flops_per_token(9) == auxiliary.encoder.flops_per_token(9) == main().flops_per_token(9) / 3


class TestDropout:
    def test_it_takes_that_of_the_main_encoder_or_its_own(self) -> None:
        network = main(dropout=0.1, attention_dropout=0.2)
        for dropout, expected in ((None, (0.1, 0.2)), (0.0, (0.0, 0.0)), (0.3, (0.3, 0.3))):
            encoder = AuxiliaryLM(network, dropout=dropout).encoder
            assert (encoder.dropout.p, encoder.blocks[0].attention.dropout) == expected  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        ("options", "drops"), [({}, False), ({"dropout": 0.1}, True), ({"attention_dropout": 0.1}, True)]
    )
    def test_whether_it_drops(self, options: dict[str, float], drops: bool) -> None:
        auxiliary = AuxiliaryLM(main(**options))
        assert auxiliary.drops is drops
        assert not auxiliary.eval().drops

    def test_without_dropout_for_a_while(self) -> None:
        auxiliary = AuxiliaryLM(main(dropout=0.5, attention_dropout=0.5))
        auxiliary.head.eval()
        modes = [module.training for module in auxiliary.modules()]
        ids, rows = torch.zeros(2, 8, dtype=torch.int64), torch.arange(16)
        with auxiliary.without_dropout():
            first, second = auxiliary.features(ids, rows), auxiliary.features(ids, rows)
        assert torch.equal(first, second)
        assert not torch.equal(auxiliary.features(ids, rows), auxiliary.features(ids, rows))
        assert [module.training for module in auxiliary.modules()] == modes

        with pytest.raises(KeyError), auxiliary.without_dropout():
            raise KeyError
        assert [module.training for module in auxiliary.modules()] == modes


class TestDrawing:
    def test_the_empirical_distribution_is_the_softmax(self) -> None:
        number, size = 200_000, 12
        logits = torch.randn(size, generator=torch.Generator().manual_seed(3)) * 1.5
        draws = torch.rand(number, generator=torch.Generator().manual_seed(0))
        tokens = draw_tokens(torch.ones(number, 1), logits[:, None], None, draws)
        expected = logits.double().softmax(0) * number
        chi_square = ((torch.bincount(tokens, minlength=size) - expected) ** 2 / expected).sum()
        assert chi_square < 31.3  # 0.001 of the distribution with 11 degrees of freedom lies beyond

    def test_a_draw_is_the_inverse_of_the_cumulative_distribution(self) -> None:
        weight = torch.tensor([0.1, 0.2, 0.0, 0.7]).log()[:, None]
        draws = torch.tensor([0.0, 0.0999, 0.1001, 0.2999, 0.3001, 1 - 2**-24])
        assert draw_tokens(torch.ones(6, 1), weight, None, draws).tolist() == [0, 0, 1, 1, 3, 3]

    def test_the_bias_counts(self) -> None:
        bias = torch.tensor([0.0, 50.0, 0.0])
        assert draw_tokens(torch.zeros(9, 2), torch.ones(3, 2), bias, torch.rand(9)).tolist() == [1] * 9

    def test_what_is_impossible_is_never_drawn(self) -> None:
        draws = torch.cat([torch.zeros(1), torch.rand(10_000), torch.full((1,), 1 - 2**-24)])
        weight = torch.tensor([-1e9, 0.0, -1e9, 0.0, -1e9])[:, None]
        assert set(draw_tokens(torch.ones(len(draws), 1), weight, None, draws).tolist()) == {1, 3}

    def test_a_row_does_not_depend_on_the_others(self) -> None:
        generator = torch.Generator().manual_seed(0)
        features, weight = torch.randn(50, 6, generator=generator), torch.randn(40, 6, generator=generator)
        draws = torch.rand(50, generator=generator)
        together = draw_tokens(features, weight, None, draws)
        assert torch.equal(together, draw_tokens(features, weight, None, draws, chunk_rows=7))
        order = torch.randperm(50, generator=generator)
        assert torch.equal(together[order], draw_tokens(features[order], weight, None, draws[order]))
        assert len(set(together.tolist())) > 10

    def test_there_is_no_gradient_and_no_matrix_of_all_logits(self, largest_tensor: type) -> None:
        features, weight = torch.randn(300, 4, requires_grad=True), torch.randn(200, 4, requires_grad=True)
        with largest_tensor() as made:
            tokens = draw_tokens(features, weight, None, torch.rand(300), chunk_rows=16)
        assert made.elements == 16 * 200
        assert not tokens.requires_grad
        assert draw_tokens(features[:0], weight, None, torch.rand(0)).shape == (0,)

    def test_half_precision_is_drawn_from_in_float32(self) -> None:
        # In bfloat16 a cumulative sum over 4096 equal tokens would stand still long before its end.
        weight = torch.zeros(4096, 1, dtype=torch.bfloat16)
        draws = (torch.arange(4096) + 0.5) / 4096
        tokens = draw_tokens(torch.ones(4096, 1, dtype=torch.bfloat16), weight, None, draws)
        assert (tokens - torch.arange(4096)).abs().max() <= 1


class TestHeads:
    def test_the_copy_head_is_one_vector_and_electras_has_a_layer_before_it(self) -> None:
        hidden = torch.randn(2, 5, D)
        plain, deep = DetectionHead(D), DetectionHead(D, transform=True)
        torch.testing.assert_close(plain(hidden), hidden @ plain.output.weight[0] + plain.output.bias)
        inner = nn.functional.gelu(deep.dense(hidden))  # type: ignore[misc]
        torch.testing.assert_close(deep(hidden), inner @ deep.output.weight[0])
        assert (plain.flops_per_token(), deep.flops_per_token()) == (2 * D, 2 * D + 2 * D * D)

    def test_a_sequence_is_a_point_on_the_sphere(self) -> None:
        hidden = torch.randn(6, D)
        head = SequenceHead(D, 12, initializer_std=0.5)
        expected = nn.functional.layer_norm(nn.functional.gelu(hidden @ head.dense.weight.T), (12,))
        torch.testing.assert_close(head(hidden), expected / expected.norm(dim=-1, keepdim=True))
        assert SequenceHead(D)(hidden).shape == (6, D)
        assert head(hidden.bfloat16().float()).dtype == torch.float32
        assert SequenceHead(D).bfloat16()(hidden.bfloat16()).dtype == torch.float32
        assert head.flops_per_sequence() == 2 * 12 * D

    @pytest.mark.parametrize("head", [DetectionHead(64, transform=True), SequenceHead(64)])
    def test_initial_matrices(self, head: nn.Module) -> None:
        assert head.dense.weight.std().item() == pytest.approx(0.02, rel=0.1)  # type: ignore[union-attr, operator]
        assert all(p.count_nonzero() == 0 for name, p in head.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"depth": 0.0}, r"`auxiliary_depth` must lie in \(0, 1\], but is 0.0; use `objective.auxiliary_depth=0.5`"),
        ({"width": 1.5}, r"`auxiliary_width` must lie in \(0, 1\], but is 1.5"),
        ({"dropout": 1.0}, "`auxiliary_dropout` must be at least 0 and less than 1, but is 1.0"),
        ({"shared": "all"}, "`shared` must be one of embeddings, tokens, none, but is 'all'"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        AuxiliaryLM(main(), **options)


def test_another_kind_of_network() -> None:
    with pytest.raises(InputError, match=r"after a `Transformer` or a `HuggingFaceBackbone`, but .* is a `Linear`"):
        AuxiliaryLM(nn.Linear(2, 2))
