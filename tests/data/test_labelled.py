"""Labelled rows as batches: order, padding, classes, scores, what is held out, and what is refused."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tokenizers
import torch

from lmmodules.batch import IGNORED, LabelledBatch, ScoredBatch
from lmmodules.data import Corpus, LabelledDataModule, LabelledDataset, Tokenizer, glue
from lmmodules.errors import InputError

TEXTS = [
    "the cat sat",
    "a green hill",
    "seven dogs ran over",
    "nobody",
    "the mat",
    "on a hill while nobody ran",
    "dogs",
]


def table(path: Path, rows: list[tuple[str, ...]], header: str = "sentence\tlabel") -> Path:
    path.write_text("\n".join([header, *map("\t".join, rows)]) + "\n")
    return path


@pytest.fixture
def make(tmp_path: Path, tokenizer: Tokenizer) -> Any:
    def build(rows: list[tuple[str, ...]], header: str = "sentence\tlabel", **options: Any) -> LabelledDataModule:
        path = table(tmp_path / "rows.tsv", rows, header)
        options = {"validation_fraction": 0.0, "batch_size": 4, "max_length": 64} | options
        return LabelledDataModule(tokenizer=tokenizer, path=path, cache_dir=tmp_path / "cache", **options)

    return build


def balanced(number: int) -> list[tuple[str, ...]]:
    return [(f"{TEXTS[index % 7]} {index}", "yes" if index % 3 else "no") for index in range(number)]


class TestBatches:
    def test_a_batch_holds_the_rows_padded_to_the_longest(self, make: Any, tokenizer: Tokenizer) -> None:
        rows = list(zip(TEXTS, ["b", "a", "b", "c", "a", "b", "c"], strict=True))
        data = make(rows, shuffle=False).prepare()
        batch = next(iter(data.train_dataloader()))
        expected = [[tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id] for text in TEXTS[:4]]
        assert batch["input_ids"].shape == (4, max(map(len, expected)))
        for row, ids in enumerate(expected):
            assert batch["input_ids"][row, : len(ids)].tolist() == ids
            assert (batch["input_ids"][row, len(ids) :] == tokenizer.pad_id).all()
            assert batch["attention_mask"][row].sum() == len(ids)
        assert data.classes == ("a", "b", "c")
        assert batch["labels"].tolist() == [1, 0, 1, 2]
        assert batch["labels"].dtype == torch.int64
        assert set(batch) == {"input_ids", "attention_mask", "labels"}
        assert data.batch_type is LabelledBatch
        assert data.objective_settings == {"classes": ["a", "b", "c"]}

    def test_rows_of_one_length_need_no_mask(self, make: Any) -> None:
        data = make([("the cat", "0"), ("the mat", "1")], batch_size=2, shuffle=False)
        batch = next(iter(data.prepare().train_dataloader()))
        if len({tuple(row) for row in (batch["input_ids"] == 1).tolist()}) == 1:
            assert "attention_mask" not in batch

    def test_pairs_have_types_as_bert_and_none_as_roberta(self, make: Any, tokenizer: Tokenizer) -> None:
        rows = [("the cat sat", "nobody ran", "0"), ("the mat", "a hill", "1")]
        options = {"header": "one\ttwo\tlabel", "text_columns": ["one", "two"], "shuffle": False, "batch_size": 2}
        bert = next(iter(make(rows, **options, layout="bert").prepare().train_dataloader()))
        first = len(tokenizer.encode("the cat sat")) + 2
        second = len(tokenizer.encode("nobody ran")) + 1
        types = bert["token_type_ids"][0].tolist()
        assert types[: first + second] == [0] * first + [1] * second
        assert sum(types) == second
        roberta = make(rows, **options).prepare()
        assert "token_type_ids" not in next(iter(roberta.train_dataloader()))
        assert roberta.describe()["sequence"] == "<s> A </s></s> B </s>"

    def test_length_grouping_and_epochs(self, make: Any) -> None:
        rows = [(" ".join(["cat"] * (1 + index * 7 % 40)), str(index % 2)) for index in range(200)]
        padding = {}
        for grouped in (True, False):
            data = make(rows, group_by_length=grouped, batch_size=8).prepare()
            batches = list(data.train_dataloader())
            masks = [batch.get("attention_mask", torch.ones_like(batch["input_ids"])) for batch in batches]
            padding[grouped] = 1 - sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks)
            assert sum(len(batch["labels"]) for batch in batches) == 200
        assert padding[True] < 0.5 * padding[False]

    def test_the_stream_is_divided_among_ranks_and_goes_on_where_it_stood(self, make: Any) -> None:
        def labels(loader: Any, batches: int) -> list[int]:
            return [label for batch in islice(iter(loader), batches) for label in batch["labels"].tolist()]

        rows = [(f"{'cat ' * (1 + index * 7 % 40)}{index}", str(index)) for index in range(120)]
        whole = labels(make(rows, batch_size=8).prepare().train_dataloader(), 6)
        halves = []
        for rank in range(2):
            loader = make(rows, batch_size=4).prepare().training_loader()
            loader.set_rank(rank, 2)
            halves.append(labels(loader, 6))
        parts = [halves[rank][batch * 4 : batch * 4 + 4] for batch in range(6) for rank in range(2)]
        assert [label for part in parts for label in part] == whole
        first = make(rows, batch_size=8).prepare().training_loader()
        begun = labels(first, 3)
        second = make(rows, batch_size=4).prepare().training_loader()
        second.load_state_dict(first.state_dict())
        assert begun + labels(second, 6) == whole

    def test_what_is_too_long_is_cut_and_counted(self, make: Any) -> None:
        data = make(balanced(6), max_length=4)
        assert "longest 4, " in data.describe()["training"]
        assert "cut to 4" in data.describe()["training"]
        assert next(iter(data.train_dataloader()))["input_ids"].shape[1] == 4

    def test_rows_that_fill_up_do_not_count(self, make: Any) -> None:
        data = make(balanced(30), validation_fraction=1.0, batch_size=4)
        batches = list(data.val_dataloader())
        labels = torch.cat([batch["labels"] for batch in batches])
        assert len(labels) == 32
        assert (labels == IGNORED).sum() == 2
        scores = make([(text, str(n)) for n, text in enumerate(TEXTS)], label_kind="scores", validation_fraction=1.0)
        labels = torch.cat([batch["labels"] for batch in scores.val_dataloader()])
        assert labels.isnan().sum() == 1
        assert sorted(labels[~labels.isnan()].tolist()) == [0, 1, 2, 3, 4, 5, 6]


class TestLabels:
    def test_scores_are_scaled(self, make: Any) -> None:
        rows = [(text, score) for text, score in zip(TEXTS, ["0", "1.5", "2.5", "3", "4", "5", "-1"], strict=True)]
        options = {"label_kind": "scores", "label_column": "score", "label_scale": 5.0, "validation_fraction": 0.0}
        data = make(rows, header="sentence\tscore", shuffle=False, **options).prepare()
        assert data.train_samples.labels.tolist() == pytest.approx([0, 0.3, 0.5, 0.6, 0.8, 1, -0.2])
        assert data.batch_type is ScoredBatch
        assert data.objective_settings == {}
        assert data.classes == ()

    def test_numbers_are_ordered_by_size_and_may_be_given_names(self, make: Any) -> None:
        rows = [("the cat", "10"), ("the mat", "9"), ("a hill", "10"), ("dogs", "9")]
        assert make(rows).classes == ("9", "10")
        rows = [("the cat", "1"), ("the mat", "0"), ("a hill", "1"), ("dogs", "0")]
        named = make(rows, classes=["bad", "good"], shuffle=False).prepare()
        assert named.train_samples.labels.tolist() == [1, 0, 1, 0]
        assert named.classes == ("bad", "good")
        with pytest.raises(InputError, match=r"one of the classes 1, 2, but in row 2 of `.*rows.tsv` it is '0'"):
            make(rows, classes=["1", "2"]).prepare()

    def test_the_baseline_is_the_entropy_or_the_variance(self, make: Any) -> None:
        data = make(balanced(30), validation_fraction=1.0)
        share = np.mean(data.validation_samples.labels)
        entropy = -(share * math.log(share) + (1 - share) * math.log(1 - share))
        assert data.baseline().loss == pytest.approx(entropy)
        scores = make([(text, str(n)) for n, text in enumerate(TEXTS)], label_kind="scores", validation_fraction=1.0)
        assert scores.baseline().loss == pytest.approx(np.var(range(7)))
        assert make(balanced(9)).baseline() is None

    def test_held_out_rows_go_by_their_text(self, make: Any) -> None:
        rows = balanced(200)
        few = make(rows, validation_fraction=0.2).prepare()
        more = make([*rows, *balanced(300)[200:]], validation_fraction=0.2)
        held = set(few.rows["validation"].columns["sentence"])
        assert 20 < len(held) < 60
        assert not held & set(few.rows["training"].columns["sentence"])
        assert held <= set(more.prepare().rows["validation"].columns["sentence"])
        other = make([(text, "no" if label == "yes" else "yes") for text, label in rows], validation_fraction=0.2)
        assert set(other.prepare().rows["validation"].columns["sentence"]) == held  # equal texts stay on one side

    def test_rows_to_validate_on_are_used_whole(self, make: Any, tmp_path: Path) -> None:
        path = table(tmp_path / "dev.tsv", balanced(11))
        data = make(balanced(20), validation_path=path, validation_fraction=0.5).prepare()
        assert (len(data.train_samples), len(data.validation_samples)) == (20, 11)

    def test_a_tokenizer_is_trained_on_the_rows(self, tmp_path: Path) -> None:
        from lmmodules.data import ByteLevelBPE

        path = table(tmp_path / "rows.tsv", balanced(60))
        data = LabelledDataModule(tokenizer=ByteLevelBPE(vocab_size=280), path=path, cache_dir=tmp_path / "cache")
        assert data.prepare().vocab_size == 280
        assert data.tokenizer.decode(data.tokenizer.encode("the cat sat")) == "the cat sat"

    def test_so_is_any_other_kind_of_tokenizer(self, tmp_path: Path) -> None:
        class Spelling:
            def fingerprint(self) -> str:
                return "spelling"

            def train(self, corpus: Corpus) -> Tokenizer:
                letters = sorted({letter for text in corpus.documents() for letter in text})
                backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(
                    {token: number for number, token in enumerate(["[CLS]", "[SEP]", "[PAD]", "[UNK]", *letters])},
                    unk_token="[UNK]",
                ))  # fmt: skip
                backend.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
                return Tokenizer(backend)

        path = table(tmp_path / "rows.tsv", balanced(60))
        data = LabelledDataModule(tokenizer=Spelling(), path=path, cache_dir=tmp_path / "cache").prepare()
        assert data.describe()["sequence"] == "[CLS] A [SEP]"
        assert data.tokenizer.has("pad")
        assert data.vocab_size < 40


class TestRefused:
    @pytest.mark.parametrize(
        ("rows", "options", "sentence"),
        [
            ([("x", "a"), ("y", "b"), ("z", "c")], {"classes": ["a", "b"]},
             r"a label must be one of the classes a, b, but in row 3 of `.*rows.tsv` it is 'c'; name all classes"),
            ([("x", "a"), ("y", "b")], {"classes": ["a", "b", "c"]},
             r"every class must have an example to learn from, but `c` has none .*; use `data.classes=\[a, b\]`"),
            ([("x", "a"), ("y", "")], {}, r"every row must have a label, but in row 2 of `.*` `label` is ''; use"),
            ([("x", "1"), ("y", "NaN")], {"label_kind": "scores"}, "must have a label, but in row 2 .* is 'NaN'"),
            ([("x", "1"), ("y", "good")], {"label_kind": "scores"},
             "a score must be a finite number, but in row 2 .* is 'good'; use `objective=classification`"),
            ([("x", "1"), ("y", "inf")], {"label_kind": "scores"}, "a score must be a finite number"),
            ([("x", "a"), (" ", "b")], {}, r"every row must have text, but in row 2 of `.*` `sentence` is ' '"),
            ([("x", "a"), ("y", "a")], {}, "must hold at least two classes, but `label` of `.*` has a; name them"),
            ([("x", "1.5"), ("y", "2")], {}, r"holds numbers such as 1.5; use `objective=regression`"),
            ([("x", "a"), ("y", "b")], {"label_column": "lbl"}, "which are sentence, label, but is `lbl`"),
            ([("x", "a"), ("y", "b")], {"text_columns": ["sentence1", "sentence2"]},
             "`data.text_columns` must name columns of .*, which are sentence, label, but is `sentence1`"),
            ([("x", "a"), ("y", "b")], {"validation_fraction": 1e-9}, "hold out some of the 2 rows .* holds out none"),
        ],
    )  # fmt: skip
    def test_rows(self, rows: list[tuple[str, ...]], options: dict[str, Any], sentence: str, make: Any) -> None:
        with pytest.raises(InputError, match=sentence) as error:
            make(rows, **options).prepare()
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"text_columns": []}, "must name one column, or two for pairs"),
            ({"text_columns": ["a", "b", "c"]}, "must name one column, or two for pairs"),
            ({"text_columns": ["a", "a"]}, "must name one column, or two for pairs"),
            ({"label_column": "sentence"}, "and `data.label_column` another"),
            ({"label_kind": "ranks"}, "`data.label_kind` must be one of classes, scores, but is ranks"),
            ({"label_scale": 0.0}, "`data.label_scale` must be positive, but is 0.0"),
            ({"classes": ["a"]}, "must name two classes or more"),
            ({"classes": ["a", "a"]}, "each once"),
            ({"classes": ["a", "b"], "label_kind": "scores"}, "where labels are classes"),
            ({"validation_fraction": 1.5}, "`data.validation_fraction` must be between 0 and 1"),
            ({"delimiter": "ab"}, "`data.delimiter` must be one character"),
            ({"path": None}, "`data.path` must name files with labelled rows"),
            ({"path": "nowhere.tsv"}, "`data.path` must name files or a directory that exist, but `nowhere.tsv`"),
            ({"validation_path": "nowhere.tsv"}, "`data.validation_path` must name files"),
        ],
    )
    def test_arguments(self, options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
        options = {"path": table(tmp_path / "rows.tsv", [("x", "a")])} | options
        with pytest.raises(InputError, match=sentence):
            LabelledDataModule(**options)

    def test_files_of_another_kind(self, tmp_path: Path) -> None:
        (tmp_path / "rows.txt").write_text("x")
        with pytest.raises(
            InputError, match=r"must lead to rows in one of .tsv, .csv, .*`.*rows.txt` is something else"
        ):
            LabelledDataModule(path=tmp_path / "rows.txt")

    def test_incomplete_rows_can_be_left_out_and_are_counted(self, make: Any) -> None:
        rows = [*balanced(9), ("x", ""), ("", "yes"), ("y", "nan"), ("only",)]
        data = make(rows, skip_incomplete=True).prepare()
        assert len(data.train_samples) == 9
        with pytest.raises(InputError, match=r"must be rows with text and a label, but none of the 2 of"):
            make([("", "yes"), ("x", "")], skip_incomplete=True).prepare()
        assert data.describe()["note"].startswith("4 rows without a label, without text or with other columns left out")


def test_a_dataset_of_a_folder(tmp_path: Path, tokenizer: Tokenizer) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["zebra", "ant"])}
    )
    parts = {
        name: datasets.Dataset.from_dict({"text": TEXTS, "label": [0, 1, 0, 1, 1, 0, last]}, features=features)
        for name, last in (("train", 1), ("test", 0))
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    source = LabelledDataset(str(tmp_path / "saved"), validation_split="test")
    data = LabelledDataModule(source, tokenizer, text_columns=["text"], cache_dir=tmp_path / "cache").prepare()
    assert data.classes == ("zebra", "ant")  # in the order of the dataset
    assert data.train_samples.labels.tolist() == [0, 1, 0, 1, 1, 0, 1]
    assert data.validation_samples.labels.tolist() == [0, 1, 0, 1, 1, 0, 0]
    with pytest.raises(InputError, match=r"`data.text_columns` must name columns of `.*saved`, which are text, label"):
        LabelledDataModule(source, tokenizer, cache_dir=tmp_path / "cache").prepare()
    with pytest.raises(InputError, match="with the split `dev`"):
        LabelledDataModule(LabelledDataset(str(tmp_path / "saved"), split="dev"), tokenizer).prepare()


class TestGlue:
    FILES: ClassVar[dict[str, Any]] = {  # the columns by number are those of fairseq's preprocess_GLUE_tasks.sh
        "cola": ("CoLA", None, "gj04\t{label}\t\t{text}", ["0", "1"], "dev.tsv"),
        "mrpc": ("MRPC", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "{label}\t1\t2\t{text}\t{text}",
                 ["0", "1"], "dev.tsv"),
        "stsb": ("STS-B", "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
                 "0\tg\tf\ty\to\ts\ts\t{text}\t{text}\t{label}", ["5.0", "2.5"], "dev.tsv"),
        "rte": ("RTE", "index\tsentence1\tsentence2\tlabel", "0\t{text}\t{text}\t{label}",
                ["entailment", "not_entailment"], "dev.tsv"),
        "mnli": ("MNLI", "index\tsentence1\tsentence2\tlabel1\tgold_label", "0\t{text}\t{text}\tx\t{label}",
                 ["entailment", "neutral", "contradiction"], "dev_matched.tsv"),
    }  # fmt: skip

    @pytest.mark.parametrize("task", FILES)
    def test_the_files_of_the_website(self, task: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
        folder, header, row, labels, validation = self.FILES[task]
        (tmp_path / folder).mkdir()
        lines = [row.format(text=text, label=labels[index % len(labels)]) for index, text in enumerate(TEXTS)]
        for name in ("train.tsv", validation):
            (tmp_path / folder / name).write_text("\n".join([*([header] if header else []), *lines]) + "\n")
        data = glue(task, path=tmp_path, tokenizer=tokenizer, cache_dir=tmp_path / "cache", shuffle=False).prepare()
        assert len(data.train_samples) == len(data.validation_samples) == len(TEXTS)
        if task == "stsb":
            assert data.train_samples.labels.tolist()[:3] == [1.0, 0.5, 1.0]  # divided by 5, as fairseq does
        else:
            assert data.train_samples.labels.tolist() == [index % len(labels) for index in range(len(TEXTS))]
            assert len(data.classes) == len(labels)
        assert ("</s></s>" in data.describe()["sequence"]) == (task != "cola")

    def test_what_is_missing_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"`data.task` must be one of cola, sst2, .*, but is sst; use"):
            glue("sst")
        with pytest.raises(InputError, match=r"must be a folder with `RTE/train.tsv`.* does not exist"):
            glue("rte", path=tmp_path)
