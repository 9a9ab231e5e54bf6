"""What is said of a number that cannot be used."""

from __future__ import annotations

import pytest

from lmmodules.composition import compose_config
from lmmodules.errors import InputError, check_seed
from lmmodules.evaluation.infilling import Infilling
from lmmodules.fitting_parts import check


@pytest.mark.parametrize(
    ("seed", "sentence"),
    [
        (-1, "`seed` must be a whole number, at least 0, but is -1; use `seed=0`"),
        (1.5, "`seed` must be a whole number, at least 0, but is 1.5; use `seed=0`"),
        (2**32, "`seed` must be less than 2^32, as numpy has it, but is 4294967296; use `seed=0`"),
    ],
)
def test_a_seed_that_starts_no_generator(seed: object, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        check_seed(seed)
    assert str(caught.value) == sentence
    with pytest.raises(InputError, match="`seed` must be"):
        check(compose_config("train", "max_steps=1", f"seed={seed}"))
    check_seed(2**32 - 1)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"temperature": "warm"}, "`temperature` must be a number, not negative, but is warm"),
        ({"top_p": 7}, "`top_p` must be above 0 and at most 1, but is 7"),
    ],
)
def test_what_no_token_can_be_drawn_by(option: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Infilling(**option)  # type: ignore[arg-type]
