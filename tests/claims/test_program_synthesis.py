"""The claim about writing programs: what it asks for, and how answers are counted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from lmmodules.claims import program_synthesis
from lmmodules.claims.program_synthesis import (
    AS_IT_IS,
    ASKED_OF_IT,
    CLAIMS,
    DIRECT,
    EIGHT_OF_TEN,
    KINDS,
    PROGRAMS,
    TUNED,
    TUNED_QUESTIONS,
    WHAT_BECAME,
    WITH_EXAMPLES,
    asked_and_shown,
    solved,
)
from lmmodules.composition import compose_config
from lmmodules.data.math_questions import MathQuestion
from lmmodules.trial import Trial

CLAIM, FINE_TUNING = CLAIMS
SIZE = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}


@pytest.mark.parametrize("arm", list(CLAIM.arms))
@pytest.mark.parametrize("scale", ["cpu", "gpu"])
def test_its_runs_compose(arm: str, scale: str) -> None:
    config = compose_config("train", *CLAIM.overrides(scale), *CLAIM.arms[arm])
    assert config.data.target == {PROGRAMS: "program", DIRECT: "answer"}[arm]
    assert config.max_steps == {"cpu": 2000, "gpu": 20000}[scale]


def test_both_are_asked_the_same_held_out_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answered(run: SimpleNamespace, questions: list[MathQuestion], writes_programs: bool) -> float:
        asked.append(questions)
        return 0.8 if writes_programs else 0.2

    class Runs:
        seed = 4

        def train(self, arm: str, *overrides: str) -> SimpleNamespace:
            return SimpleNamespace(kept=lambda name, measure: measure(), loss=lambda name: 0.7, curve=lambda name: [])

    monkeypatch.setattr(program_synthesis, "solved", answered)
    figures = CLAIM.measure(Runs()).figures
    assert figures == {PROGRAMS: 0.8, DIRECT: 0.2, f"{PROGRAMS}: written to the letter": 0.7, ASKED_OF_IT: 0.6}
    assert asked[0] == asked[1]
    assert len(asked[0]) == 300
    assert all(rule.judge([figures]).held for rule in CLAIM.rules)


@pytest.mark.parametrize(
    ("writes_programs", "written", "share"),
    [(True, ["print(2 + 2)", "print(5)", "prin"], 1 / 3), (False, ["4", "5.0", "1/4"], 2 / 3)],
)
def test_answers_are_compared_as_mathematics(
    writes_programs: bool, written: list[str], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [MathQuestion("a", "", "4"), MathQuestion("b", "", "6"), MathQuestion("c", "", "0.25")]
    tokenizer = SimpleNamespace(encode=list, decode=lambda text: text, eos_id=0)
    monkeypatch.setattr("lmmodules.checkpoint.load", lambda path: None)
    monkeypatch.setattr("lmmodules.checkpoint.load_tokenizer", lambda path: tokenizer)
    monkeypatch.setattr("lmmodules.evaluation.generation.generate", lambda *given, **options: written)
    monkeypatch.setattr(
        "lmmodules.evaluation.program_execution.run_programs",
        lambda texts: [SimpleNamespace(output={"print(2 + 2)": "4", "print(5)": "5"}.get(text, "")) for text in texts],
    )
    run = SimpleNamespace(outcome={"diverged": ""}, directory=Path("run"))
    assert solved(run, questions, writes_programs) == pytest.approx(share)
    assert solved(SimpleNamespace(outcome={"diverged": "at step 3"}), questions, writes_programs) == 0.0


class TestFineTuning:
    @pytest.fixture
    def published(self, tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A Llama of random weights in the place of SmolLM2."""
        transformers = pytest.importorskip("transformers")
        tokenizers = pytest.importorskip("tokenizers")
        backend = tokenizers.ByteLevelBPETokenizer()
        files = [str(file) for file in texts.iterdir()]
        backend.train(files, vocab_size=300, special_tokens=["<s>", "</s>"], show_progress=False)
        folder = tmp_path / "published"
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=backend._tokenizer, bos_token="<s>", eos_token="</s>"
        ).save_pretrained(folder)
        config = transformers.LlamaConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
            tie_word_embeddings=True, **SIZE,
        )  # fmt: skip
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
        monkeypatch.setenv("LMM_SMOLLM2", str(folder))
        return folder

    def test_its_run_composes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LMM_SMOLLM2", "smollm2")
        config = compose_config("train", *FINE_TUNING.overrides("cpu"))
        assert config.model.weights == config.tokenizer.name == "smollm2"
        assert tuple(config.data.kinds) == KINDS
        assert config.max_steps * config.data.batch_size == 160

    def test_what_is_asked_is_not_trained_on(self) -> None:
        questions, examples = asked_and_shown(3)
        assert len(questions) == TUNED_QUESTIONS
        assert {question.topic for question in questions} == set(KINDS)
        assert not {question.source for question in questions} & {example.program for example in examples}
        keys = [one.key for one in questions] + [example.question.key for example in examples]
        assert len(set(keys)) == len(keys)
        assert asked_and_shown(3) == (questions, examples) != asked_and_shown(4)

    def test_the_whole_pipeline_before_and_after(
        self, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(program_synthesis, "TUNED_QUESTIONS", 3)
        monkeypatch.setattr(program_synthesis, "LONGEST", 4)
        small = ["max_steps=2", "validate_every_steps=2", "data.num_validation=2", "data.max_length=512"]
        trial = Trial(tmp_path / "runs", [*FINE_TUNING.overrides("cpu"), *small], seed=0)
        measured = FINE_TUNING.measure(trial)
        assert list(measured.figures) == [AS_IT_IS, WITH_EXAMPLES, TUNED, EIGHT_OF_TEN]
        assert measured.figures[TUNED] == 0.0
        assert [row["model"] for row in measured.tables[WHAT_BECAME]] == [AS_IT_IS, WITH_EXAMPLES, TUNED]
        for row in measured.tables[WHAT_BECAME]:
            assert sum(value for value in row.values() if isinstance(value, int)) == 3
        [run] = trial.runs
        assert len((run.directory / "attempts.jsonl").read_text().splitlines()) == 9  # alone, with examples, fine-tuned
        assert not (run.directory / "checkpoints").exists()
        assert FINE_TUNING.measure(trial) == measured  # nothing is trained or asked again

    def test_figures_are_counts_of_right_answers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        told = {f"{AS_IT_IS}: error": 24, f"{WITH_EXAMPLES}: correct": 6, f"{WITH_EXAMPLES}: wrong": 18}
        run = SimpleNamespace(
            directory=tmp_path, curve=lambda name: [], kept=lambda name, measure: told | {f"{TUNED}: correct": 24.0}
        )
        figures = FINE_TUNING.measure(SimpleNamespace(seed=0, train=lambda arm, *overrides: run)).figures
        assert figures == {AS_IT_IS: 0.0, WITH_EXAMPLES: 0.25, TUNED: 1.0, EIGHT_OF_TEN: 0.8}
        assert all(rule.judge([figures]).held for rule in FINE_TUNING.rules)
