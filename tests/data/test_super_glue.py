"""Tasks of SuperGLUE become rows of their patterns; what lacks something is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmmodules.data import ByteLevelBPE
from lmmodules.data.super_glue import SuperGlue
from lmmodules.data.super_glue_patterns import MultiRC, read_examples
from lmmodules.errors import InputError

FEW = Path(__file__).resolve().parents[3] / "shared" / "data" / "few_glue_32dev"
PREMISE = "A cat sat on a mat near the door of a house."
ROWS = {
    "rte": {"premise": PREMISE, "hypothesis": "A cat sat.", "label": "entailment"},
    "cb": {"premise": PREMISE, "hypothesis": "a cat sat", "label": "neutral"},
    "boolq": {"passage": PREMISE, "question": "did a cat sit", "label": True},
    "wic": {"sentence1": "A mat.", "sentence2": "His mat.", "word": "mat", "label": False},
    "copa": {
        "premise": "The cat sat.",
        "choice1": "It slept.",
        "choice2": "It ran.",
        "question": "effect",
        "label": 0,
    },
    "wsc": {
        "text": "The cat sat because it slept .",
        "target": {"span1_text": "The cat", "span2_text": "it", "span1_index": 0, "span2_index": 4},
        "label": True,
    },
    "multirc": {
        "idx": 3,
        "passage": {
            "text": PREMISE,
            "questions": [
                {"question": "Who sat?", "answers": [{"text": "A cat", "label": 1}, {"text": "Me", "label": 0}]}
            ],
        },
    },
}
TOLD = {
    "rte": PREMISE + " Question: A cat sat?<P> Answer:<target>.",
    "cb": PREMISE + "<sep>a cat sat?<P> answer:<target>",
    "boolq": PREMISE + ".<P> Question: did a cat sit? Answer:<target>.",
    "wic": "A mat.<sep>His mat.<P>*mat *?<target>",
    "copa": "it slept or it ran? The cat sat so<P><target>.",
    "wsc": "<P> The cat sat because *it* slept .<P> pronoun '*it*' refers to<target>.",
    "multirc": PREMISE + ". Question: Who sat? Is it A cat?<P><target>.",
}


def task_in(folder: Path, task: str, rows: list[dict] | None = None, **arguments) -> SuperGlue:
    for name in ("train", "dev32"):
        text = "\n".join(json.dumps(row) for row in (rows or [ROWS[task]] * 3))
        (folder / f"{name}.jsonl").write_text(text)
    recipe = ByteLevelBPE(vocab_size=265)
    return SuperGlue(task, folder, recipe, cache_dir=folder / "cache", **arguments)


@pytest.mark.parametrize("task", sorted(ROWS))
def test_patterns(task: str, tmp_path: Path) -> None:
    data = task_in(tmp_path, task, verbalizer={"not_entailment": "N", "entailment": "Y"} if task == "rte" else None)
    data.examples["train"] = list(data.pattern.examples(ROWS[task]))
    assert data.prompt_template.fill(data.examples["train"][0].fields) == TOLD[task]


def test_choices_are_swapped_for_training_alone(tmp_path: Path) -> None:
    data = task_in(tmp_path, "copa").prepare()
    assert data.train_samples.classes.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.validation_samples.classes.tolist() == [0, 0, 0]
    assert len(task_in(tmp_path, "copa", swap_choices=False).prepare().train_samples) == 3
    batch = next(iter(data.val_dataloader()))
    assert batch["input_ids"].shape[:2] == (16, 2)
    assert int((batch["classes"] >= 0).sum()) == 3  # the others fill up the batch


def test_only_right_rows_of_wsc_are_learned_and_all_are_graded(tmp_path: Path) -> None:
    wrong = {**ROWS["wsc"], "label": False}
    data = task_in(tmp_path, "wsc", [ROWS["wsc"], wrong]).prepare()
    assert len(data.train_samples) == len(data.validation_samples) == 1
    assert data.graded_samples.classes.tolist() == [1, 0]


def test_names_of_wsc_have_more_masks_than_tokens(tmp_path: Path) -> None:
    data = task_in(tmp_path, "wsc", [ROWS["wsc"]] * 5).prepare()
    name = data.tokenizer.encode(" The cat")
    masks = [row.input_ids.count(data.tokenizer.mask_id) - len(name) for row in data.train_samples.rows]
    assert masks == [0, 1, 2, 3, 0]
    asked = [label for label in data.train_samples.rows[2].labels if label != -100]
    assert asked == [*name, data.tokenizer.pad_id, data.tokenizer.pad_id]
    for samples in (data.validation_samples, data.graded_samples):
        assert {row.input_ids.count(data.tokenizer.mask_id) - len(name) for row in samples.rows} == {1}


def test_a_causal_model_writes_a_token_more_than_the_name(tmp_path: Path) -> None:
    data = task_in(tmp_path, "wsc", causal=True).prepare()
    name = data.tokenizer.encode(" The cat")
    learned, graded = (
        [label for label in samples.rows[0].labels if label != -100]
        for samples in (data.train_samples, data.graded_samples)
    )
    assert learned == name
    assert len(graded) == len(name) + 1


def test_answers_know_their_question(tmp_path: Path) -> None:
    row = ROWS["multirc"]
    more = {**row["passage"], "questions": row["passage"]["questions"] * 2}
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, [row, {"passage": more}])))
    examples = read_examples(MultiRC(), tmp_path / "train.jsonl")
    assert [example.group for example in examples] == [(1, 0)] * 2 + [(2, 0)] * 2 + [(2, 1)] * 2


def test_words_of_several_tokens_are_refused(tmp_path: Path) -> None:
    words = {"not_entailment": "Unquestionably", "entailment": "Yes"}
    with pytest.raises(InputError, match="'Unquestionably' for not_entailment is 1"):
        task_in(tmp_path, "rte", verbalizer=words).prepare()


@pytest.mark.parametrize(
    ("task", "words", "sentence"),
    [
        (
            "rte",
            {"entailment": "Y"},
            "must have words for not_entailment, entailment in rte, but is {'entailment': 'Y'}",
        ),
        ("rte", {"not_entailment": "N", "entailment": "Y", "maybe": "M"}, "must have words for not_entailment, entail"),
        ("rte", {"not_entailment": "N", "entailment": []}, "must have words for not_entailment, entailment in rte"),
        ("rte", {}, "use `data.verbalizer={not_entailment:No,entailment:Yes}`"),
        (
            "wsc",
            {"true": "Yes"},
            "must have words for no class in wsc, but is {'true': 'Yes'}; use `data.verbalizer=null`",
        ),
        (
            "rte",
            {"not_entailment": "N", "entailment": "N"},
            "by words of its own, but 'N' says not_entailment and entail",
        ),
        ("rte", {"not_entailment": ["N", "Y"], "entailment": ["Y"]}, "'Y' says not_entailment and entailment"),
    ],
)
def test_verbalizers_that_cannot_tell_classes_apart_are_refused(
    task: str, words: dict, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        task_in(tmp_path, task, verbalizer=words).prepare()
    assert sentence in str(caught.value)


def test_an_empty_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must have one \{target\}, but '' has none"):
        task_in(tmp_path, "rte", template="").prepare()


def test_rows_that_lack_something_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'hypothesis' in every row of RTE, but line 1"):
        task_in(tmp_path, "rte", [{"premise": "x", "label": "entailment"}]).prepare()
    with pytest.raises(InputError, match="a label in every row"):
        task_in(tmp_path, "rte", [{"premise": "x", "hypothesis": "y"}]).prepare()
    with pytest.raises(InputError, match="a row of maybe"):
        task_in(tmp_path, "rte", [{"premise": "x", "hypothesis": "y", "label": "maybe"}]).prepare()
    with pytest.raises(InputError, match="as SuperGLUE's RTE has them, but line 1"):
        task_in(tmp_path, "rte", [{"premise": "x", "hypothesis": None, "label": "entailment"}]).prepare()
    with pytest.raises(InputError, match="the labels 0 and 1, but has a row of 2"):
        task_in(tmp_path, "copa", [{**ROWS["copa"], "label": 2}]).prepare()
    with pytest.raises(InputError, match="must be one of boolq"):
        SuperGlue("record", tmp_path)


@pytest.mark.skipif(not FEW.is_dir(), reason="the rows of FewGLUE are not part of this package")
@pytest.mark.parametrize(
    ("task", "counts"), [("rte", [19, 13]), ("cb", [10, 19, 3]), ("boolq", [14, 18]), ("wic", [15, 17])]
)
def test_the_real_files(task: str, counts: list[int]) -> None:
    data = SuperGlue(task, FEW)
    path = FEW / {"rte": "RTE", "cb": "CB", "boolq": "BoolQ", "wic": "WiC"}[task] / "train.jsonl"
    labels = [
        example.label for line in path.read_text().splitlines() for example in data.pattern.examples(json.loads(line))
    ]
    assert [labels.count(name) for name in data.classes] == counts
