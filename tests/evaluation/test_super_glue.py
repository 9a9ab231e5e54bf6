"""SuperGLUE's own metrics, from numbers worked out by hand, and the commands from training to their table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lmmodules.checkpoint import load
from lmmodules.composition import compose
from lmmodules.errors import InputError
from lmmodules.evaluation.filling import fill_in
from lmmodules.evaluation.knowledge import KnowledgeProbing
from lmmodules.evaluation.super_glue import SuperGlueMetrics, names_the_same, task_metrics
from lmmodules.models import Transformer
from lmmodules.objectives.p_tuning import PTuning

V = 30


def f1_of(answers: list[int], labels: list[int], positive: int) -> float:
    """F1 of one class: 2 TP / (2 TP + FP + FN)."""
    said, asked = np.array(answers) == positive, np.array(labels) == positive
    return 2 * (said & asked).sum() / (said.sum() + asked.sum())


def test_f1_of_cb_is_the_mean_over_classes() -> None:
    labels, answers = [0, 0, 0, 1, 1, 2, 1, 0], [0, 0, 1, 1, 1, 0, 2, 0]
    figures = task_metrics("cb", torch.tensor(answers), torch.tensor(labels), [()] * 8)
    # class 0: 3 right of 4 said and 4 asked; class 1: 2 of 3 and 3; class 2: 0 of 1 and 1
    assert figures["f1"] == pytest.approx((3 / 4 + 2 / 3 + 0) / 3)
    assert figures["f1"] == pytest.approx(np.mean([f1_of(answers, labels, place) for place in range(3)]))
    assert figures["accuracy"] == pytest.approx(5 / 8)
    # A class that neither labels nor answers name does not count, as in scikit-learn.
    assert task_metrics("cb", torch.tensor([0, 1]), torch.tensor([0, 1]), [()] * 2)["f1"] == 1.0


def test_metrics_of_multirc() -> None:
    groups = [(1, 0)] * 3 + [(1, 1)] * 2 + [(2, 0)] * 2
    labels, answers = [1, 0, 1, 0, 1, 0, 0], [1, 0, 1, 1, 1, 0, 0]
    figures = task_metrics("multirc", torch.tensor(answers), torch.tensor(labels), groups)
    # 3 right of 4 said and 3 asked; the second question has one wrong answer
    assert figures["f1"] == pytest.approx(6 / 7)
    assert figures["f1"] == pytest.approx(f1_of(answers, labels, 1))
    assert figures["exact_match"] == pytest.approx(2 / 3)
    assert figures["accuracy"] == pytest.approx(6 / 7)
    # Never saying yes finds no right answer, and settles only questions without any.
    none = task_metrics("multirc", torch.zeros(7, dtype=torch.long), torch.tensor(labels), groups)
    assert (none["f1"], none["exact_match"]) == (0.0, pytest.approx(1 / 3))


@pytest.mark.parametrize("task", ["rte", "boolq", "wic", "copa", "wsc"])
def test_the_others_have_accuracy_alone(task: str) -> None:
    figures = task_metrics(task, torch.tensor([0, 1, 1, 1]), torch.tensor([0, 1, 0, 0]), [()] * 4)
    assert figures == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("said", "name", "same"),
    [
        ("Tina", "Tina", True),
        ("the city councilmen", "The city councilmen", True),
        ("councilmen", "The city councilmen", True),
        ("Tina, who", "Tina", True),
        ("Mark's", "mark", True),
        ("the demonstrators", "The city councilmen", False),
        ("", "Tina", False),
        (". 12", "Tina", False),
    ],
)
def test_names_are_compared_by_their_words(said: str, name: str, same: bool) -> None:
    assert names_the_same(said, name) is same


def objective_and_rows(causal: bool) -> tuple[PTuning, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    network = Transformer(vocab_size=V, hidden_size=16, num_layers=2, num_heads=2, causal=causal, initializer_std=0.5)
    objective = PTuning(network, ["a"], [1], encoder="embeddings").eval()
    labels = torch.full((2, 7), -100)
    labels[0, 3:6], labels[1, 2:4] = torch.tensor([7, 8, 9]), torch.tensor([10, 11])
    prompts = torch.full((2, 7), -1)
    prompts[:, 0] = 0
    return objective, {
        "input_ids": torch.randint(12, V, (2, 7)),
        "prompt_ids": prompts,
        "labels": labels,
        "attention_mask": torch.tensor([[1] * 7, [1] * 5 + [0] * 2]),
    }


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("as_labelled", [True, False])
def test_filling_in_is_as_a_loop_over_rows_and_places(causal: bool, as_labelled: bool) -> None:
    objective, data = objective_and_rows(causal)
    tokens, nats = fill_in(objective, data, as_labelled=as_labelled)
    for row, length in ((0, 7), (1, 5)):
        one = {name: data[name][row : row + 1, :length].clone() for name in ("input_ids", "prompt_ids", "labels")}
        places, cost, written = (one["labels"][0] != -100).nonzero().flatten().tolist(), 0.0, {}
        while places:
            shares = objective(one)[0].double().log_softmax(-1)
            says = {p: int(one["labels"][0, p]) if as_labelled else int(shares[p].argmax()) for p in places}
            place = places[0] if causal else max(places, key=lambda p: float(shares[p, says[p]]))
            cost -= float(shares[place, says[place]])
            written[place] = says[place]
            one["input_ids"][0, place + causal] = says[place]
            places.remove(place)
        assert {p: int(tokens[row, p]) for p in range(7) if tokens[row, p] != -100} == written
        assert float(nats[row]) == pytest.approx(cost, rel=1e-4)


@torch.no_grad()
def test_a_causal_model_pays_for_a_text_what_it_pays_at_once() -> None:
    objective, data = objective_and_rows(True)
    data["input_ids"][0, 4:6], data["input_ids"][1, 3] = torch.tensor([7, 8]), 10
    labels = data["labels"]
    at_once = F.cross_entropy(objective(data).transpose(1, 2), labels, reduction="none").sum(1)
    torch.testing.assert_close(fill_in(objective, data, as_labelled=True)[1], at_once, rtol=1e-4, atol=1e-4)


def rows_of(task: str) -> list[dict]:
    few = ("a cat sat on a mat", "a dog ran to a door", "a hen lay in hay")
    if task == "copa":
        return [
            {"premise": text, "choice1": "It slept.", "choice2": "It ran off.", "question": "effect", "label": n % 2}
            for n, text in enumerate(few)
        ]
    if task == "wsc":
        target = {"span1_text": "a cat", "span2_text": "it", "span1_index": 0, "span2_index": 2}
        return [{"text": f"a cat it {text}", "target": target, "label": n != 1} for n, text in enumerate(few)]
    answers = [{"text": "a cat", "label": 1}, {"text": "a hen", "label": 0}]
    return [{"passage": {"text": text, "questions": [{"question": "Who?", "answers": answers}]}} for text in few]


def trained(task: str, model: str, folder: Path):
    (folder / "rows").mkdir()
    for name in ("train", "dev32"):
        (folder / "rows" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows_of(task))))
    run = compose(
        f"experiment=p_tuning_{task}",
        f"model={model}",
        "model.weights=null",
        "tokenizer=byte_level_bpe",
        "~tokenizer.name",
        "tokenizer.vocab_size=266",
        f"data.path={folder / 'rows'}",
        "data.max_length=96",
        "data.batch_size=2",
        "max_steps=1",
        "validate_every_steps=1",
        "trainer.accelerator=cpu",
        "callbacks.progress=null",
        f"paths.cache_dir={folder / 'cache'}",
        directory=str(folder / "run"),
    )
    run.fit()
    return run


@pytest.mark.parametrize("model", ["encoder_tiny", "decoder_tiny"])
@pytest.mark.parametrize("task", ["copa", "wsc"])
def test_the_experiments_run_and_are_scored(task: str, model: str, tmp_path: Path) -> None:
    run = trained(task, model, tmp_path)
    figures = SuperGlueMetrics(str(tmp_path / "answers.jsonl"))(load(run.directory), run.data)
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rows] == [1, 2, 3]
    right = [row["prediction"] == str(row["label"]) for row in rows]
    assert figures["accuracy"] == pytest.approx(sum(right) / 3)
    assert figures["majority"] == pytest.approx(2 / 3)
    if task == "wsc":
        assert all((row["prediction"] == "true") == names_the_same(row["said"], row["name"]) for row in rows)
    with pytest.raises(InputError, match="evaluation=super_glue"):
        KnowledgeProbing()(load(run.directory), run.data) if task == "copa" else SuperGlueMetrics()(run.objective, None)
