"""Knowledge probing: macro and micro means, and the commands from training to evaluation, export and generation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lmmodules.checkpoint import load
from lmmodules.composition import compose
from lmmodules.evaluation.knowledge import KnowledgeProbing, summary
from lmmodules.export import export_checkpoint


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
