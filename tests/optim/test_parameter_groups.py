from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from lmmodules.composition import compose_config
from lmmodules.errors import InputError
from lmmodules.models.heads import LanguageModelHead
from lmmodules.models.positions import Learned
from lmmodules.models.transformer import Transformer
from lmmodules.network import build_backbone
from lmmodules.optim import GroupRow, ParameterGroups, build_optimizer
from lmmodules.train import build_objective


class LanguageModel(nn.Module):
    """A backbone of three layers and an untied head, on the meta device."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        with torch.device("meta"):
            self.backbone = Transformer(
                vocab_size=50,
                hidden_size=8,
                num_layers=3,
                num_heads=2,
                causal=False,
                position=Learned(16, 8),
                embedding_norm=True,
                norm="rms_norm",
            )
            self.head = LanguageModelHead(8, 50, tied=tied, transform=True, bias=True)


def names_of(module: nn.Module, groups: list[dict[str, Any]]) -> dict[str, list[str]]:
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {group["name"]: [names[parameter] for parameter in group["params"]] for group in groups}


class Odd(nn.Module):
    """Whatever a rule by names or by shapes alone would get wrong."""

    class ScaleNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(2, 2))

    def __init__(self) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm([2, 2])
        self.rms = nn.RMSNorm(4)
        self.scale = self.ScaleNorm()
        self.prompt = nn.Parameter(torch.ones(1, 3, 4))
        self.prompt_encoder = nn.Linear(4, 4)
        self.slopes = nn.Parameter(torch.ones(2))
        self.output_bias = nn.Parameter(torch.ones(1, 4))
        self.mask = nn.Linear(4, 4, bias=False)


def test_norms_are_told_by_type_and_biases_by_name() -> None:
    module = Odd()
    assert names_of(module, ParameterGroups()(module)) == {
        "decayed": ["prompt_encoder.weight", "mask.weight"],
        "not decayed": [
            "prompt",
            "slopes",
            "output_bias",
            "ln_1.weight",
            "ln_1.bias",
            "rms.weight",
            "scale.gain",
            "prompt_encoder.bias",
        ],
    }


def test_berts_own_rule_goes_by_names_and_knows_norms_that_are_called_otherwise() -> None:
    module = Odd()
    groups = names_of(module, ParameterGroups(no_decay="bert_names")(module))
    norms = ["ln_1.weight", "ln_1.bias", "rms.weight", "scale.gain"]
    assert groups["not decayed"] == ["output_bias", *norms, "prompt_encoder.bias"]
    assert groups["decayed"] == ["prompt", "slopes", "prompt_encoder.weight", "mask.weight"]


def test_everything_may_be_decayed() -> None:
    module = Odd()
    groups = ParameterGroups(no_decay="none")(module)
    assert [group["name"] for group in groups] == ["decayed"]
    assert len(groups[0]["params"]) == len(list(module.parameters()))


def test_a_rule_of_ones_own() -> None:
    module = Odd()
    groups = ParameterGroups(no_decay=lambda name, parameter, owner: isinstance(owner, nn.Linear))(module)
    assert names_of(module, groups)["not decayed"] == ["prompt_encoder.weight", "prompt_encoder.bias", "mask.weight"]


def test_weight_decay_is_the_optimizers_or_none() -> None:
    decayed, others = ParameterGroups()(LanguageModel())
    assert "weight_decay" not in decayed
    assert others["weight_decay"] == 0.0
    optimizer = torch.optim.AdamW(ParameterGroups()(Odd()), weight_decay=0.3)
    assert {group["name"]: group["weight_decay"] for group in optimizer.param_groups} == {
        "decayed": 0.3,
        "not decayed": 0.0,
    }


@pytest.mark.parametrize("options", [{}, {"layer_decay": 0.5}, {"hidden_matrices": True}, {"decay_embeddings": False}])
def test_every_trainable_parameter_is_in_one_group(options: dict[str, Any]) -> None:
    module = LanguageModel()
    module.backbone.blocks[1].requires_grad_(False)
    module.head.again = module.backbone.token_embedding  # registered twice
    groups = ParameterGroups(**options)(module)
    grouped = [parameter for group in groups for parameter in group["params"]]
    trainable = {parameter for parameter in module.parameters() if parameter.requires_grad}
    assert len(grouped) == len(trainable)
    assert set(grouped) == trainable
    assert len({group["name"] for group in groups}) == len(groups)


def test_embeddings_may_be_left_undecayed() -> None:
    module = LanguageModel(tied=True)
    before = names_of(module, ParameterGroups()(module))["decayed"]
    after = names_of(module, ParameterGroups(decay_embeddings=False)(module))["decayed"]
    embeddings = {f"{name}.weight" for name, part in module.named_modules() if isinstance(part, nn.Embedding)}
    assert len(embeddings) == 2, "of tokens and positions"
    assert set(before) - set(after) == embeddings


def test_layers_learn_at_falling_rates() -> None:
    module = LanguageModel()
    groups = ParameterGroups(layer_decay=0.5)(module)
    assert {group["name"]: group["lr_factor"] for group in groups} == {
        "embeddings decayed": 0.0625,
        "embeddings not decayed": 0.0625,
        "blocks.0 decayed": 0.125,
        "blocks.0 not decayed": 0.125,
        "blocks.1 decayed": 0.25,
        "blocks.1 not decayed": 0.25,
        "blocks.2 decayed": 0.5,
        "blocks.2 not decayed": 0.5,
        "decayed": 1.0,
        "not decayed": 1.0,
    }
    names = names_of(module, groups)
    assert names["embeddings not decayed"] == ["backbone.embedding_norm.weight"]
    assert "backbone.final_norm.weight" in names["not decayed"]
    assert all(name.startswith("head.") for name in names["decayed"])
    assert all(name.startswith("backbone.blocks.1.") for name in names["blocks.1 decayed"])


def test_two_backbones_have_layers_of_their_own() -> None:
    module = nn.ModuleDict({"generator": LanguageModel().backbone, "discriminator": LanguageModel().backbone})
    del module["generator"].blocks[1:]
    factors = {group["name"]: group["lr_factor"] for group in ParameterGroups(layer_decay=0.5)(module)}
    assert factors["generator.blocks.0 decayed"] == 0.5
    assert factors["generator.embeddings decayed"] == 0.25
    assert factors["discriminator.blocks.0 decayed"] == 0.125
    assert factors["discriminator.embeddings decayed"] == 0.0625


def test_hidden_matrices_are_those_of_the_blocks() -> None:
    module = LanguageModel()
    groups = ParameterGroups(hidden_matrices=True)(module)
    assert {group["name"]: group["hidden_matrices"] for group in groups} == {
        "decayed": False,
        "not decayed": False,
        "hidden matrices decayed": True,
    }
    names = names_of(module, groups)["hidden matrices decayed"]
    assert len(names) == 3 * 4
    assert all(".blocks." in name and name.endswith(".weight") for name in names)
    both = [group["name"] for group in ParameterGroups(hidden_matrices=True, layer_decay=0.5)(module)]
    assert "blocks.0 hidden matrices decayed" in both


def test_rows_of_a_table() -> None:
    module = LanguageModel()
    rows = ParameterGroups(layer_decay=0.5)(module), ParameterGroups(layer_decay=0.5).rows(module)
    first = rows[1][0]
    assert first == GroupRow("embeddings decayed", 2, 50 * 8 + 16 * 8, None, 0.0625)
    assert rows[1][1] == GroupRow("embeddings not decayed", 1, 8, 0.0, 0.0625)
    assert sum(row.parameters for row in rows[1]) == sum(parameter.numel() for parameter in module.parameters())


def test_built_optimizer_scales_its_rate_by_the_layer() -> None:
    module = LanguageModel().to_empty(device="cpu")
    factory = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)
    optimizer = build_optimizer(module, factory, ParameterGroups(layer_decay=0.5))
    by_name = {group["name"]: group for group in optimizer.param_groups}
    assert by_name["embeddings decayed"]["lr"] == by_name["embeddings decayed"]["initial_lr"] == 0.01 * 0.0625
    assert by_name["blocks.2 not decayed"]["initial_lr"] == 0.005
    assert by_name["decayed"]["lr"] == 0.01
    plain = build_optimizer(module, factory)
    assert [(group["name"], group["lr"], group["initial_lr"]) for group in plain.param_groups] == [
        ("decayed", 0.01, 0.01),
        ("not decayed", 0.01, 0.01),
    ]


def test_built_optimizer_gives_each_group_a_rate_tensor_of_its_own() -> None:
    module = LanguageModel().to_empty(device="cpu")
    optimizer = build_optimizer(module, lambda groups: torch.optim.AdamW(groups, lr=torch.tensor(0.01), foreach=False))
    one, other = (group["lr"] for group in optimizer.param_groups)
    assert one is not other


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adafactor, torch.optim.SGD])
def test_optimizers_of_torch_take_the_groups(kind: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        optimizer = build_optimizer(module, partial(kind, lr=0.01))
        before = [parameter.detach().clone() for parameter in module.parameters()]
        module(torch.randn(3, 4)).pow(3).sum().backward()
        optimizer.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_wrong_input_is_told() -> None:
    with pytest.raises(InputError, match="`no_decay` must be one of norm_and_bias, bert_names, none, but is biases"):
        ParameterGroups(no_decay="biases")
    with pytest.raises(InputError, match=r"`layer_decay` must lie in \(0, 1\], but is 1.1"):
        ParameterGroups(layer_decay=1.1)
    with pytest.raises(
        InputError, match=r"`layer_decay` needs a module with layers in a `nn\.ModuleList` called `blocks`"
    ):
        ParameterGroups(layer_decay=0.9)(Odd())
    with pytest.raises(InputError, match="`hidden_matrices` needs a module with layers"):
        ParameterGroups(hidden_matrices=True)(Odd())
    with pytest.raises(InputError, match="`Odd` must have a parameter that requires a gradient"):
        ParameterGroups()(Odd().requires_grad_(False))


@pytest.mark.parametrize("rule", ["norm_and_bias", "bert_names"])
def test_sizes_of_bert_and_roberta(rule: str) -> None:
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        roberta = transformers.RobertaForMaskedLM(
            transformers.RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
        )
        bert = transformers.BertForPreTraining(transformers.BertConfig())
    for model, decayed, others in (
        (roberta, (76, 124_523_520), (126, 173_913)),
        (bert, (78, 109_951_488), (128, 154_940)),
    ):
        rows = {row.name: (row.tensors, row.parameters) for row in ParameterGroups(no_decay=rule).rows(model)}
        assert rows == {"decayed": decayed, "not decayed": others}
    rows = {row.name: row for row in ParameterGroups(no_decay=rule, decay_embeddings=False).rows(roberta)}
    assert (rows["decayed"].tensors, rows["decayed"].parameters) == (73, 85_524_480)


# Query, key and value are one matrix here, and RoBERTa's row of token types, 768 numbers, is none.
@pytest.mark.parametrize(
    ("overrides", "decayed", "others"),
    [
        (["experiment=bert_base"], (78 - 24, 109_951_488), (128 - 24, 154_940)),
        (["experiment=roberta_base", "parameter_groups=default"], (76 - 25, 124_523_520 - 768), (126 - 24, 173_913)),
        (
            ["experiment=roberta_base", "parameter_groups=default", "parameter_groups.no_decay=bert_names"],
            (51, 124_522_752),
            (102, 173_913),
        ),
    ],
)
def test_what_is_decayed_of_berts_and_robertas_own_recipes(
    overrides: list[str], decayed: tuple[int, int], others: tuple[int, int]
) -> None:
    config = compose_config("train", *overrides)
    with torch.device("meta"):
        objective = build_objective(config, build_backbone(config))
    assert objective.parameter_groups is not None
    rows = {row.name: (row.tensors, row.parameters) for row in objective.parameter_groups.rows(objective)}
    assert rows == {"decayed": decayed, "not decayed": others}


def test_no_norm_of_electras_recipe_is_decayed() -> None:
    config = compose_config("train", "experiment=electra_small")
    with torch.device("meta"):
        objective = build_objective(config, build_backbone(config))
    assert objective.parameter_groups is not None
    groups = names_of(objective, objective.parameter_groups(objective))
    vectors = {name for name, parameter in objective.named_parameters() if parameter.ndim == 1}
    # Two norms of each of 12 blocks and one of the embeddings, in either network, and one of the generator's head.
    assert len([name for name in vectors if name.endswith("norm.weight")]) == 2 * (12 * 2) + 1 + 1
    assert set(groups["not decayed"]) == vectors
