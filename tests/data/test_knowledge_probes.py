"""Facts become prompts: which are kept, in which order, and what is said of files that are not right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmmodules.data import ByteLevelBPE, Tokenizer
from lmmodules.data.facts import LamaFiles, UnicodeFacts
from lmmodules.data.knowledge_probes import KnowledgeProbes
from lmmodules.errors import InputError

LAMA = Path(__file__).resolve().parents[3] / "shared" / "data" / "lama_sample"
TONGUES = ["French", "Dutch", "French", "French", "Greek", "French", "Dutch", "French"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two relations in LAMA's format, written for this test."""
    for relation in ("R1", "R2"):
        (tmp_path / relation).mkdir()
        for split, objects in (
            ("train", TONGUES * 4),
            ("dev", [*TONGUES, "Old Etruscan"]),
            ("test", ["Dutch", "Greek"]),
        ):
            rows = [{"sub_label": f"person {place}", "obj_label": name} for place, name in enumerate(objects)]
            text = "\n".join(json.dumps(row) for row in rows)
            (tmp_path / relation / f"{split}.jsonl").write_text(text + "\n")
    rows = [{"relation": name, "template": "The tongue of [X] is [Y] ."} for name in ("R1", "R2")]
    (tmp_path / "relations.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return tmp_path


def probes(folder: Path, **arguments) -> KnowledgeProbes:
    recipe = ByteLevelBPE(vocab_size=290)
    return KnowledgeProbes(path=folder, tokenizer=recipe, cache_dir=folder / "cache", **arguments)


@pytest.fixture
def tokenizer(folder: Path) -> Tokenizer:
    """With a token for ` French` and ` Dutch`, and none for ` Greek`."""
    return probes(folder, skip_long_objects=True).prepare().tokenizer


@pytest.mark.parametrize(
    ("arguments", "query"),
    [
        ({}, "<P><P><P> Paris<P><P><P><target><P><P><P>"),
        ({"order": "official"}, "<P><P><P><target><P><P><P> Paris<P><P><P>"),
        ({"prompt_tokens": (3, 3, 0)}, "<P><P><P> Paris<P><P><P><target> ."),
        ({"causal": True}, "<P><P><P> Paris<P><P><P><target>"),
        ({"template": "manual"}, "The tongue of Paris is<target> ."),
        ({"template": "manual", "causal": True}, "The tongue of Paris is<target>"),
        ({"template": "{subject} {prompt} : {target}"}, "Paris<P> :<target>"),
    ],
)
def test_queries(folder: Path, arguments: dict, query: str) -> None:
    assert probes(folder, **arguments).template_of("R1").fill({"subject": "Paris"}) == query


def test_a_row_and_its_settings(folder: Path, tokenizer: Tokenizer) -> None:
    data = KnowledgeProbes(path=folder, tokenizer=tokenizer, causal=True, skip_long_objects=True).prepare()
    kept = [name for name in TONGUES * 4 if len(tokenizer.encode(f" {name}")) == 1]
    assert [fact.object for fact in data.facts["train"]] == kept * 2
    assert data.objective_settings == {"tasks": ["R1", "R2"], "prompt_lengths": [6, 6]}
    second = data.train_samples.rows[len(kept)]
    assert [prompt for prompt in second.prompt_ids if prompt >= 0] == list(range(6, 12))
    assert tokenizer.decode([second.labels[-1]]) == f" {kept[0]}"


def test_objects_that_may_not_answer_are_left_out(folder: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="skip_long_objects=true"):
        KnowledgeProbes(path=folder, tokenizer=tokenizer, causal=True).prepare()
    (folder / "29k-vocab.json").write_text(json.dumps({"one": ["ĠFrench"], "two": ["French", "Dutch"]}))
    for model, objects in ((None, {"French"}), ("two", {"French", "Dutch"})):
        data = KnowledgeProbes(
            path=folder, tokenizer=tokenizer, causal=True, vocabulary="shared", vocabulary_model=model
        ).prepare()
        assert {fact.object for fact in data.facts["train"]} == objects
        batch = next(iter(data.train_dataloader()))
        assert {tokenizer.decode([token]).strip() for token in batch["candidate_ids"].tolist()} == objects
    with pytest.raises(InputError, match="34k-vocab"):
        KnowledgeProbes(path=folder, tokenizer=tokenizer, vocabulary="lama").prepare()


def test_the_most_frequent_object(folder: Path, tokenizer: Tokenizer) -> None:
    data = KnowledgeProbes(path=folder, tokenizer=tokenizer, causal=True, skip_long_objects=True).prepare()
    objects = [fact.object for fact in data.facts["validation"]]
    assert data.majority() == [objects.count("French") / len(objects)] * 2


def test_files_that_are_not_right(folder: Path) -> None:
    with pytest.raises(InputError, match="R1, R2, but names R3"):
        probes(folder, relations=["R3"]).prepare()
    (folder / "R2" / "dev.jsonl").write_text('{"sub_label": "x"}\n')
    with pytest.raises(InputError, match="a text `obj_label` in every line, but line 1"):
        probes(folder).prepare()
    (folder / "R2" / "dev.jsonl").write_text("nonsense\n")
    with pytest.raises(InputError, match="JSON object in every line"):
        probes(folder).prepare()
    (folder / "R2" / "dev.jsonl").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        probes(folder).prepare()
    with pytest.raises(InputError, match="that holds RELATION"):
        probes(folder / "R1").prepare()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"causal": True, "order": "official"}, "`data.order` must be paper where a causal model does not see"),
        ({"template": "manual", "order": "official"}, "`data.order` must be paper where `data.template` is given"),
    ],
)
def test_an_order_without_effect_is_refused(folder: Path, arguments: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        probes(folder, **arguments)


def test_an_empty_template_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"`data.template` must have one \{target\}, but '' has none"):
        probes(folder, template="").prepare()


def test_options_out_of_range(folder: Path) -> None:
    for arguments in ({"order": "other"}, {"vocabulary": "x"}, {"validation_split": "y"}, {"prompt_tokens": (1, 2)}):
        with pytest.raises(InputError, match=f"data.{next(iter(arguments))}"):
            probes(folder, **arguments)
    with pytest.raises(InputError, match="names object"):
        probes(folder, template="{object} {target}").template_of("R1")


def test_the_facts_of_unicode_are_divided() -> None:
    source = UnicodeFacts(step=50)
    parts = [{fact.subject for fact in source.facts("kind", split)} for split in ("train", "dev", "test")]
    assert all(parts)
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert {fact.object for fact in source.facts("direction", "train")} <= {"left", "right"}


@pytest.mark.skipif(not LAMA.is_dir(), reason="LAMA's facts are not part of this package")
def test_the_real_files() -> None:
    source = LamaFiles(LAMA)
    assert len(source.facts("P103", "train")) == 800
    assert source.sentence("P103") == "The native language of [X] is [Y] ."
