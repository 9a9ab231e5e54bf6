"""Sentences for sizes that do not fit."""

from __future__ import annotations

from lmmodules.errors import InputError


def check_positive(**sizes: int | None) -> None:
    """Sizes that are given must be at least 1.

    Raises:
        InputError: When one is not.
    """
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise InputError(f"`{name}` must be at least 1, but is {value}; use a positive `model.{name}`")


def check_divides(divisor: str, divisor_value: int, name: str, value: int) -> None:
    """`divisor` must divide `name`; the error proposes the nearest smaller one that does.

    Raises:
        InputError: When it does not.
    """
    if value % divisor_value:
        nearest = max(size for size in range(1, divisor_value) if value % size == 0)
        raise InputError(
            f"`{name}` must be divisible by `{divisor}` ({divisor_value}), but is {value}; "
            f"use for example `model.{divisor}={nearest}`"
        )


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """A name must be one of a few.

    Raises:
        InputError: When it is another.
    """
    if value not in choices:
        raise InputError(
            f"`{name}` must be one of {', '.join(choices)}, but is {value!r}; "
            f"use for example `model.{name}={choices[0]}`"
        )


def check_probability(name: str, value: float) -> None:
    """A probability of dropping must leave something.

    Raises:
        InputError: When it is below 0, or 1 and more.
    """
    if not 0.0 <= value < 1.0:
        raise InputError(
            f"`{name}` must be at least 0 and less than 1, but is {value}; use for example `model.{name}=0.1`"
        )


def check_length(length: int, max_length: int | None) -> None:
    """A sequence must not be longer than the model has positions for.

    Raises:
        InputError: When it is.
    """
    if max_length is not None and length > max_length:
        raise InputError(
            f"`max_length` is {max_length}, but a sequence has {length} tokens; use `model.max_length={length}` "
            "or shorter sequences"
        )
