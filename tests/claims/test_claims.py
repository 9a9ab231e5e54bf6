"""Every claim composes at every scale, and claims are found by name."""

from __future__ import annotations

import pytest

from lmmodules.claims import SCALES, Claim, all_claims, find_claims
from lmmodules.composition import compose_config
from lmmodules.errors import InputError

CLAIMS = all_claims()
BY_CLAIM = pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.stem)


@BY_CLAIM
def test_every_run_composes(claim: Claim) -> None:
    if not claim.arms:
        pytest.skip("trains nothing")
    configs = [compose_config("train", *claim.overrides("cpu"), *own) for own in claim.arms.values()]
    assert all(isinstance(config.max_steps, int) for config in configs)
    assert {config.trainer.accelerator for config in configs} == {"cpu"}
    assert len(set(map(str, configs))) == len(configs), "two runs of a claim are the same"
    large = compose_config("train", *claim.overrides("gpu"), *next(iter(claim.arms.values())))
    assert (large.trainer.accelerator, large.trainer.precision) == ("gpu", "bf16-mixed")


@BY_CLAIM
def test_it_says_what_it_is(claim: Claim) -> None:
    assert claim.statement.endswith(".")
    assert claim.reported.endswith(".")
    assert claim.rules
    assert set(claim.sizes) == set(SCALES)


@BY_CLAIM
def test_the_rules_are_about_its_runs(claim: Claim) -> None:
    if type(claim) is Claim:  # others name figures of their own
        assert {name for rule in claim.rules for name in (rule.first, rule.second)} <= set(claim.arms)


def test_stems_are_unique() -> None:
    stems = [claim.stem for claim in CLAIMS]
    assert len(set(stems)) == len(stems)
    assert {"bert_warmup", "roberta_dynamic_masking", "roberta_input_formats"} <= set(stems)


class TestFinding:
    def test_all(self) -> None:
        assert find_claims() == CLAIMS

    def test_by_paper(self) -> None:
        assert [claim.name for claim in find_claims("roberta")] == [
            "dynamic_masking",
            "input_formats",
            "sentence_pairs",
            "fine_tuning",
        ]

    def test_by_name(self) -> None:
        assert [claim.stem for claim in find_claims("roberta", "input_formats")] == ["roberta_input_formats"]
        assert [claim.stem for claim in find_claims(None, "warmup")] == ["bert_warmup"]

    def test_an_unknown_paper(self) -> None:
        papers = ", ".join(dict.fromkeys(claim.paper for claim in CLAIMS))
        with pytest.raises(InputError) as caught:
            find_claims("gpt5")
        assert str(caught.value).startswith(f"`paper` must be one of {papers}, but is `gpt5`; use `paper=")

    def test_an_unknown_claim(self) -> None:
        with pytest.raises(
            InputError,
            match="`claim` must be one of dynamic_masking, input_formats, sentence_pairs, fine_tuning, but is `x`",
        ):
            find_claims("roberta", "x")


def test_what_runs_share_stands_before_what_they_do_not(claim: Claim) -> None:
    assert claim.overrides("cpu") == ("objective=masked_lm", "trainer.accelerator=cpu", "max_steps=3")
    assert claim.overrides("gpu") == ("objective=masked_lm", "trainer.accelerator=gpu", "precision=bf16", "max_steps=9")
