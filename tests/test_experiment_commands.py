"""What the heads of experiments tell to type: it composes, and sets nothing that what it chooses does not take."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from lmmodules.command import conf_directory
from lmmodules.composition import compose, compose_config

OF_HYDRA = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}
ELSEWHERE = {"pretrained", "hugging_face"}
"""Networks whose sizes are those of their weights."""


def told() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Experiments, and the overrides that a command in the comment above them names beside them."""
    for file in sorted((conf_directory() / "experiment").glob("*.yaml")):
        head = re.match(r"(?:#.*\n)+", file.read_text(encoding="utf-8"))
        assert head is not None
        text = " ".join(line.lstrip("# ") for line in head[0].splitlines())
        for command in re.findall(r"`([^`]*=[^`]*)`", text):
            words = [word for word in command.split() if "=" in word and word != "-m"]
            if command.startswith(("lmm-solve", "lmm-evaluate")):
                continue
            values = [re.sub(r"(?<==)(\[[^]]*\]|[^\[,]*),.*", r"\1", word) for word in words]  # the first of a sweep
            yield file.stem, tuple(word for word in values if not word.startswith("experiment="))


COMMANDS = [*told(), ("p_tuning", ("model=hugging_face", "model.name=DIR", "tokenizer=hub", "tokenizer.name=DIR"))]


def targets(node: object) -> Iterator[DictConfig]:
    """Every part of a configuration that names what it builds."""
    if OmegaConf.is_dict(node):
        if "_target_" in node:
            yield node
        for key in node:
            if not OmegaConf.is_missing(node, key):
                yield from targets(node._get_node(key))
    elif OmegaConf.is_list(node):
        for index in range(len(node)):
            yield from targets(node._get_node(index))


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 25
    assert {"p_tuning", "fine_tuning", "cline_roberta_base"} <= {experiment for experiment, _ in COMMANDS}


@pytest.mark.parametrize(
    ("experiment", "overrides"), COMMANDS, ids=lambda value: " ".join([value] if isinstance(value, str) else value)[:60]
)
def test_what_is_built_takes_what_is_set(experiment: str, overrides: tuple[str, ...]) -> None:
    config = compose_config("train", f"experiment={experiment}", *overrides)
    for part in targets(config):
        if not part._target_.startswith("lmmodules."):
            continue
        built = get_object(part._target_)
        parameters = inspect.signature(built).parameters
        unknown = set(map(str, part)) - OF_HYDRA - set(parameters) - ({"weights"} if part is config.model else set())
        assert not unknown, f"{part._target_} does not take {unknown}"
    chosen = {override.partition("=")[2] for override in overrides if override.startswith("model=")}
    if chosen & ELSEWHERE:
        own = {
            key for key in config.model if not key.startswith("_") and config.model._get_node(key)._value() is not None
        }
        assert own <= {"weights", "name"}, "sizes are set that are those of the weights"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, texts: Path) -> Path:
    """A small GPT-2 of transformers with its tokenizer."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("published")
    backend = tokenizers.ByteLevelBPETokenizer()
    backend.train([str(file) for file in texts.iterdir()], vocab_size=300, special_tokens=["</s>"], show_progress=False)
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend._tokenizer, eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    size = {"vocab_size": 300, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**size)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A relation in LAMA's format, whose objects are one token in the tokenizer above, but for one."""
    folder = tmp_path_factory.mktemp("LAMA")
    (folder / "R1").mkdir()
    for split in ("train", "dev", "test"):
        rows = [
            {"sub_label": f"subject {at}", "obj_label": name} for at, name in enumerate(["cat", "dog", "Etruscan"] * 20)
        ]
        (folder / "R1" / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "relations.jsonl").write_text(json.dumps({"relation": "R1", "template": "[X] is [Y] ."}))
    return folder


@pytest.mark.parametrize("model", ["model=pretrained model.weights=", "model=hugging_face model.name="])
def test_p_tuning_of_a_frozen_model_as_its_experiment_tells(
    model: str, published: Path, facts: Path, tmp_path: Path
) -> None:
    def named(word: str) -> str:
        return word.replace("DIR", str(published)).replace("LAMA", str(facts))

    overrides = next(words for name, words in COMMANDS if name == "p_tuning" and "model=pretrained" in words)
    others = [named(word) for word in overrides if not word.startswith("model")]
    run = compose(
        "experiment=p_tuning",
        *f"{model}{published}".split(),
        *others,
        "max_steps=2",
        "validate_every_steps=2",
        "trainer.accelerator=cpu",
        "callbacks.progress=null",
        f"paths.cache_dir={tmp_path / 'cache'}",
        directory=str(tmp_path / "run"),
    )
    before = run.objective.backbone.token_embedding.weight.clone()
    assert run.fit()["steps"] == 2
    assert torch.equal(run.objective.backbone.token_embedding.weight, before), "the backbone is frozen"
