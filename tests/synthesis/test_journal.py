"""Nothing is asked twice, and a line that was half written does no harm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmmodules.errors import InputError
from lmmodules.synthesis import Decoding, Journal
from lmmodules.synthesis.journal import attempt_key


def test_what_is_written_is_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "deep" / "attempts.jsonl")
    journal.append("a", {"completion": "one\ntwo \u4f60"})
    journal.append("b", {"completion": "three"})
    again = Journal(journal.path)
    assert (len(again), "a" in again, "c" in again) == (2, True, False)
    assert again["a"]["completion"] == "one\ntwo \u4f60"


def test_the_last_line_of_a_key_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "attempts.jsonl")
    journal.append("a", {"completion": "old"})
    journal.append("a", {"completion": "new"})
    assert Journal(journal.path)["a"]["completion"] == "new"


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_half_written_line_is_forgotten(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "attempts.jsonl"
    journal = Journal(path)
    journal.append("a", {"completion": "whole"})
    whole = path.read_bytes()
    journal.append("b", {"completion": "never finished"})
    path.write_bytes(path.read_bytes()[:-cut])
    resumed = Journal(path)
    assert ("a" in resumed, "b" in resumed) == (True, False)
    assert path.read_bytes() == whole
    resumed.append("c", {"completion": "next"})
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "c"]


def test_a_damaged_line_is_told(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    path.write_text('{"key": "a"}\n{"key\n{"key": "b"}\n')
    with pytest.raises(InputError, match=r"attempts.jsonl` is damaged in line 2; remove that line, or name another"):
        Journal(path)


def test_without_a_file() -> None:
    journal = Journal()
    journal.append("a", {"completion": "here"})
    assert journal["a"]["completion"] == "here"


def test_a_key_is_of_everything_that_a_completion_depends_on() -> None:
    base = ("model", "prompt", Decoding())
    others = [
        ("other", "prompt", Decoding()),
        ("model", "other", Decoding()),
        ("model", "prompt", Decoding(max_new_tokens=9)),
        ("model", "prompt", Decoding(temperature=0.5)),
        ("model", "prompt", Decoding(top_p=0.5)),
        ("model", "prompt", Decoding(stop=("x",))),
        ("model", "prompt", Decoding(seed=1)),
    ]
    assert attempt_key(*base) == attempt_key("model", "prompt", Decoding())
    assert len({attempt_key(*one) for one in [base, *others]}) == 8
