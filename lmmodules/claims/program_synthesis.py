"""Drori et al. (2022): that a network which writes programs answers more than one which answers by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from lmmodules.claims.base import Claim, Measurement
from lmmodules.claims.rules import Below

if TYPE_CHECKING:
    from lmmodules.data.math_questions import MathQuestion
    from lmmodules.trial import FinishedRun, Trial

PROGRAMS, DIRECT, ASKED_OF_IT = "programs", "direct answers", "six of ten"
QUESTIONS = 300
LONGEST = 120
"""Tokens that may be written."""


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
)
