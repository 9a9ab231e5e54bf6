"""Drori et al. (2022): that networks which write programs answer more than those which answer by themselves."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from lmmodules.claims.base import Claim, Measurement
from lmmodules.claims.materials import material
from lmmodules.claims.rules import Below

if TYPE_CHECKING:
    from lmmodules.data.math_questions import MathQuestion
    from lmmodules.synthesis import Example, Question
    from lmmodules.trial import FinishedRun, Trial

PROGRAMS, DIRECT, ASKED_OF_IT = "programs", "direct answers", "six of ten"
QUESTIONS = 300
LONGEST = 120
"""Tokens that may be written."""

AS_IT_IS, WITH_EXAMPLES, TUNED = "as it is", "with five examples", "fine-tuned"
EIGHT_OF_TEN = "eight of ten"
TUNED_QUESTIONS, EXAMPLES = 24, 120
KINDS = (
    "derivative_at",
    "characteristic_roots",
    "cross_product",
    "power_remainder",
    "defects",
    "lattice_paths",
)
"""Of question: one of each subject."""
WHAT_BECAME = "What became of the questions"


@dataclass(frozen=True)
class SolvingClaim(Claim):
    """Trains the same network to write programs and to answer, and asks both the same held-out questions."""

    def measure(self, trial: Trial) -> Measurement:
        """Share of held-out questions answered rightly by what is decoded greedily.

        Args:
            trial: Trains the runs of the seed.
        """
        from lmmodules.data.math_questions import MathQuestions

        questions = MathQuestions(seed=trial.seed).first(QUESTIONS, held_out=True)
        runs = {arm: trial.train(arm, *overrides) for arm, overrides in self.arms.items()}
        figures = {}
        for arm, run in runs.items():

            def measure(arm: str = arm, run: FinishedRun = run) -> dict[str, float]:
                return {"solved": solved(run, questions, arm == PROGRAMS)}

            figures[arm] = run.kept("solved", measure)["solved"]
        figures[f"{PROGRAMS}: written to the letter"] = runs[PROGRAMS].loss("val/written_exactly")
        return Measurement(
            figures | {ASKED_OF_IT: 0.6}, {arm: run.curve("val/written_exactly") for arm, run in runs.items()}
        )


def solved(run: FinishedRun, questions: list[MathQuestion], writes_programs: bool) -> float:
    """The share of questions that a run answers rightly, decoding greedily.

    Args:
        run: Of `objective=program_synthesis`.
        questions: With answers.
        writes_programs: Whether what it writes is run, or is the answer.
    """
    from lmmodules.checkpoint import load, load_tokenizer
    from lmmodules.data.math_prompts import direct_prompt, docstring_prompt
    from lmmodules.evaluation.answers import compare, extract_answer
    from lmmodules.evaluation.generation import generate
    from lmmodules.evaluation.program_execution import run_programs
    from lmmodules.objectives import LanguageModel

    if run.outcome["diverged"]:
        return 0.0
    tokenizer = load_tokenizer(run.directory)
    prompt = docstring_prompt if writes_programs else direct_prompt
    prompts = [tokenizer.encode(prompt(question.question)) for question in questions]
    model = cast(LanguageModel, load(run.directory))
    written = generate(model, prompts, max_new_tokens=LONGEST, greedy=True, stop_ids=[tokenizer.eos_id])
    texts = [tokenizer.decode(ids) for ids in written]
    answers = [extract_answer(ran.output).text for ran in run_programs(texts)] if writes_programs else texts
    right = [
        compare(answer or "", question.answer).correct for answer, question in zip(answers, questions, strict=True)
    ]
    return sum(right) / len(right)


@dataclass(frozen=True)
class FineTuning(Claim):
    """Puts the same held-out questions to a published model before and after it has learned from others."""

    def measure(self, trial: Trial) -> Measurement:
        """Share of held-out questions that are solved by the whole pipeline, from prompt to verdict.

        Args:
            trial: Trains the run of the seed.
        """
        from lmmodules.synthesis.verdicts import VERDICTS
        from lmmodules.trial import drop_checkpoints

        run = trial.train(TUNED, *self.arms[TUNED])
        counts = run.kept("verdicts", lambda: dict(verdicts(run, trial.seed)))
        drop_checkpoints(run)
        arms = (AS_IT_IS, WITH_EXAMPLES, TUNED)
        figures = {arm: counts.get(f"{arm}: correct", 0) / TUNED_QUESTIONS for arm in arms}
        rows: list[Mapping[str, Any]] = [
            {"model": arm} | {kind.replace("_", " "): int(counts.get(f"{arm}: {kind}", 0)) for kind in VERDICTS}
            for arm in arms
        ]
        curves = {TUNED: run.curve("val/written_exactly")}
        return Measurement(figures | {EIGHT_OF_TEN: 0.8}, curves, {WHAT_BECAME: rows})


def verdicts(run: FinishedRun, seed: int) -> Counter[str]:
    """How many questions end in each verdict, by arm: asked of the model as it is, with examples, and fine-tuned.

    Every attempt is kept in `attempts.jsonl` of the run.

    Args:
        run: Of a model that was fine-tuned on questions of `KINDS`.
        seed: Of the questions.
    """
    from lmmodules.synthesis import CheckpointClient, Decoding, HuggingFaceClient, Journal, PromptForm, Solver

    questions, examples = asked_and_shown(seed)
    form = PromptForm()
    decoding = Decoding(LONGEST, stop=form.stop)
    journal = Journal(run.directory / "attempts.jsonl")
    published = HuggingFaceClient(os.environ["LMM_SMOLLM2"], batch_size=TUNED_QUESTIONS)
    shown = Solver(published, form, few_shot=(5,), examples=examples, decoding=decoding, journal=journal)
    before = shown(questions)
    counts = Counter(f"{AS_IT_IS}: {replace(one, attempts=one.attempts[:1]).verdict.kind}" for one in before)
    counts += Counter(f"{WITH_EXAMPLES}: {one.verdict.kind}" for one in before)
    if not run.outcome["diverged"]:
        tuned = CheckpointClient(run.directory, batch_size=TUNED_QUESTIONS)
        after = Solver(tuned, form, few_shot=(), decoding=decoding, journal=journal)(questions)
        counts += Counter(f"{TUNED}: {one.verdict.kind}" for one in after)
    return counts


def asked_and_shown(seed: int) -> tuple[list[Question], list[Example]]:
    """Held-out questions of `KINDS`, and examples out of those that are trained on.

    Args:
        seed: Of both.
    """
    from lmmodules.data.math_questions import MathQuestions
    from lmmodules.synthesis import Example
    from lmmodules.synthesis.questions import generated_questions

    made = MathQuestions(kinds=KINDS, seed=seed)
    shown = made.first(EXAMPLES)
    examples = [
        Example(replace(question, key=f"shown/{question.key}"), one.program)
        for question, one in zip(generated_questions(shown), shown, strict=True)
    ]
    return generated_questions(made.first(TUNED_QUESTIONS, held_out=True)), examples


CLAIMS = (
    SolvingClaim(
        paper="program_synthesis",
        name="from_scratch",
        statement="A network that writes programs answers more questions than the same network answering by itself.",
        source="Drori et al. 2022, abstract and figure 4",
        reported=(
            "Codex answers 81 % of university questions by programs, GPT-3 19 % by itself and 31 % with a chain of "
            "thought."
        ),
        setting=("experiment=program_synthesis",),
        arms={PROGRAMS: ("data.target=program",), DIRECT: ("data.target=answer",)},
        rules=(Below(DIRECT, PROGRAMS), Below(ASKED_OF_IT, PROGRAMS)),
        sizes={"cpu": (), "gpu": ("model.hidden_size=384", "model.num_layers=8", "max_steps=20000")},
        remarks=(
            "Both are trained from random weights on generated questions of 69 kinds in calculus, differential "
            "equations, linear algebra, probability, number theory and counting. They are asked 300 of the same kinds "
            "whose programs neither has seen, decoded greedily; programs run in a sandbox, and answers are compared as "
            "mathematics. This is learning the form of questions that a generator wrote, and says nothing of new kinds "
            "of question."
        ),
        unit="share of held-out questions solved",
    ),
    FineTuning(
        paper="program_synthesis",
        name="fine_tuned",
        statement=(
            "A small published model that answers next to no question of six kinds by programs answers nearly all of "
            "them once it has learned from a few others of these kinds, and more than behind five examples."
        ),
        source="Drori et al. 2022, abstract and figure 4; they fine-tune nothing",
        reported="Codex, as it is, answers 71 % of university questions, and 81 % with up to five examples.",
        setting=(
            "experiment=program_synthesis_smollm2",
            f"model.weights={material('LMM_SMOLLM2')}",
            f"tokenizer.name={material('LMM_SMOLLM2')}",
            f"data.kinds=[{','.join(KINDS)}]",
        ),
        arms={TUNED: ()},
        rules=(Below(AS_IT_IS, TUNED), Below(WITH_EXAMPLES, TUNED), Below(EIGHT_OF_TEN, TUNED)),
        sizes={"cpu": (), "gpu": ()},
        remarks=(
            "SmolLM2-135M-Instruct learns from 160 generated pairs of a question and a program, 40 steps of 4, of six "
            "kinds, one of each subject. It is asked 24 questions of these kinds whose programs it has not seen, "
            "decoded greedily up to 120 tokens with the paper's prompt: as it is; if that fails, behind the five "
            "nearest of 120 solved questions, and what it has solved by itself; and after fine-tuning. Every program "
            "runs in the sandbox, and the last line is compared with the answer. It shows that the form is learned, "
            "not mathematics."
        ),
        unit="share of held-out questions solved",
        needs=("LMM_SMOLLM2",),
    ),
)
