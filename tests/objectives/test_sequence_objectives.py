"""Classification, regression and multiple choice against their definitions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor

from lmmodules.batch import IGNORED
from lmmodules.data import LabelledDataModule, Tokenizer
from lmmodules.data.byte_level_bpe import ByteLevelBPE
from lmmodules.errors import InputError
from lmmodules.models import Transformer
from lmmodules.objectives import Classification, MultipleChoice, Regression
from lmmodules.objectives.sequence_objective import pooled_rows
from lmmodules.optim import ParameterGroups

V, D, B, T = 31, 16, 5, 9


def backbone(causal: bool = False, **options: Any) -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        vocab_size=V, hidden_size=D, num_layers=3, num_heads=2, causal=causal, initializer_std=0.3, **options
    ).double()


def made(kind: type[Any], *arguments: Any, causal: bool = False, **options: Any) -> Any:
    objective = kind(backbone(causal), *arguments, **options).double()
    torch.manual_seed(1)
    for parameter in objective.head.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return objective.eval()


def ragged(left: bool = False) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    lengths = torch.tensor([9, 4, 1, 7, 5])
    mask = (torch.arange(T) < lengths[:, None]).long()
    mask = mask.flip(1) if left else mask
    return {"input_ids": torch.randint(V, (B, T), generator=generator), "attention_mask": mask}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("left", [False, True])
def test_one_token_stands_for_its_sequence(causal: bool, left: bool) -> None:
    objective, batch = made(Classification, ["a", "b", "c"], causal=causal), ragged(left)
    outputs = objective(batch)
    for row in range(B):
        tokens = batch["input_ids"][row][batch["attention_mask"][row] == 1][None]
        alone = objective.backbone(tokens)[0, -1 if causal else 0]
        torch.testing.assert_close(outputs[row], objective.head(alone))
    assert pooled_rows(batch["input_ids"], None, causal=causal).tolist() == [
        row * T + (T - 1 if causal else 0) for row in range(B)
    ]


def test_classification_is_the_cross_entropy_of_the_logits() -> None:
    objective, batch = made(Classification, ["a", "b", "c"]), ragged()
    batch["labels"] = torch.tensor([0, 2, IGNORED, 1, 1])
    terms = objective.losses(batch)
    logits = objective(batch).detach().numpy()
    nats, hits = 0.0, 0
    for row, label in zip(logits, batch["labels"].tolist(), strict=True):
        if label != IGNORED:
            nats -= row[label] - math.log(np.exp(row).sum())
            hits += int(row.argmax() == label)
    assert terms["loss"].sum.item() == pytest.approx(nats)
    assert (terms["loss"].count, terms["accuracy"].count, terms["accuracy"].sum) == (4, 4, hits)
    assert (terms["loss"].weight, terms["accuracy"].weight) == (1.0, 0.0)


def test_regression_is_the_squared_error_and_passes_by_what_has_no_score() -> None:
    objective, batch = made(Regression), ragged()
    labels = [0.2, math.nan, 1.0, -0.5, 0.0]
    batch["labels"] = torch.tensor(labels, dtype=torch.float32)
    term = objective.losses(batch)["loss"]
    scores = objective(batch).squeeze(1).tolist()
    expected = sum((score - label) ** 2 for score, label in zip(scores, labels, strict=True) if label == label)
    assert term.sum.item() == pytest.approx(expected, rel=1e-5)
    assert term.count == 4
    term.sum.backward()
    assert all(parameter.grad.isfinite().all() for parameter in objective.parameters())


def test_a_choice_is_the_softmax_over_its_options() -> None:
    objective = made(MultipleChoice)
    flat = [ragged(), ragged(left=False)]
    batch = {name: torch.stack([flat[0][name], flat[1][name].roll(1, 0)], dim=1) for name in flat[0]}
    scores = objective(batch)  # (B, 2)
    assert scores.shape == (B, 2)
    for option in range(2):
        alone = {name: tensor[:, option : option + 1] for name, tensor in batch.items()}
        torch.testing.assert_close(objective(alone)[:, 0], scores[:, option])
    batch["labels"] = torch.tensor([0, 1, IGNORED, 1, 0])
    term = objective.losses(batch)["loss"]
    expected = sum(
        math.log(sum(math.exp(score) for score in row)) - row[label]
        for row, label in zip(scores.tolist(), batch["labels"].tolist(), strict=True)
        if label != IGNORED
    )
    assert term.sum.item() == pytest.approx(expected)
    assert term.count == 4


@pytest.mark.parametrize(
    ("kind", "arguments"), [(Classification, (["a", "b"],)), (Regression, ()), (MultipleChoice, ())]
)
def test_gradients_reach_every_weight_that_is_read(kind: type[Any], arguments: tuple[Any, ...]) -> None:
    objective, batch = made(kind, *arguments), ragged()
    if kind is MultipleChoice:
        batch = {name: torch.stack([tensor, tensor.roll(1, 0)], dim=1) for name, tensor in batch.items()}
    batch["labels"] = torch.ones(B) if kind is Regression else torch.ones(B, dtype=torch.int64)
    objective.losses(batch)["loss"].sum.backward()
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, name
        # What all options have in common changes no softmax.
        silent = kind is MultipleChoice and name == "head.output.bias"
        assert (parameter.grad.abs().max() > 1e-12) == (not silent), name
    padding = batch["input_ids"][batch["attention_mask"] == 0]
    read = set(batch["input_ids"][batch["attention_mask"] == 1].tolist())
    gradient = objective.backbone.token_embedding.weight.grad
    only_padding = [token for token in padding.tolist() if token not in read]
    assert only_padding
    assert not gradient[only_padding].any()


class TestMetrics:
    def test_those_of_two_classes(self) -> None:
        labels = torch.tensor([1, 1, 1, 0, 0, IGNORED, 0, 1])
        answers = torch.tensor([1, 0, 1, 0, 1, 1, 0, 1])
        found = made(Classification).metrics(answers, labels)
        tp, fp, fn, tn = 3, 1, 1, 2
        assert found["accuracy"] == pytest.approx((tp + tn) / 7)
        assert found["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
        root = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
        assert found["matthews"] == pytest.approx((tp * tn - fp * fn) / root)

    def test_one_answer_to_everything_correlates_with_nothing(self) -> None:
        labels = torch.tensor([0] * 26 + [1] * 14)
        found = made(Classification).metrics(torch.zeros(40, dtype=torch.int64), labels)
        assert found == {"accuracy": pytest.approx(0.65), "f1": 0.0, "matthews": 0.0}

    def test_those_of_three_classes(self) -> None:
        labels = torch.tensor([0, 0, 1, 1, 2, 2, 2])
        answers = torch.tensor([0, 1, 1, 1, 2, 0, 2])
        found = made(Classification, ["a", "b", "c"]).metrics(answers, labels)
        f1 = [2 * 1 / (2 + 2), 2 * 2 / (2 + 3), 2 * 2 / (3 + 2)]
        assert found["f1"] == pytest.approx(sum(f1) / 3)
        assert found["accuracy"] == pytest.approx(5 / 7)
        # Gorodkin 2004, from the confusion matrix.
        right, count, asked, answered = 5, 7, np.array([2, 2, 3]), np.array([2, 3, 2])
        above = right * count - asked @ answered
        below = math.sqrt((count**2 - answered @ answered) * (count**2 - asked @ asked))
        assert found["matthews"] == pytest.approx(above / below)

    def test_correlations(self) -> None:
        labels = torch.tensor([1.0, 2.0, 3.0, math.nan, 4.0, 10.0])
        answers = torch.tensor([1.0, 3.0, 2.0, 99.0, 4.0, 5.0])
        found = made(Regression).metrics(answers, labels)
        kept = [0, 1, 2, 4, 5]
        assert found["pearson"] == pytest.approx(np.corrcoef(answers.numpy()[kept], labels.numpy()[kept])[0, 1])
        assert found["spearman"] == pytest.approx(np.corrcoef([1, 3, 2, 4, 5], [1, 2, 3, 4, 5])[0, 1])
        assert made(Regression).metrics(torch.ones(6), labels) == {"pearson": 0.0, "spearman": 0.0}
        assert made(Regression).metrics(answers[:1], labels[:1]) == {"pearson": 0.0, "spearman": 0.0}

    def test_accuracy_of_choices(self) -> None:
        answers, labels = torch.tensor([0, 3, 1, 2]), torch.tensor([0, 3, 2, IGNORED])
        assert made(MultipleChoice).metrics(answers, labels) == {"accuracy": pytest.approx(2 / 3)}


def test_the_head_is_above_the_layers_where_rates_decay() -> None:
    objective = made(Classification)
    groups = ParameterGroups(layer_decay=0.5)(objective)
    rates = {id(parameter): group["lr_factor"] for group in groups for parameter in group["params"]}
    for name, parameter in objective.named_parameters():
        if name.startswith(("head.", "backbone.final_norm")):
            assert rates[id(parameter)] == 1.0, name
        elif name.startswith("backbone.blocks."):
            assert rates[id(parameter)] == 0.5 ** (3 - int(name.split(".")[2])), name
        else:
            assert rates[id(parameter)] == 0.5**4, name
    assert set(rates.values()) == {1.0, 0.5, 0.25, 0.125, 0.0625}


def test_dropout_of_the_head_is_an_option() -> None:
    batch = ragged()
    plain, dropped = made(Classification).train(), made(Classification, pooler_dropout=0.5).train()
    assert torch.equal(plain(batch), plain(batch))
    assert not torch.equal(dropped(batch), dropped(batch))
    assert torch.equal(dropped.eval()(batch), plain(batch))


@pytest.mark.parametrize("classes", [["a"], ["a", "a"], []])
def test_classes_are_checked(classes: list[str]) -> None:
    with pytest.raises(InputError, match="`classes` must name two classes or more, each once"):
        Classification(backbone(), classes)
    assert Classification(backbone()).classes == ("0", "1")


def test_flops_count_the_head_once_a_sequence() -> None:
    objective = Classification(backbone())
    assert objective.flops_per_token(8) == objective.backbone.flops_per_token(8) + 2 * (D * D + D * 2) / 8


class TestTraining:
    @pytest.fixture(scope="class")
    def tokenizer(self, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
        from lmmodules.data import TextFiles

        path = tmp_path_factory.mktemp("text") / "text.txt"
        path.write_text("good fine best bad poor worst film plot actor " * 50)
        return ByteLevelBPE(vocab_size=270).train(TextFiles(path))

    def data(self, tokenizer: Tokenizer, folder: Path, **options: Any) -> LabelledDataModule:
        words = {"yes": ["good", "fine", "best"], "no": ["bad", "poor", "worst"]}
        rows = [
            (f"{'the film ' * (index % 4)}{words[label][index % 3]} {'plot' * (index % 2)} {index}", label)
            for index in range(60)
            for label in words
        ]
        (folder / "rows.tsv").write_text("sentence\tlabel\n" + "\n".join(map("\t".join, rows)))
        options = {"batch_size": 7, "validation_fraction": 0.3, "max_length": 48} | options
        return LabelledDataModule(
            tokenizer=tokenizer, path=folder / "rows.tsv", cache_dir=folder / "cache", **options
        ).prepare()

    def trainer(self, steps: int, **options: Any) -> L.Trainer:
        return L.Trainer(
            max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, use_distributed_sampler=False, val_check_interval=steps,
            check_val_every_n_epoch=None, **options,
        )  # fmt: skip

    def network(self, tokenizer: Tokenizer) -> Transformer:
        torch.manual_seed(0)
        return Transformer(vocab_size=tokenizer.vocab_size, hidden_size=32, num_layers=2, num_heads=2, causal=False)

    @pytest.mark.filterwarnings("ignore")
    def test_it_learns_and_validation_is_over_all_rows(self, tokenizer: Tokenizer, tmp_path: Path) -> None:
        data = self.data(tokenizer, tmp_path)
        adam = lambda groups: torch.optim.AdamW(groups, lr=3e-3)  # noqa: E731
        objective = Classification(self.network(tokenizer), data.classes, optimizer=adam)
        trainer = self.trainer(80)
        trainer.fit(objective, data)
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        assert found["val/accuracy"] > 0.9
        assert "val/perplexity" not in found
        objective.eval()
        samples = data.validation_samples
        batch: Any = samples[np.zeros(len(samples), dtype=np.int64), np.arange(len(samples))]
        with torch.no_grad():
            logits = objective(batch)
        assert len(samples) % 7  # so that some rows only filled up
        assert found["val/accuracy"] == pytest.approx(float((logits.argmax(-1) == batch["labels"]).float().mean()))
        assert found["val/loss"] == pytest.approx(
            float(torch.nn.functional.cross_entropy(logits, batch["labels"])), rel=1e-4
        )

    @pytest.mark.filterwarnings("ignore")
    def test_classes_of_the_data_and_of_the_objective_are_compared(self, tokenizer: Tokenizer, tmp_path: Path) -> None:
        data = self.data(tokenizer, tmp_path)
        objective = Classification(self.network(tokenizer), ["yes", "no"])
        with pytest.raises(InputError, match=r"`classes` must be those of the data, \[no, yes\], but is \[yes, no\]"):
            self.trainer(1).fit(objective, data)
