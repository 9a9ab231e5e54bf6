from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lmmodules.data import ByteLevelBPE, Corpus, CorpusDataModule
from lmmodules.data.fim import FillInTheMiddle
from lmmodules.data.fim_sentinels import Sentinels
from lmmodules.errors import InputError
from lmmodules.evaluation.gaps import gaps_of, similarity, take_line, take_span
from lmmodules.evaluation.human_eval_infilling import HumanEvalInfilling
from lmmodules.evaluation.infill import Middle
from lmmodules.evaluation.infilling import Infilling, compare, sentinels_of
from lmmodules.evaluation.middle_loss import middle_loss
from lmmodules.models import Transformer
from lmmodules.objectives import CausalLM
from lmmodules.objectives.fim import FIM

NAMES = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]


class Numbered(Corpus):
    """Documents of lines that say their number."""

    def documents(self):
        for document in range(30):
            yield "".join(f"line {number} of {document}\n" for number in range(20))

    def fingerprint(self) -> str:
        return "numbered"

    def describe(self) -> str:
        return "numbered lines"


@pytest.fixture(scope="module")
def data() -> CorpusDataModule:
    return CorpusDataModule(
        Numbered(), ByteLevelBPE(280, special_tokens=NAMES), FillInTheMiddle(), max_length=96, validation_fraction=0.3
    ).prepare()


@pytest.fixture
def objective(data: CorpusDataModule) -> FIM:
    torch.manual_seed(0)
    return FIM(Transformer(vocab_size=data.vocab_size, hidden_size=16, num_layers=1, num_heads=2, causal=True)).eval()


def test_gaps_are_taken_from_held_out_text(data: CorpusDataModule) -> None:
    held_out = data.validation_samples
    text = data.tokenizer.decode(held_out.store.tokens[:].tolist())
    for kind in ("single_line", "random_span"):
        gaps = gaps_of(data, kind, num_gaps=40, max_gap=30, context=60, seed=0)
        assert len(gaps) == 40
        for gap in gaps:
            assert gap.prefix + gap.middle + gap.suffix in text
            assert gap.prefix
            assert gap.suffix
            assert 1 <= len(gap.middle) <= 30
            assert kind == "random_span" or (
                gap.prefix.endswith("\n") and gap.middle.index("\n") == len(gap.middle) - 1
            )
        assert gaps == gaps_of(data, kind, num_gaps=40, max_gap=30, context=60, seed=0)
        assert gaps != gaps_of(data, kind, num_gaps=40, max_gap=30, context=60, seed=1)


def test_what_has_no_gap() -> None:
    generator = np.random.default_rng(0)
    assert take_line("one\n\n  \nthree\n", 80, generator) is None, "only blank lines between"
    assert take_line("one\ntwo\n", 80, generator) is None
    assert take_line(f"one\n{'x' * 80}\nthree\n", 80, generator) is None
    assert take_span("ab", 80, generator) is None
    gap = take_span("abc", 80, generator)
    assert gap is not None
    assert (gap.prefix, gap.middle, gap.suffix) == ("a", "b", "c")


def test_too_few_gaps_are_told() -> None:
    class OneLine(Numbered):
        def documents(self):
            yield "no line break in any of this text, which goes on and on and on " * 40

        def fingerprint(self) -> str:
            return "one line"

    data = CorpusDataModule(OneLine(), ByteLevelBPE(270, special_tokens=NAMES), max_length=64).prepare()
    with pytest.raises(InputError, match=r"`num_gaps` \(5\) gaps of the kind single_line in reach, but has 0"):
        gaps_of(data, "single_line", num_gaps=5, max_gap=80, context=40, seed=0)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("", "", 1),
        ("abc", "abc", 1),
        ("abc", "", 0),
        ("abc", "xyz", 0),
        ("kitten", "sitting", 1 - 3 / 7),
        ("ab", "b", 0.5),
    ],
)
def test_similarity_is_one_minus_the_edit_distance(first: str, second: str, expected: float) -> None:
    assert similarity(first, second) == pytest.approx(expected)
    assert similarity(second, first) == pytest.approx(expected)


def test_compare_takes_means(data: CorpusDataModule) -> None:
    gaps = gaps_of(data, "single_line", num_gaps=4, max_gap=30, context=60, seed=0)
    texts = [gap.middle for gap in gaps[:3]] + [""]
    assert compare(texts, gaps) == {"exact_match": 0.75, "similarity": 0.75}


