"""What a report says of a network's answers, against a count by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmmodules.data import LabelledDataModule, TextFiles, Tokenizer
from lmmodules.data.byte_level_bpe import ByteLevelBPE
from lmmodules.errors import InputError
from lmmodules.evaluation.classification import ClassificationReport, by_class
from lmmodules.models import Transformer
from lmmodules.objectives import CausalLM, Classification, Regression


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("good fine best bad poor worst film plot actor " * 50)
    return ByteLevelBPE(vocab_size=270).train(TextFiles(path))


def rows(folder: Path, tokenizer: Tokenizer, **options: Any) -> LabelledDataModule:
    texts = [f"{'film ' * (1 + index * 5 % 7)}{index}" for index in range(23)]
    lines = [f"{text}\t{index % 3}" for index, text in enumerate(texts)]
    (folder / "rows.tsv").write_text("sentence\tlabel\n" + "\n".join(lines))
    options = {"batch_size": 4, "validation_fraction": 1.0, "max_length": 40} | options
    return LabelledDataModule(tokenizer=tokenizer, path=folder / "rows.tsv", cache_dir=folder, **options).prepare()


def network(tokenizer: Tokenizer, causal: bool = False) -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=1, num_heads=2, causal=causal, initializer_std=0.5
    )


def test_precision_recall_and_confusions_by_hand() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    answers = torch.tensor([0, 1, 0, 1, 0, 0])
    found = by_class(answers, labels, ("a", "b", "c"))
    assert found["majority"] == 0.5
    first, second, third = found["classes"]
    assert first == {
        "class": "a",
        "precision": 0.5,
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(4 / 7),
        "rows": 3,
    }
    assert second == {"class": "b", "precision": 0.5, "recall": 0.5, "f1": 0.5, "rows": 2}
    assert third == {"class": "c", "precision": 0.0, "recall": 0.0, "f1": 0.0, "rows": 1}
    assert [list(row.values()) for row in found["confusion"]] == [["a", 2, 1, 0], ["b", 1, 1, 0], ["c", 1, 0, 0]]


def test_every_row_is_answered_once_and_in_its_place(tmp_path: Path, tokenizer: Tokenizer) -> None:
    data = rows(tmp_path, tokenizer)
    objective = Classification(network(tokenizer), data.classes).eval()
    torch.nn.init.normal_(objective.head.output.weight)
    torch.nn.init.normal_(objective.head.dense.weight)
    file = tmp_path / "answers" / "all.jsonl"
    figures = ClassificationReport(predictions=str(file))(objective, data)
    samples = data.validation_samples
    everything: Any = samples[np.zeros(23, dtype=np.int64), np.arange(23)]
    with torch.no_grad():
        logits = objective(everything)
    right = (logits.argmax(-1) == everything["labels"]).float().mean().item()
    assert figures["rows"] == 23
    assert figures["accuracy"] == pytest.approx(right)
    assert figures["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, everything["labels"]).item())
    assert figures["majority"] == pytest.approx(8 / 23)
    assert sum(row["rows"] for row in figures["classes"]) == 23
    json.dumps(figures)  # nothing but plain numbers

    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["row"] for row in written] == list(range(1, 24))
    assert [row["prediction"] for row in written] == [str(answer) for answer in logits.argmax(-1).tolist()]
    assert [row["label"] for row in written] == [str(index % 3) for index in range(23)]
    shares = torch.tensor([list(row["probabilities"].values()) for row in written])
    torch.testing.assert_close(shares, logits.softmax(-1), rtol=1e-4, atol=1e-5)
    assert len(set(logits.argmax(-1).tolist())) > 1


def test_scores(tmp_path: Path, tokenizer: Tokenizer) -> None:
    data = rows(tmp_path, tokenizer, label_kind="scores")
    objective = Regression(network(tokenizer)).eval()
    file = tmp_path / "scores.jsonl"
    figures = ClassificationReport(predictions=str(file))(objective, data)
    assert set(figures) == {"loss", "pearson", "spearman", "rows"}
    written = [json.loads(line) for line in file.read_text().splitlines()]
    errors = [(row["label"] - row["prediction"]) ** 2 for row in written]
    assert figures["loss"] == pytest.approx(sum(errors) / 23, rel=1e-5)


def test_what_has_no_answers_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    data = rows(tmp_path, tokenizer)
    with pytest.raises(InputError, match=r"needs an objective that answers rows, but `CausalLM` does not"):
        ClassificationReport()(CausalLM(network(tokenizer, causal=True)), data)
    with pytest.raises(InputError, match=r"needs rows that are held out"):
        ClassificationReport()(Classification(network(tokenizer)), rows(tmp_path, tokenizer, validation_fraction=0.0))
