"""Pairs of question and program as batches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lmmodules.batch import IGNORED
from lmmodules.data.math_pairs import MathPairs
from lmmodules.data.math_questions import MathQuestion
from lmmodules.data.math_samples import PairLayout, PairSamples
from lmmodules.data.single_digit_bpe import SingleDigitBPE
from lmmodules.errors import InputError


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> MathPairs:
    cache = tmp_path_factory.mktemp("cache")
    return MathPairs(SingleDigitBPE(vocab_size=400), num_train=50, num_validation=20, cache_dir=cache).prepare()


def test_the_papers_prompt_is_given_and_the_program_and_its_end_are_learned(pairs: MathPairs) -> None:
    tokenizer = pairs.tokenizer
    [question] = pairs.made.first(1)
    batch = pairs.train_samples[np.array([0]), np.array([0])]
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    prompt = f'"""\nwrite a program that answers the following question: {question.question}\n"""\n'
    length = len(tokenizer.encode(prompt))
    assert tokenizer.decode(ids[:length]) == prompt
    assert tokenizer.decode(ids[length:]) == question.program
    assert labels[: length - 1] == [IGNORED] * (length - 1)
    assert labels[length - 1 :] == [*ids[length:], tokenizer.eos_id]
    assert "attention_mask" not in batch


def test_padding_is_known_by_length_even_where_it_is_the_end_token(pairs: MathPairs) -> None:
    batch = pairs.train_samples[np.zeros(8, dtype=np.int64), np.arange(8)]
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        length = int(mask.sum())
        assert (mask[:length] == 1).all()
        assert (ids[length:] == pairs.tokenizer.pad_id).all()
        assert (labels[length:] == IGNORED).all()
        assert labels[length - 1] == pairs.tokenizer.eos_id


def test_epochs_have_questions_of_their_own_and_validation_stays(pairs: MathPairs) -> None:
    def texts(samples: PairSamples, epoch: int) -> list[str]:
        batch = samples[np.full(4, epoch), np.arange(4)]
        return [pairs.tokenizer.decode(ids) for ids in batch["input_ids"].tolist()]

    assert texts(pairs.train_samples, 0) != texts(pairs.train_samples, 1)
    assert texts(pairs.validation_samples, 0) == texts(pairs.validation_samples, 1)


def test_a_sample_that_does_not_count_has_no_label(pairs: MathPairs) -> None:
    batch = pairs.validation_samples[np.zeros(2, dtype=np.int64), np.array([1, -1])]
    assert (batch["labels"][1] == IGNORED).all()
    assert (batch["labels"][0] != IGNORED).any()


def test_a_long_question_loses_its_beginning_and_a_long_program_the_pair(pairs: MathPairs) -> None:
    question = MathQuestion(" ".join(f"word{n}" for n in range(50)) + " end?", "print(1)", "1")
    layout = PairLayout(pairs.tokenizer, max_length=100)
    [found] = layout.pairs([question])
    assert found is not None
    prompt, target = found
    assert len(prompt) + len(target) <= 100
    assert pairs.tokenizer.decode(prompt).endswith(' end?\n"""\n')
    assert "word0 " not in pairs.tokenizer.decode(prompt)
    assert pairs.tokenizer.decode(target) == "print(1)"
    [left_out] = layout.pairs([MathQuestion("short", "print(1)\n" * 100, "1")])
    assert left_out is None


def test_a_model_that_answers_directly_is_given_the_bare_question(pairs: MathPairs) -> None:
    direct = MathPairs(pairs.tokenizer, target="answer", num_train=5, num_validation=5).prepare()
    [question] = direct.made.first(1)
    ids = direct.train_samples[np.array([0]), np.array([0])]["input_ids"][0].tolist()
    assert direct.tokenizer.decode(ids) == f"{question.question}\n{question.answer}"


def test_digits_stand_by_themselves(pairs: MathPairs) -> None:
    ids = pairs.tokenizer.encode("print(12345)")
    assert [pairs.tokenizer.decode([token]) for token in ids][-6:-1] == list("12345")


def test_pairs_of_a_file(tmp_path: Path) -> None:
    rows = [{"question": f"What is {n} plus {n}?", "program": f"print({n} + {n})"} for n in range(40)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = MathPairs(SingleDigitBPE(vocab_size=270), path=file, validation_fraction=0.3, cache_dir=tmp_path).prepare()
    assert len(data.train_samples) + len(data.validation_samples) == 40
    assert min(len(data.train_samples), len(data.validation_samples)) > 3
    batch = data.train_samples[np.array([0]), np.array([0])]
    assert " plus " in data.tokenizer.decode(batch["input_ids"][0].tolist())
    assert "pairs" in data.describe()["training"]
    with pytest.raises(InputError, match="answer"):
        MathPairs(path=file, target="answer", cache_dir=tmp_path).prepare()
    with pytest.raises(InputError, match=r"`data.path` must have rows enough for validation, but none of its 40"):
        MathPairs(path=file, validation_fraction=1e-9, cache_dir=tmp_path).prepare()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target": "proof"}, "`data.target` must be one of program, answer, but is proof"),
        ({"prompt_style": "song"}, "`prompt_style` must be one of docstring, comment, instruction, but is song"),
        ({"num_train": 0}, "`data.num_train` must be"),
        ({"validation_fraction": 0.0}, "use `data.validation_fraction=0.1`"),
    ],
)
def test_a_wrong_option_is_one_sentence(pairs: MathPairs, options: dict, sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        MathPairs(pairs.tokenizer, **{"num_train": 5, "num_validation": 5, **options}).prepare()
    assert sentence in str(refused.value)
