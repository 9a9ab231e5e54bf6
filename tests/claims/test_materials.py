"""What claims need from outside is asked for by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmmodules.claims import all_claims
from lmmodules.claims.materials import MATERIALS, material, missing_materials, without_paths
from lmmodules.composition import compose_config


@pytest.mark.parametrize("claim", all_claims(), ids=lambda claim: claim.stem)
def test_needs_have_names(claim) -> None:  # type: ignore[no-untyped-def]
    assert set(claim.needs) <= set(MATERIALS)


def test_nothing_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LMM_REVIEWS", str(tmp_path))
    assert missing_materials(["LMM_REVIEWS"]) is None
    assert missing_materials([]) is None


def test_what_is_not_set_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LMM_REVIEWS", raising=False)
    told = missing_materials(["LMM_REVIEWS"])
    assert told is not None
    assert told.startswith("needs a table of film-review sentences")
    assert told.endswith("set `LMM_REVIEWS` to where it is")


def test_what_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMM_WORDNET", "no/such/place")
    told = missing_materials(["LMM_WORDNET"])
    assert told is not None
    assert "`LMM_WORDNET` names `no/such/place`, which does not exist" in told


def test_an_override_holds_the_name_and_not_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    override = f"data.path={material('LMM_REVIEWS')}"
    assert override == "data.path=${oc.env:LMM_REVIEWS}"
    monkeypatch.setenv("LMM_REVIEWS", "here.tsv")
    assert compose_config("train", "experiment=fine_tuning", "data=labelled", override).data.path == "here.tsv"


def test_no_path_of_a_machine_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LMM_REVIEWS", str(tmp_path))
    monkeypatch.delenv("LMM_WORDNET", raising=False)
    told = without_paths(f"rows: {tmp_path}/reviews.tsv", ["LMM_REVIEWS", "LMM_WORDNET"])
    assert told == "rows: $LMM_REVIEWS/reviews.tsv"
    assert without_paths(f"rows: {tmp_path}", []) == f"rows: {tmp_path}"
