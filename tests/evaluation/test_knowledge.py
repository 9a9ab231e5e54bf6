"""Knowledge probing: macro and micro means, and the commands from training to evaluation, export and generation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmmodules.checkpoint import load
from lmmodules.composition import compose, compose_config
from lmmodules.errors import InputError
from lmmodules.evaluation.knowledge import KnowledgeProbing, summary
from lmmodules.export import export_checkpoint
from lmmodules.generate import generate


def test_means_over_relations_and_facts() -> None:
    figures = summary(["a", "b"], [[(True, "x")], [(False, "y")] * 9], [0.5, 0.25])
    assert (figures["macro"], figures["micro"], figures["majority"]) == (0.5, 0.1, 0.375)
    hits = [(True, "x"), (True, "x"), (True, "x"), (False, "y")]
    figures = summary(["a"], [hits], [0.5])
    assert (figures["micro"], figures["macro_by_object"]) == (0.75, 0.5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("p_tuning")
    built = compose(
        "experiment=p_tuning",
        "max_steps=4",
        "validate_every_steps=2",
        "model.hidden_size=32",
        "tokenizer.vocab_size=400",
        "data.template='{prompt:4} {subject} {target}'",
        "data.relations=[direction]",
        "+data.source._target_=lmmodules.data.facts.UnicodeFacts",
        "+data.source.step=60",
        "data.skip_long_objects=true",
        "trainer.accelerator=cpu",
        "callbacks.progress=null",
        f"paths.cache_dir={folder / 'cache'}",
        directory=str(folder / "run"),
    )
    built.summary = built.fit()
    return built


def test_the_experiment_runs_and_is_scored(run) -> None:
    assert run.summary["val_loss"] > 0
    figures = KnowledgeProbing(str(run.directory / "answers.jsonl"))(load(run.directory), run.data)
    assert figures["macro"] == figures["micro"] == pytest.approx(run.summary["val_accuracy"], abs=1e-6)
    assert figures["loss"] == pytest.approx(run.summary["val_loss"], rel=1e-4)
    rows = [json.loads(line) for line in (run.directory / "answers.jsonl").read_text().splitlines()]
    assert len(rows) == figures["facts"]
    assert sum(row["right"] for row in rows) / len(rows) == pytest.approx(figures["micro"])


def test_an_export_holds_the_folded_prompt_and_an_adapter(run, tmp_path: Path) -> None:
    export_checkpoint(run.directory, tmp_path / "model")
    folded = load(run.directory).folded()["direction"]
    assert folded.shape == (4, 32)
    assert torch.equal(load_file(tmp_path / "model" / "prompts.safetensors")["direction"], folded)
    assert torch.equal(
        load_file(tmp_path / "model" / "peft" / "adapter_model.safetensors")["prompt_embeddings"], folded
    )
    templates = json.loads((tmp_path / "model" / "prompts.json").read_text())["templates"]
    assert templates == {"direction": "{prompt:4} {subject} {target}"}


def written(checkpoint: Path, *overrides: str) -> list[str]:
    shape = ("prompt=LATIN SMALL", "max_new_tokens=12", "num_samples=2", *overrides)
    return generate(compose_config("generate", f"checkpoint={checkpoint}", *shape))


@pytest.mark.parametrize("temperature", [1, 3])  # the likeliest token is always the same after so few steps
def test_an_export_writes_what_its_checkpoint_writes(run, temperature: int, tmp_path: Path) -> None:
    export_checkpoint(run.directory, tmp_path / "model")
    told = f"temperature={temperature}"
    trained = written(run.directory, told)
    assert written(tmp_path / "model", told) == trained
    assert written(tmp_path / "model", told, "task=direction") == trained
    # The prompts by themselves, and the network elsewhere.
    (tmp_path / "prompts").mkdir()
    for name in ("prompts.safetensors", "prompts.json"):
        (tmp_path / "model" / name).rename(tmp_path / "prompts" / name)
    assert written(tmp_path / "prompts", told, f"backbone={tmp_path / 'model'}") == trained
    # The prompt is what makes the difference.
    prompts = load_file(tmp_path / "prompts" / "prompts.safetensors")
    save_file({"direction": -5 * prompts["direction"]}, tmp_path / "prompts" / "prompts.safetensors")
    assert written(tmp_path / "prompts", told, f"backbone={tmp_path / 'model'}") != trained


def test_exports_that_cannot_be_written_from(run, tmp_path: Path) -> None:
    export_checkpoint(run.directory, tmp_path / "model")
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    save_file({"direction": torch.zeros(4, 31)}, prompts / "prompts.safetensors")
    with pytest.raises(InputError, match=r"must hold `prompts.safetensors` and `prompts.json` as `lmm-export` writes"):
        written(prompts)
    (prompts / "prompts.json").write_text('{"templates": {}}')
    with pytest.raises(InputError, match="must have a template for each of direction"):
        written(prompts)
    (prompts / "prompts.json").write_text('{"templates": {"direction": "{prompt:4} {subject} {target}"}}')
    with pytest.raises(InputError, match=r"`backbone` must be the folder of the network .*; use `backbone=DIR`"):
        written(prompts)
    with pytest.raises(InputError, match=r"has 32 numbers for a token, and direction in .* has the shape \(4, 31\)"):
        written(prompts, f"backbone={tmp_path / 'model'}")
    with pytest.raises(InputError, match="`task` must be one of direction, but is P103"):
        written(tmp_path / "model", "task=P103")
    with pytest.raises(InputError, match=r"`checkpoint` brings its own; use `backbone=null`"):
        written(run.directory, f"backbone={tmp_path / 'model'}")


def test_peft_loads_the_adapter(run, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    export_checkpoint(run.directory, tmp_path / "model")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    model = peft.PeftModel.from_pretrained(base, str(tmp_path / "model" / "peft")).eval()
    batch = next(iter(run.data.val_dataloader()))
    length = int(batch.get("attention_mask", torch.ones_like(batch["input_ids"]))[0].sum())
    logits = model(input_ids=batch["input_ids"][:1, 4:length]).logits[0, -1]
    one = {name: batch[name][:1, :length] for name in ("input_ids", "prompt_ids", "labels")}
    torch.testing.assert_close(logits, load(run.directory).answer_logits(one)[1][0], rtol=1e-4, atol=1e-4)
