"""The whole pipeline: from questions to programs, their runs and verdicts, and again with examples for what is left."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lmmodules.errors import InputError, check_number, check_whole_number
from lmmodules.evaluation.program_execution import run_programs
from lmmodules.evaluation.protection import chosen
from lmmodules.evaluation.sandbox import Execution, Limits
from lmmodules.synthesis import stages
from lmmodules.synthesis.attempts import Attempt
from lmmodules.synthesis.client import Client, Decoding
from lmmodules.synthesis.completions import explanation_of
from lmmodules.synthesis.embedding import Embedder, NgramEmbedder
from lmmodules.synthesis.journal import Journal, attempt_key
from lmmodules.synthesis.prompts import PromptForm, explanation_prompt
from lmmodules.synthesis.questions import Example, Question
from lmmodules.synthesis.retrieval import Retrieval
from lmmodules.synthesis.verdicts import Verdict, is_gradable

EXPLANATION_TOKENS = 150
"""Of `code` in the repository idrori/mathQ."""


@dataclass(frozen=True)
class Solution:
    """All attempts at a question, the last of which counts.

    Attributes:
        question: To be solved.
        attempts: In the order in which they were made; at least one.
        explanation: Of the last program, item by item.
    """

    question: Question
    attempts: tuple[Attempt, ...]
    explanation: tuple[str, ...] = ()

    @property
    def last(self) -> Attempt:
        """The attempt that counts."""
        return self.attempts[-1]

    @property
    def verdict(self) -> Verdict:
        """What became of the question."""
        assert self.last.verdict is not None
        return self.last.verdict

    @property
    def gradable(self) -> bool:
        """Whether a machine can tell the right answer from others."""
        return is_gradable(self.question)


class Solver:
    """Solves questions by programs that a language model writes.

    Zero-shot first; then, for what is not solved, the nearest solved questions of the same course are shown before the
    question, as many as `few_shot` says: of several numbers each is tried as long as the question is not solved.

    Args:
        client: The language model.
        form: Of the prompts; `None` takes the form that the model is used to.
        few_shot: Numbers of examples to be tried, in that order; none leaves it at the question alone.
        order: How examples stand in a prompt, one of `retrieval.ORDERS`.
        examples: Solved questions from elsewhere, besides those that are solved by themselves here.
        embedder: Tells how similar questions are; `None` compares how they are spelt.
        decoding: How the model writes; `None` takes the likeliest token, up to 256, and stops where the form says.
        limits: What each program may use.
        workers: Programs that run at a time.
        protection: What must keep programs in; `None` takes the strongest and refuses to run without isolation.
        tolerance: How far a number may lie from the expected, relative to it.
        explain: Whether the model is to explain the last program of every question.
        journal: What was asked before.
        tell: Called after every batch with the stage, how many of its attempts are made, and how many there are.

    Raises:
        InputError: When a number is out of range, explanations are wanted where no programs are, or programs cannot be
            isolated.

    Source:
        Drori et al. 2022, `code/zero-shot.py` and `code/few-shot.py` in the repository idrori/mathQ: five examples.

    Differences:
        There a person runs each program and says whether it is right. An example's program is shown as far as it was
        run here, not with whatever was written behind it.
    """

    def __init__(
        self,
        client: Client,
        form: PromptForm | None = None,
        *,
        few_shot: Sequence[int] = (5,),
        order: str = "nearest_first",
        examples: Sequence[Example] = (),
        embedder: Embedder | None = None,
        decoding: Decoding | None = None,
        limits: Limits | None = None,
        workers: int = 2,
        protection: str | None = None,
        tolerance: float = 1e-6,
        explain: bool = False,
        journal: Journal | None = None,
        tell: Callable[[str, int, int], None] = lambda stage, made, all_of_them: None,
    ) -> None:
        self.client = client
        self.form = form or PromptForm(style=client.prompt_style)
        for number in few_shot:
            check_whole_number("few_shot", number, least=1, of="examples", remedy="few_shot=0")
        check_number("evaluation.tolerance", tolerance, least=0, remedy="evaluation.tolerance=1e-3")
        check_whole_number("evaluation.workers", workers, least=1, remedy="evaluation.workers=2")
        if explain and not self.form.writes_programs:
            raise InputError(f"`explain` needs programs, but `method` is {self.form.method}; use `method=program`")
        self.few_shot = tuple(few_shot) if self.form.writes_programs else ()
        self.order = order
        self.examples = list(examples)
        self.embedder = embedder or NgramEmbedder()
        self.decoding = decoding or Decoding(stop=self.form.stop)
        self.limits = limits or Limits()
        self.workers = workers
        self.protection = chosen(protection) if self.form.writes_programs else None  # before anything is asked
        self.tolerance = tolerance
        self.explain = explain
        self.journal = journal if journal is not None else Journal()
        self._tell = tell

    def __call__(self, questions: Sequence[Question]) -> list[Solution]:
        """Solve questions as far as the model can.

        Args:
            questions: With answers to compare with, where they are known; each with a key of its own.

        Raises:
            InputError: When two questions have the same key, programs cannot be isolated, or the model cannot be had.
        """
        made: dict[str, list[Attempt]] = {question.key: [] for question in questions}
        if len(made) < len(questions):
            twice = next(one.key for one in questions if sum(other.key == one.key for other in questions) > 1)
            raise InputError(f"every question must have a key of its own, but two have `{twice}`")
        first = self._attempt(stages.zero_shot(questions, self.form), "zero-shot")
        for attempt in first:
            made[attempt.question.key].append(attempt)
        known = {one.question.key: one for one in [*self.examples, *stages.solved_examples(first)]}  # each once
        retrieval = Retrieval(list(known.values()), self.embedder, self.order)
        for number in self.few_shot:
            unsolved = [question for question in questions if not made[question.key][-1].solved]
            prompts = stages.few_shot(unsolved, retrieval, number, self.form, self._fits)
            new = [one for one in prompts if one.prompt not in {before.prompt for before in made[one.question.key]}]
            for attempt in self._attempt(new, f"{number}-shot"):
                made[attempt.question.key].append(attempt)
        explanations = self._explain([made[question.key][-1] for question in questions]) if self.explain else {}
        return [
            Solution(question, tuple(made[question.key]), explanations.get(question.key, ())) for question in questions
        ]

    def _fits(self, prompt: str) -> bool:
        return self.client.fits(prompt, self.decoding)

    def _attempt(self, attempts: Sequence[Attempt], stage: str) -> list[Attempt]:
        """Ask, run and judge, batch by batch; what the journal holds is only judged again."""
        done: list[Attempt] = []
        for start in range(0, len(attempts), self.client.batch_size):
            batch = attempts[start : start + self.client.batch_size]
            known = {one.prompt: told for one in batch if (told := self._recall(one)) is not None}
            new = [one for one in batch if one.prompt not in known]
            asked = stages.ask(new, self.client, self.decoding, self.form)
            unrun = [*asked, *(one for one in known.values() if one.program and one.execution is None)]
            ran = {one.prompt: one for one in stages.execute(unrun, self._run)}
            settled = known | ran
            whole = [replace(settled[one.prompt], question=one.question, examples=one.examples) for one in batch]
            judged = stages.check(whole, self.tolerance, self.form)
            for one in judged:
                if one.prompt in ran and not one.refusal:
                    self._write(one)
            done += judged
            self._tell(stage, len(done), len(attempts))
        return done

    def _run(self, programs: Sequence[str]) -> list[Execution]:
        assert self.protection is not None
        return run_programs(programs, self.limits, self.workers, protection=self.protection.name)

    def _key(self, prompt: str, decoding: Decoding) -> str:
        return attempt_key(self.client.name, prompt, decoding)

    def _recall(self, attempt: Attempt) -> Attempt | None:
        """An attempt as the journal has it; its run only if the limits were the same."""
        key = self._key(attempt.prompt, self.decoding)
        if key not in self.journal:
            return None
        line = self.journal[key]
        try:
            recalled = attempt.recalled(line)
        except (KeyError, TypeError) as error:
            raise InputError(
                f"the line `{key}` of the journal `{self.journal.path}` is not one of ours; name another place by "
                "`output=...`"
            ) from error
        ran_alike = line.get("limits") == dataclasses.asdict(self.limits)
        return recalled if ran_alike else replace(recalled, execution=None)

    def _write(self, attempt: Attempt) -> None:
        told = {"client": self.client.name, "limits": dataclasses.asdict(self.limits)}
        self.journal.append(self._key(attempt.prompt, self.decoding), {**told, **attempt.record()})

    def _explain(self, attempts: Sequence[Attempt]) -> dict[str, tuple[str, ...]]:
        """What the model says its programs do."""
        decoding = Decoding(EXPLANATION_TOKENS, stop=("'''",))
        told: dict[str, tuple[str, ...]] = {}
        wanted = [attempt for attempt in attempts if attempt.program]
        for start in range(0, len(wanted), self.client.batch_size):
            batch = wanted[start : start + self.client.batch_size]
            prompts = {one.question.key: explanation_prompt(one.prompt, one.program) for one in batch}
            new = [
                prompt
                for prompt in dict.fromkeys(prompts.values())
                if self._key(prompt, decoding) not in self.journal and self.client.fits(prompt, decoding)
            ]
            for prompt, text in zip(new, self.client.complete(new, decoding) if new else [], strict=True):
                line = {"client": self.client.name, "stage": "explanation", "prompt": prompt, "completion": text}
                self.journal.append(self._key(prompt, decoding), line)
            for question, prompt in prompts.items():
                key = self._key(prompt, decoding)
                told[question] = tuple(explanation_of(self.journal[key]["completion"])) if key in self.journal else ()
            self._tell("explanation", min(start + len(batch), len(wanted)), len(wanted))
        return told
