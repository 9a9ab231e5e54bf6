"""Prompts to the byte, and programs out of completions."""

from __future__ import annotations

import pytest

from lmmodules.errors import InputError
from lmmodules.synthesis import Example, PromptForm, Question
from lmmodules.synthesis.completions import explanation_of, program_of
from lmmodules.synthesis.prompts import explanation_prompt

TARGET = Question("c/3", "Find 1+1.", "2", "c", "Sums")
EXAMPLES = [Example(Question("c/1", "Find 2+2."), "print(2+2)"), Example(Question("c/2", "Find 3+3."), "print(3+3)")]
ALONE = '"""\nwrite a program that answers the following question: Find 1+1.\n"""\n'


def test_the_question_alone() -> None:
    assert PromptForm().zero_shot(TARGET) == ALONE


def test_behind_solved_ones() -> None:
    assert PromptForm().few_shot(EXAMPLES, TARGET) == (
        '"""\nwrite a program that answers the following question: Find 2+2.\n"""\nprint(2+2)\n\n'
        '"""\nwrite a program that answers the following question: Find 3+3.\n"""\nprint(3+3)\n\n' + ALONE
    )


def test_an_explanation() -> None:
    assert explanation_prompt(ALONE, "print(1+1)") == (
        f"{ALONE}print(1+1)\n\n'''\nHere's what the above code is doing:\n1."
    )


def test_without_a_program() -> None:
    assert PromptForm("direct").zero_shot(TARGET) == "Find 1+1.\n"
    assert PromptForm("chain_of_thought").zero_shot(TARGET) == "Q: Find 1+1.\nA: Let's think step by step."


@pytest.mark.parametrize(
    ("context", "begins"),
    [(None, "Find"), ("using sympy", "using sympy Find"), ("In {topic},", "In Sums, Find")],
)
def test_a_context_stands_before_the_question(context: str | None, begins: str) -> None:
    assert f"question: {begins}" in PromptForm(context=context).zero_shot(TARGET)
    assert PromptForm("direct", context=context).zero_shot(TARGET).startswith(begins)


def test_other_styles() -> None:
    assert PromptForm(style="comment").zero_shot(TARGET).startswith("# write a program")
    with pytest.raises(InputError, match="`prompt_style` must be one of docstring, comment, instruction, but is verse"):
        PromptForm(style="verse")
    with pytest.raises(InputError, match="`method` must be one of program, direct, chain_of_thought, but is magic"):
        PromptForm("magic")


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("print(1)\n", "print(1)"),
        ('\nprint(1)\n\n"""\nwrite a program that\n"""\nprint(2)', "print(1)"),
        ('"""\nanother question', ""),
        ('def f():\n    """Adds."""\n    return 1\nprint(f())', 'def f():\n    """Adds."""\n    return 1\nprint(f())'),
        ("Sure!\n```python\nprint(1)\n```\nThis prints 1.\n```\nprint(2)\n```", "print(1)"),
        ("```\nprint(1)", "print(1)"),
        ("print(1)\n```\n", "print(1)"),
        ("Sure!\n```python\nprint(1)", "print(1)"),
        ("Here:\n```\nprint(1)\n```\n\nIt prints 1.", "print(1)"),
        ("    print(1)", "    print(1)"),
        ("", ""),
        ("  \n ", ""),
    ],
)
def test_the_program_in_a_completion(completion: str, program: str) -> None:
    assert program_of(completion) == program


def test_stops() -> None:
    assert PromptForm().stop == ('\n"""',)
    assert PromptForm(style="comment").stop == ("\n# write a program that answers the following question: ",)
    assert PromptForm(style="instruction").stop == PromptForm("direct").stop == ()
    assert PromptForm("chain_of_thought").stop == ("\nQ:",)


def test_an_explanation_is_a_list() -> None:
    assert explanation_of(" We import.\n2. We add\n   numbers.\n3) We print.\n'''\nprint()") == [
        "We import.",
        "We add numbers.",
        "We print.",
    ]
    assert explanation_of("") == []
