"""Prompts that are more than one question: with solved examples, for an explanation, for thinking step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmmodules.data.math_prompts import CONTEXT, direct_prompt, program_prompt
from lmmodules.errors import InputError
from lmmodules.synthesis.questions import Example, Question

STEP_BY_STEP = "Let's think step by step."
EXPLANATION = "\n\n'''\nHere's what the above code is doing:\n1."
"""What is written behind a program; the number makes a model write a list."""


def chain_of_thought_prompt(question: str) -> str:
    """A prompt for an answer in words and without a program.

    Args:
        question: In words.

    Source:
        The second GPT-3 baseline of `code/zero-shot.py` in the repository idrori/mathQ.
    """
    return f"Q: {question}\nA: {STEP_BY_STEP}"


def explanation_prompt(prompt: str, program: str) -> str:
    """A prompt for what a program does, in a numbered list whose first number is written already.

    Args:
        prompt: That the program was written for.
        program: Its source.

    Source:
        The explanations of Codex in the repository idrori/mathQ.
    """
    return f"{prompt}{program}{EXPLANATION}"


STOPS = {"docstring": ('\n"""',), "comment": (f"\n# {CONTEXT}",)}
"""Where a model begins the next question by itself, by the style of the prompt."""
METHODS = ("program", "direct", "chain_of_thought")
"""How a model is to come to an answer: by a program that is run, at once, or in words."""


class PromptForm:
    """How questions are put to a model.

    Args:
        method: One of `METHODS`.
        style: Of a prompt for a program, one of `data.math_prompts.PROMPTS`.
        context: Stands before every question, for example `using sympy`; `{topic}` in it becomes the topic of the
            question.

    Raises:
        InputError: When there is no such method or style.

    Source:
        Drori et al. 2022; `using sympy` and `using simulations` are contexts of `code/zero-shot.py` in the repository
        idrori/mathQ.
    """

    def __init__(self, method: str = "program", style: str = "docstring", context: str | None = None) -> None:
        if method not in METHODS:
            raise InputError(f"`method` must be one of {', '.join(METHODS)}, but is {method}; use `method=program`")
        self.method = method
        self.style = style
        self.context = context
        self.zero_shot(Question("", ""))  # refuses a style that does not exist

    @property
    def writes_programs(self) -> bool:
        """Whether what is written is a program, and not an answer."""
        return self.method == "program"

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts behind which nothing more is wanted."""
        if self.method == "chain_of_thought":
            return ("\nQ:",)
        return STOPS.get(self.style, ()) if self.writes_programs else ()

    def zero_shot(self, question: Question) -> str:
        """The prompt of a question by itself.

        Args:
            question: To be solved.
        """
        context = "" if self.context is None else f"{self.context.replace('{topic}', question.topic)} "
        ask: dict[str, Callable[[str], str]] = {
            "program": lambda text: program_prompt(text, self.style),
            "direct": direct_prompt,
            "chain_of_thought": chain_of_thought_prompt,
        }
        return ask[self.method](context + question.text)

    def few_shot(self, examples: Sequence[Example], question: Question) -> str:
        """The prompt of a question behind solved ones.

        Args:
            examples: Shown in this order.
            question: To be solved.

        Source:
            `code/few-shot.py` of the repository idrori/mathQ.
        """
        shown = "".join(f"{self.zero_shot(example.question)}{example.program}\n\n" for example in examples)
        return shown + self.zero_shot(question)