def test_the_loss_of_a_middle_is_that_of_its_tokens(objective: FIM) -> None:
    prompts, middles = [[2, 5, 9], [7], [1, 2, 3, 4, 5]], [[4, 8], [1, 2, 3], [6]]
    nats = []
    for prompt, middle in zip(prompts, middles, strict=True):
        logits = objective({"input_ids": torch.tensor([prompt + middle])})[0]
        nats += F.cross_entropy(logits[len(prompt) - 1 : -1], torch.tensor(middle), reduction="none").tolist()
    for batch_size in (1, 2, 3):
        found = middle_loss(objective, prompts, middles, batch_size=batch_size)
        assert found == pytest.approx(sum(nats) / 6, rel=1e-5)


def test_figures_of_a_model_that_knows_nothing(objective: FIM, data: CorpusDataModule) -> None:
    figures = Infilling(num_gaps=6, max_gap=20, max_new_tokens=24, batch_size=4)(objective, data)
    for kind in ("single_line", "random_span"):
        assert figures[f"{kind}/gaps"] == 6
        assert figures[f"{kind}/middle_loss"] == pytest.approx(np.log(280), rel=0.1)
        for name in ("exact_match", "similarity", "exact_match_without_suffix", "similarity_without_suffix", "ended"):
            assert 0 <= figures[f"{kind}/{name}"] <= 1
    assert not [name for name in figures if name.startswith("human_eval")]


def test_options_change_what_is_measured(objective: FIM, data: CorpusDataModule) -> None:
    def figures(**options) -> dict[str, float]:
        return Infilling(**{"num_gaps": 4, "max_gap": 20, "max_new_tokens": 24, **options})(objective, data)

    plain = figures()
    assert figures() == plain
    assert figures(batch_size=1)["random_span/middle_loss"] == pytest.approx(plain["random_span/middle_loss"], rel=1e-5)
    for options in ({"seed": 1}, {"order": "psm"}, {"max_gap": 14}, {"num_gaps": 5}):
        assert figures(**options)["random_span/middle_loss"] != plain["random_span/middle_loss"], options


def test_benchmark_and_model_meet(objective: FIM, data: CorpusDataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def benchmark(self, fill):
        middles = fill([("def f():\n", "    return x\n")] * 3)
        assert all(isinstance(middle, Middle) for middle in middles)
        asked.extend((middle.text, "") for middle in middles)
        return {"human_eval/single_line/pass@1": 0.5}

    monkeypatch.setattr(HumanEvalInfilling, "__call__", benchmark)

    def drawn(**options) -> list[str]:
        asked.clear()
        chosen = {"temperature": 3.0, **options}
        infilling = Infilling(num_gaps=1, max_gap=20, max_new_tokens=24, human_eval=HumanEvalInfilling(), **chosen)
        assert infilling(objective, data)["human_eval/single_line/pass@1"] == 0.5
        return [text for text, _ in asked]

    first = drawn()
    assert len(set(first)) == 3
    assert drawn(top_p=0.01) != first
    assert len(set(drawn(temperature=0.0))) == 1


def test_refusals(data: CorpusDataModule, objective: FIM) -> None:
    with pytest.raises(InputError, match="a `CausalLM` never saw the sentinels; train one with `objective=fim`"):
        Infilling()(CausalLM(objective.backbone), data)
    with pytest.raises(InputError, match=r"use `evaluation\.max_new_tokens=24`"):
        Infilling(max_new_tokens=90)(objective, data)
    for name in ("num_gaps", "max_gap", "max_new_tokens", "batch_size"):
        with pytest.raises(InputError, match=f"`{name}` must be a whole number, at least 1, but is 0"):
            Infilling(**{name: 0})
    with pytest.raises(InputError, match="`order` must be one of psm, spm, but is 'mps'"):
        Infilling(order="mps")


def test_sentinels_are_those_that_training_had(data: CorpusDataModule) -> None:
    usual = Sentinels.of(data.tokenizer)
    assert sentinels_of(data) == usual
    transform = FillInTheMiddle(prefix_token=NAMES[1], suffix_token=NAMES[0])
    other = sentinels_of(SimpleNamespace(tokenizer=data.tokenizer, transform=transform))
    assert (other.prefix, other.suffix) == (usual.suffix, usual.prefix)


def test_what_no_context_holds_is_left_out_and_the_rest_is_filled(objective: FIM, data: CorpusDataModule) -> None:
    infilling, sentinels = Infilling(num_gaps=1, max_new_tokens=24, temperature=0.0), sentinels_of(data)
    pairs = [("a", "b"), ("a", "x y " * 300), ("line 1 of ", "2")]
    found = infilling._fill_what_fits(objective, data, sentinels, pairs)
    assert found[1] is None
    assert [found[0], found[2]] == infilling._fill(objective, data, sentinels, [pairs[0], pairs[2]], temperature=0.0)
