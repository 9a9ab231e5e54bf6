"""The stages of the pipeline: each takes attempts and gives them back one step further."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from lmmodules.evaluation.sandbox import Execution
from lmmodules.synthesis.attempts import Attempt
from lmmodules.synthesis.client import Client, Decoding
from lmmodules.synthesis.completions import program_of
from lmmodules.synthesis.prompts import PromptForm
from lmmodules.synthesis.questions import Example, Question
from lmmodules.synthesis.retrieval import Retrieval
from lmmodules.synthesis.verdicts import Verdict, judge_execution, judge_output

Run = Callable[[Sequence[str]], list[Execution]]
"""Runs programs in sandboxes."""

NO_ROOM = "the prompt leaves no room in the context of the model"


def zero_shot(questions: Sequence[Question], form: PromptForm) -> list[Attempt]:
    """Attempts with the question alone.

    Args:
        questions: To be solved.
        form: Of the prompts.
    """
    return [Attempt(question, "zero_shot", form.zero_shot(question)) for question in questions]


def few_shot(
    questions: Sequence[Question],
    retrieval: Retrieval,
    num_examples: int,
    form: PromptForm,
    fits: Callable[[str], bool] = lambda prompt: True,
) -> list[Attempt]:
    """Attempts with solved questions before the question; none for a question that has no such neighbour.

    Args:
        questions: To be solved.
        retrieval: Finds the neighbours.
        num_examples: How many are shown, where there are as many and there is room.
        form: Of the prompts.
        fits: Whether there is room for a prompt; the farthest examples go first.
    """
    attempts = []
    for question, neighbours in zip(questions, retrieval(questions), strict=True):
        shown = neighbours[:num_examples]
        while shown and not fits(form.few_shot(retrieval.arranged(shown), question)):
            shown = shown[:-1]
        if shown:
            examples = retrieval.arranged(shown)
            keys = tuple(example.question.key for example in examples)
            attempts.append(Attempt(question, "few_shot", form.few_shot(examples, question), keys))
    return attempts


def ask(attempts: Sequence[Attempt], client: Client, decoding: Decoding, form: PromptForm) -> list[Attempt]:
    """Have completions written, and find the programs in them. A prompt that does not fit is not put to the model.

    Args:
        attempts: With prompts.
        client: The model.
        decoding: How it writes.
        form: Of the prompts: says whether a program is wanted.
    """
    prompts = [prompt for attempt in attempts if client.fits(prompt := attempt.prompt, decoding)]
    prompts = list(dict.fromkeys(prompts))
    texts = dict(zip(prompts, client.complete(prompts, decoding) if prompts else [], strict=True))
    return [_answered(attempt, texts.get(attempt.prompt), form) for attempt in attempts]


def execute(attempts: Sequence[Attempt], run: Run) -> list[Attempt]:
    """Run the programs.

    Args:
        attempts: With completions; where there is no program, nothing runs.
        run: Runs programs.
    """
    programs = list(dict.fromkeys(attempt.program for attempt in attempts if attempt.program))
    runs = dict(zip(programs, run(programs), strict=True)) if programs else {}
    return [replace(attempt, execution=runs.get(attempt.program)) for attempt in attempts]


def check(attempts: Sequence[Attempt], tolerance: float, form: PromptForm) -> list[Attempt]:
    """Compare what was printed, or written as an answer, with what is expected.

    Args:
        attempts: Whose programs have run.
        tolerance: How far a number may lie from the expected, relative to it.
        form: Of the prompts: says whether a program was wanted.
    """
    return [replace(attempt, verdict=_verdict(attempt, tolerance, form)) for attempt in attempts]


def solved_examples(attempts: Sequence[Attempt]) -> list[Example]:
    """What was solved by the question alone, as examples; successes with examples are none themselves.

    Args:
        attempts: With verdicts.

    Source:
        `code/few-shot.py` in the repository idrori/mathQ.
    """
    return [
        Example(attempt.question, attempt.program)
        for attempt in attempts
        if attempt.stage == "zero_shot" and attempt.solved
    ]


def _answered(attempt: Attempt, completion: str | None, form: PromptForm) -> Attempt:
    if completion is None:
        return replace(attempt, completion="", refusal=NO_ROOM)
    return replace(attempt, completion=completion, program=program_of(completion) if form.writes_programs else "")


def _verdict(attempt: Attempt, tolerance: float, form: PromptForm) -> Verdict:
    if attempt.refusal:
        return Verdict("error", reason=attempt.refusal)
    if not form.writes_programs:
        return judge_output(attempt.question, attempt.completion or "", tolerance)
    if attempt.execution is None:
        return Verdict("no_output", reason="no program was written")
    return judge_execution(attempt.question, attempt.program, attempt.execution, tolerance)
