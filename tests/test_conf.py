"""Every configuration file composes, and every network and objective it names can be built."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hydra.utils import get_class, get_object, instantiate
from omegaconf import OmegaConf

from lmmodules.command import conf_directory
from lmmodules.composition import compose_config
from lmmodules.network import build_backbone

CONF = conf_directory()
GROUPS = sorted(path for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")


def options(group: str) -> list[str]:
    # Recursive, so that nothing in a sub-folder goes unread.
    return sorted(str(path.relative_to(CONF / group).with_suffix("")) for path in (CONF / group).rglob("*.yaml"))


ALL = [(group.name, option) for group in GROUPS for option in options(group.name)]


def test_every_yaml_file_is_reached() -> None:
    own = set(CONF.glob("hydra/**/*.yaml"))  # for Hydra itself, composed with every command
    reached = own | {CONF / group / f"{option}.yaml" for group, option in ALL} | set(CONF.glob("*.yaml"))
    assert reached == set(CONF.rglob("*.yaml"))
    assert len(ALL) > 50


@pytest.mark.parametrize(("group", "option"), ALL, ids=lambda value: value)
def test_composes(group: str, option: str) -> None:
    if group == "evaluation":
        config = compose_config("evaluate", f"evaluation={option}", "checkpoint=x")
    elif group == "language_model":
        config = compose_config("solve", f"language_model={option}")
    else:
        overrides = [f"{group}={option}"] + ([] if group in {"experiment", "debug"} else ["max_steps=10"])
        config = compose_config("train", *overrides)
        assert isinstance(config.max_steps, int)
    OmegaConf.to_container(config, resolve=True)


# Networks that are told by what they are taken from.
ELSEWHERE = {"hugging_face", "pretrained"}


@pytest.mark.parametrize("position", options("position"))
@pytest.mark.parametrize("model", sorted(set(options("model")) - ELSEWHERE))
def test_every_model_with_every_position_builds_on_the_meta_device(model: str, position: str) -> None:
    if model in {"gpt2_medium", "gpt2_large", "roberta_large"} and position != "learned":
        pytest.skip("the same classes at another size")
    config = compose_config("train", f"model={model}", f"position={position}", "max_steps=10")
    if config.model.max_length is None:
        config.model.max_length = 512
    config.model.vocab_size = config.model.vocab_size or 100
    with torch.device("meta"):
        backbone = build_backbone(config)
    assert backbone.causal == config.model.causal
    assert all(parameter.is_meta for parameter in backbone.parameters())


@pytest.mark.parametrize("objective", options("objective"))
def test_an_objective_brings_a_model_and_data_that_fit(objective: str, tmp_path: Path) -> None:
    config = compose_config("train", f"objective={objective}", "max_steps=10")
    objective_class = get_class(config.objective._target_)
    objective_class.check_backbone(config.model.causal, "model")
    if config.get("transform") is None:  # rows are not transformed
        (tmp_path / "rows.jsonl").write_text("{}")
        config.data.path = str(tmp_path / "rows.jsonl")
        yields = instantiate(config.data, _convert_="all")
    else:
        yields = instantiate(config.transform, _convert_="all")
    assert yields.batch_type is objective_class.batch_type


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF)))
def test_every_target_exists(path: Path) -> None:
    def targets(node: object) -> list[str]:
        if OmegaConf.is_dict(node):
            own = [node._get_node("_target_")._value()] if "_target_" in node else []
            return own + [target for key in node for target in targets(node._get_node(key))]
        if OmegaConf.is_list(node):
            return [target for index in range(len(node)) for target in targets(node._get_node(index))]
        return []

    for target in targets(OmegaConf.load(path)):
        if "Wandb" in target or "MLFlow" in target:
            continue
        assert callable(get_object(target)), target


@pytest.mark.parametrize(
    "group", ["objective", "transform", "packing", "optimizer", "schedule", "strategy", "precision"]
)
def test_the_manual_names_every_option(group: str) -> None:
    manual = (CONF.parent / "docs" / "running.md").read_text()
    [row] = [line for line in manual.splitlines() if line.startswith("| `") and f"`{group}`" in line.split("|")[1]]
    assert set(options(group)) <= set(re.findall("`([a-z0-9_]+)`", row))


def test_the_command_line_wins_over_what_an_objective_brings() -> None:
    config = compose_config("train", "objective=masked_lm", "model=bert_base", "position=rotary", "max_steps=10")
    assert config.model.hidden_size == 768
    assert config.model.position._target_ == "lmmodules.models.Rotary"
