"""How a question is put to a language model that is to write a program."""

from __future__ import annotations

from lmmodules.errors import InputError

CONTEXT = "write a program that answers the following question: "
"""What Drori et al. put before every question."""


def docstring_prompt(question: str) -> str:
    """The paper's prompt: context and question between triple quotes.

    Args:
        question: In words.

    Source:
        `code/zero-shot.py` in the repository idrori/mathQ.
    """
    return f'"""\n{CONTEXT}{question}\n"""\n'


def comment_prompt(question: str) -> str:
    """The same within a comment, for models that were trained on scripts.

    Args:
        question: In words.
    """
    lines = f"{CONTEXT}{question}".splitlines()
    return "".join(f"# {line}\n" for line in lines)


def instruction_prompt(question: str) -> str:
    """The same as an instruction, for models that were trained to follow these.

    Args:
        question: In words.
    """
    return f"{CONTEXT[0].upper()}{CONTEXT[1:]}{question}\nPrint the answer. Reply with Python code only.\n"


def direct_prompt(question: str) -> str:
    """The bare question, for a model that is to answer without a program.

    Args:
        question: In words.

    Source:
        The GPT-3 baseline of `code/zero-shot.py` in the repository idrori/mathQ.
    """
    return f"{question}\n"


PROMPTS = {"docstring": docstring_prompt, "comment": comment_prompt, "instruction": instruction_prompt}
"""Forms of a prompt for a program, by name."""


def program_prompt(question: str, style: str = "docstring") -> str:
    """A prompt for a program.

    Args:
        question: In words.
        style: One of `PROMPTS`.

    Raises:
        InputError: When there is no such form.
    """
    if style not in PROMPTS:
        raise InputError(f"`prompt_style` must be one of {', '.join(PROMPTS)}, but is {style}")
    return PROMPTS[style](question)
