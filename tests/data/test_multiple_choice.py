"""Questions with options, laid out as RoBERTa read RACE."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lmmodules.batch import IGNORED, ChoiceBatch
from lmmodules.data import MultipleChoiceDataModule, RaceFolder, Tokenizer
from lmmodules.data.multiple_choice import with_option
from lmmodules.errors import InputError

ROWS = [
    {
        "article": "the cat sat\non a mat",
        "question": "The cat sat on _ .",
        "options": ["a hill", "a mat"],
        "answer": "B",
    },
    {"article": "dogs ran", "question": "Who ran ?", "options": ["nobody", "dogs"], "answer": "B"},
    {"article": "seven dogs", "question": "How many ?", "options": ["seven", "none"], "answer": 0},
]


@pytest.fixture
def make(tmp_path: Path, tokenizer: Tokenizer) -> Any:
    def build(rows: list[dict[str, Any]], **options: Any) -> MultipleChoiceDataModule:
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        options = {"validation_fraction": 0.0, "batch_size": 3, "shuffle": False} | options
        return MultipleChoiceDataModule(tokenizer=tokenizer, path=path, cache_dir=tmp_path / "cache", **options)

    return build


def test_an_option_takes_the_place_of_the_gap_or_stands_behind() -> None:
    assert with_option("The cat sat on _ .", "a mat") == "The cat sat on a mat ."
    assert with_option("_ and _", "x") == "x and x"
    assert with_option("Who ran ?", "dogs") == "Who ran ? dogs"


def test_question_and_option_stand_first_and_the_article_behind(make: Any, tokenizer: Tokenizer) -> None:
    data = make(ROWS).prepare()
    batch = next(iter(data.train_dataloader()))
    assert data.batch_type is ChoiceBatch
    assert batch["input_ids"].shape[:2] == (3, 2)
    assert batch["labels"].tolist() == [1, 1, 0]
    encode, bos, eos = tokenizer.encode, tokenizer.bos_id, tokenizer.eos_id
    expected = [
        [bos, *encode(question), eos, eos, *encode(article), eos]
        for article, *questions in [
            ("the cat sat on a mat", "The cat sat on a hill .", "The cat sat on a mat ."),
            ("dogs ran", "Who ran ? nobody", "Who ran ? dogs"),
            ("seven dogs", "How many ? seven", "How many ? none"),
        ]
        for question in questions
    ]
    flat, mask = batch["input_ids"].flatten(0, 1), batch["attention_mask"].flatten(0, 1)
    for row, ids in enumerate(expected):
        assert flat[row][mask[row] == 1].tolist() == ids
    assert data.train_samples.lengths(torch.arange(3).numpy()).tolist() == [
        max(map(len, expected[index : index + 2])) for index in (0, 2, 4)
    ]


def test_both_cuts_of_the_released_code(make: Any, tokenizer: Tokenizer) -> None:
    whole = next(iter(make(ROWS).prepare().train_dataloader()))["input_ids"][0, 0].tolist()
    question = [tokenizer.bos_id, *tokenizer.encode("The cat sat on a hill ."), tokenizer.eos_id]
    short = make(ROWS, max_question_length=5)
    cut = next(iter(short.train_dataloader()))["input_ids"][0, 0].tolist()
    assert cut[:6] == [*question[:5], tokenizer.eos_id]  # its own </s> is cut off, that of the article is not
    assert "cut to 512" in short.describe()["training"]
    total = make(ROWS, max_length=12)
    batch = next(iter(total.train_dataloader()))
    assert batch["input_ids"].shape[2] == 12
    assert batch["input_ids"][0, 0].tolist() == whole[:12]


def test_bert_has_types_and_one_separator(make: Any) -> None:
    batch = next(iter(make(ROWS, layout="bert").prepare().train_dataloader()))
    assert batch["token_type_ids"].shape == batch["input_ids"].shape
    roberta = next(iter(make(ROWS).prepare().train_dataloader()))
    assert "token_type_ids" not in roberta
    assert roberta["input_ids"].shape[2] == batch["input_ids"].shape[2] + 1


def test_fillers_and_the_baseline(make: Any) -> None:
    data = make(ROWS, validation_fraction=1.0, batch_size=2)
    labels = torch.cat([batch["labels"] for batch in data.val_dataloader()])
    assert (labels == IGNORED).tolist() == [False, False, False, True]
    assert data.baseline().loss == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"answer": "C"}, r"an answer must be one of A, B, or a number from 0 to 1, but in row 2 of `.*` it is 'C'"),
        ({"answer": 2}, "it is '2'"),
        ({"answer": None}, "every row must have a label, but in row 2"),
        ({"options": ["x"]}, r"as many options as the first \(2\), and at least two, but row 2 of `.*` has 1"),
        ({"options": []}, r"as many options as the first \(2\), and at least two, but row 2 of `.*` has 0"),
        ({"options": "dogs"}, "`options` must be a list of texts, but in row 2 of `.*` it is 'dogs'"),
        ({"options": {"A": "nobody", "B": "dogs"}}, "`options` must be a list of texts, but in row 2 of `.*` it is {"),
        ({"options": [None, "dogs"]}, "every option must have text, but in row 2 of `.*` one is None"),
        ({"options": ["nobody", " "]}, "every option must have text, but in row 2 of `.*` one is ' '"),
        ({"options": ["nobody", ["dogs"]]}, r"every option must have text, but in row 2 of `.*` one is \['dogs'\]"),
        ({"article": ""}, "every row must have text, but in row 2 of `.*` `article` is ''"),
    ],
)
def test_what_is_wrong_is_told(change: dict[str, Any], sentence: str, make: Any) -> None:
    with pytest.raises(InputError, match=sentence):
        make([ROWS[0], {**ROWS[1], **change}]).prepare()


def test_numbers_are_options_and_the_first_question_may_be_wrong_too(make: Any, tokenizer: Tokenizer) -> None:
    numbers = {"article": "seven dogs", "question": "How many ?", "options": [7, 0.5], "answer": 0}
    batch = next(iter(make([numbers] * 3).prepare().train_dataloader()))
    for choice, text in enumerate(["How many ? 7", "How many ? 0.5"]):
        ids = [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id, tokenizer.eos_id]
        assert batch["input_ids"][0, choice, : len(ids)].tolist() == ids
    with pytest.raises(InputError, match=r"`options` must be a list of texts, but in row 1 of `.*` it is 'dogs'"):
        make([{**ROWS[0], "options": "dogs"}, ROWS[1]]).prepare()


def test_a_missing_column_is_told(make: Any) -> None:
    with pytest.raises(InputError, match=r"which are article, question, options, but is `answer`"):
        make([{name: value for name, value in ROWS[0].items() if name != "answer"}]).prepare()


def test_race_as_it_is_published(tmp_path: Path, tokenizer: Tokenizer) -> None:
    content = {
        "article": "the cat sat",
        "questions": ["Who sat ?", "_ sat"],
        "options": [["the cat", "dogs", "nobody", "a hill"]] * 2,
        "answers": ["A", "D"],
    }
    for split in ("train", "dev"):
        for level in ("middle", "high"):
            (tmp_path / split / level).mkdir(parents=True)
            (tmp_path / split / level / "1.txt").write_text(json.dumps(content))
    data = MultipleChoiceDataModule(RaceFolder(tmp_path), tokenizer, cache_dir=tmp_path / "cache").prepare()
    assert (len(data.train_samples), len(data.validation_samples), data.num_choices) == (4, 4, 4)
    assert data.train_samples.labels.tolist() == [0, 3, 0, 3]
    only = MultipleChoiceDataModule(RaceFolder(tmp_path, levels=["high"]), tokenizer, cache_dir=tmp_path / "cache")
    assert len(only.train_samples) == 2
    with pytest.raises(InputError, match="must be a folder with `test/middle`"):
        RaceFolder(tmp_path, split="test")
    (tmp_path / "train/high/1.txt").write_text("{}")
    with pytest.raises(InputError, match="must hold one article of RACE"):
        MultipleChoiceDataModule(RaceFolder(tmp_path), tokenizer).prepare()
