"""How LaTeX, numpy, MATLAB and typesetters write mathematics, turned into one way."""

from __future__ import annotations

import re

from lmmodules.evaluation.answer_values import UnreadableError

MAX_LENGTH = 2000
NUMBER = r"(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)"
"""A number without its sign, as a regular expression of one group."""
_LATEX_FUNCTIONS = "sin|cos|tan|ln|log|exp|arctan|arcsin|arccos"
_LATEX = (
    (r"\\(?:left|right|displaystyle|,|;|!|quad)", ""),
    (r"\\(?:d|t)?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"((\1)/(\2))"),
    (r"\\(?:d|t)?frac\s*(\d)\s*(\d)", r"((\1)/(\2))"),
    (r"\\sqrt\s*\{([^{}]*)\}", r"sqrt(\1)"),
    (r"\\sqrt\s*(\w)", r"sqrt(\1)"),
    (r"\\(?:text|mathrm|boxed|mbox)\s*\{([^{}]*)\}", r"\1"),
    (r"\^\s*\{\\circ\}|\^\s*\\circ|\\circ|°", ""),
    (r"\^\s*\{([^{}]*)\}", r"^(\1)"),
    (r"\\(?:cdot|times)", "*"),
    (r"\\infty|∞", "oo"),
    (r"\\cup|\u222a", " U "),
    (r"\\([{}])", r"\1"),
    (rf"\\({_LATEX_FUNCTIONS})\s*\{{([^{{}}]*)\}}", r" \1(\2)"),
    (rf"\\(pi|{_LATEX_FUNCTIONS})\b", r" \1 "),
    (r"\\leq?\b", "<="),
    (r"\\geq?\b", ">="),
)
_SIGNS = str.maketrans({"\u2212": "-", "\u2013": "-", "\u00d7": "*", "·": "*", "π": " pi ", "√": " sqrt ", "$": " "})
_SIGNS |= str.maketrans({"\u2264": "<=", "\u2265": ">="})
_IMAGINARY = re.compile(rf"(?<![\w.]){NUMBER}j(?!\w)")
"""As Python writes it."""
_OTHER_UNITS = re.compile(r"(?<![A-Za-z_])[iIk](?!\w)")
"""Beside which a `j` is the second of three, or an unknown."""
_MATRIX = re.compile(r"(?:[A-Za-z][\w*]*\s*=\s*)?[\[(]")
"""How one begins, with a name or without."""
_ROWS = re.compile(r"\[([^\[\]]*;[^\[\]]*)\]")
"""A matrix as MATLAB writes it."""


def spelled_plainly(text: str) -> str:
    """A text in the small language of the parser, from how LaTeX, numpy, MATLAB and typesetters write.

    Args:
        text: What was printed, or the published answer.

    Raises:
        UnreadableError: When it is longer than is read.
    """
    text = of_bounded_length(text)
    text = _ROWS.sub(lambda rows: f"[{';'.join(map(_with_commas, rows[1].split(';')))}]", text)
    text = text.translate(_SIGNS).strip()
    for pattern, replacement in _LATEX * 2 if "\\" in text or "^" in text or "°" in text or "∞" in text else ():
        text = re.sub(pattern, replacement, text)
    text = text.strip().rstrip(".;") if not re.fullmatch(r".*\d\.", text.strip()) else text.strip()
    if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?", text):
        text = text.replace(",", "")
    complex_numbers = bool(_IMAGINARY.search(text)) and not _OTHER_UNITS.search(text)
    if _MATRIX.match(text) and "," not in text:  # as numpy prints
        end_of_member = r"[\d.]j" if complex_numbers else r"[\d.\]]"  # in `[2. +3.j]` there is one
        text = re.sub(rf"(?<={end_of_member})\s+(?=[-+\[]?[\d.\[])", ", ", text)
        text = re.sub(r"(?<=\])\s*(?=\[)", ", ", text)
    return _IMAGINARY.sub(r"(\1*I)", text) if complex_numbers else text


def of_bounded_length(text: str) -> str:
    """A text without the spaces around it.

    Args:
        text: Of any length.

    Raises:
        UnreadableError: When it is longer than is read.
    """
    text = text.strip()
    if len(text) > MAX_LENGTH:
        raise UnreadableError(f"longer than {MAX_LENGTH} characters")
    return text


def _with_commas(row: str) -> str:
    """A row of MATLAB, whose members may have spaces between them: `1 -2` are two, `1 - 2` is one."""
    return row if "," in row else re.sub(r"(?<=[\w.)])\s+(?=[-+\u2212]?[\w.√])", ", ", row.strip())
