"""What is said to a person whose input is wrong, and the import of optional packages."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from types import ModuleType


class InputError(ValueError):
    """Something the user gave is wrong.

    The text is one sentence: the name in backticks, the rule, the value, and the override that mends it.
    The commands print it on standard error without a traceback and exit with code 2. What torch makes of one that was
    raised in a worker of a `DataLoader`, a report with the traceback there, becomes its cause.
    """

    def __init__(self, *sentence: object) -> None:
        super().__init__(*sentence)
        report = str(self)
        if report.startswith("Caught InputError in "):
            self.args = (report.rpartition(f"{__name__}.InputError: ")[2].rstrip("\n"),)
            self.__cause__ = RuntimeError(report)


def check_whole_number(name: str, value: object, *, least: int, of: str = "", remedy: str = "") -> None:
    """Refuse what is not a whole number, or is too small.

    Args:
        name: As it is typed.
        value: As given.
        least: Smallest allowed.
        of: What is counted.
        remedy: An override that mends it.

    Raises:
        InputError: When it is not one.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        kind = f"a whole number of {of}" if of else "a whole number"
        raise InputError(
            f"`{name}` must be {kind}, at least {least}, but is {value}" + (f"; use `{remedy}`" if remedy else "")
        )


def check_whole_numbers(name: str, values: object, *, least: int, remedy: str) -> None:
    """Refuse what is not a list of whole numbers, or has none, or one that is too small.

    Args:
        name: As it is typed.
        values: As given.
        least: Smallest allowed.
        remedy: An override that mends it.

    Raises:
        InputError: When it is not one.
    """
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise InputError(f"`{name}` must be a list of one or more, but is {values}; use for example `{remedy}`")
    for value in values:
        check_whole_number(name, value, least=least, remedy=remedy)


def check_seed(value: object) -> None:
    """Refuse what cannot start all generators of random numbers.

    Args:
        value: Of `seed`, as given.

    Raises:
        InputError: When it is no whole number, negative, or of more than 32 bits.
    """
    check_whole_number("seed", value, least=0, remedy="seed=0")
    if isinstance(value, int) and value >= 2**32:
        raise InputError(f"`seed` must be less than 2^32, as numpy has it, but is {value}; use `seed=0`")


def check_number(name: str, value: object, *, least: float, remedy: str) -> None:
    """Refuse what is not a finite number, or is too small.

    Args:
        name: As it is typed.
        value: As given.
        least: Smallest allowed.
        remedy: An override that mends it.

    Raises:
        InputError: When it is not one.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < least:
        raise InputError(f"`{name}` must be a number, at least {least:g}, but is {value}; use `{remedy}`")


def check_share(name: str, value: object, *, remedy: str) -> None:
    """Refuse what is not a number between 0 and 1, both included.

    Args:
        name: As it is typed.
        value: As given.
        remedy: An override that mends it.

    Raises:
        InputError: When it is not one.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(f"`{name}` must lie between 0 and 1, but is {value}; use `{remedy}`")


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional package, or say which extra of lmmodules brings it.

    Args:
        module: Dotted name of the module, for example `"pyarrow.parquet"`.
        extra: Name of the extra in `pyproject.toml`, for example `"parquet"`.
        purpose: What needs it, for example ``"reading `corpus.parquet`"``.

    Raises:
        InputError: When the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise InputError(f"{purpose} needs `{package}`: pip install 'lmmodules[{extra}]'") from error
