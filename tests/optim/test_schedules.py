from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from lmmodules.errors import InputError
from lmmodules.optim import (
    BertLinear,
    Constant,
    Cosine,
    InverseSquareRoot,
    Linear,
    Polynomial,
    Schedule,
    WarmupStableDecay,
)

SCHEDULES = [BertLinear, Constant, Cosine, InverseSquareRoot, Linear, Polynomial, WarmupStableDecay]

# Published recipes, worked out to ten digits: step, then the learning rate under each of the four curves.
BERT_PAPER = {  # peak 1e-4, warmup 10 000, 1 000 000 steps
    0: (0, 0, 0, 0),
    1: (1e-8, 1e-8, 1e-8, 1e-8),
    100: (1e-6, 1e-6, 1e-6, 1e-6),
    5_000: (5e-5, 5e-5, 5e-5, 5e-5),
    9_999: (9.999e-5, 9.999e-5, 9.999e-5, 9.999e-5),
    10_000: (9.9e-5, 1e-4, 1e-4, 1e-4),
    10_001: (9.89999e-5, 9.999989899e-5, 1e-4 * (1 - 2.5e-12), 9.999500037e-5),
    50_000: (9.5e-5, 9.595959596e-5, 9.959774064e-5, 4.472135955e-5),
    100_000: (9e-5, 9.090909091e-5, 9.797464868e-5, 3.162277660e-5),
    250_000: (7.5e-5, 7.575757576e-5, 8.618670191e-5, 2e-5),
    500_000: (5e-5, 5.050505051e-5, 5.079329819e-5, 1.414213562e-5),
    505_000: (4.95e-5, 5e-5, 5e-5, 1.407195089e-5),
    750_000: (2.5e-5, 2.525252525e-5, 1.492625561e-5, 1.154700538e-5),
    999_999: (1e-10, 1.01010101e-10, None, 1.0000005e-5),
    1_000_000: (0, 0, 0, 1e-5),
    1_000_001: (0, 0, 0, 1e-5),  # past the end everything stays
    2_000_000: (0, 0, 0, 1e-5),
}
FINE_TUNING = {  # peak 2e-5, warmup 10, 100 steps
    0: (0, 0, 0, 0),
    1: (2e-6, 2e-6, 2e-6, 2e-6),
    5: (1e-5, 1e-5, 1e-5, 1e-5),
    9: (1.8e-5, 1.8e-5, 1.8e-5, 1.8e-5),
    10: (1.8e-5, 2e-5, 2e-5, 2e-5),
    11: (1.78e-5, 1.977777778e-5, 1.999390827e-5, 1.906925178e-5),
    20: (1.6e-5, 1.777777778e-5, 1.939692621e-5, 1.414213562e-5),
    50: (1e-5, 1.111111111e-5, 1.173648178e-5, 8.94427191e-6),
    55: (9e-6, 1e-5, 1e-5, 8.528028654e-6),
    99: (2e-7, 2.222222222e-7, 6.091729809e-9, 6.356417262e-6),
    100: (0, 0, 0, 6.32455532e-6),
    101: (0, 0, 0, 6.32455532e-6),
}


def close(value: float, rel: float = 1e-9) -> Any:
    return pytest.approx(value, rel=rel, abs=1e-30)


@pytest.mark.parametrize(
    ("table", "peak", "warmup_steps", "max_steps"),
    [(BERT_PAPER, 1e-4, 10_000, 1_000_000), (FINE_TUNING, 2e-5, 10, 100)],
    ids=["bert_paper", "fine_tuning"],
)
def test_published_recipes(table: dict[int, Any], peak: float, warmup_steps: int, max_steps: int) -> None:
    schedules = [kind(warmup_steps=warmup_steps) for kind in (BertLinear, Linear, Cosine, InverseSquareRoot)]
    for step, rates in table.items():
        for schedule, rate in zip(schedules, rates, strict=True):
            if rate is not None:
                assert peak * schedule.factor(step, max_steps) == close(rate), (type(schedule).__name__, step)


def test_last_step_of_a_cosine() -> None:
    # Known to four digits only: 1 + cos(pi - x) loses the others.
    assert 1e-4 * Cosine(warmup_steps=10_000).factor(999_999, 1_000_000) == close(2.517e-16, rel=1e-3)


def test_drop_at_the_end_of_berts_warmup() -> None:
    # The toy run of BERT's README.
    bert, linear = BertLinear(warmup_steps=10), Linear(warmup_steps=10)
    steps = (9, 10, 11, 15, 19, 20)
    assert [2e-5 * bert.factor(step, 20) for step in steps] == close([1.8e-5, 1e-5, 9e-6, 5e-6, 1e-6, 0])
    assert [2e-5 * linear.factor(step, 20) for step in steps] == close([1.8e-5, 2e-5, 1.8e-5, 1e-5, 2e-6, 0])


@pytest.mark.parametrize(
    ("peak", "warmup_steps", "rates"),
    [
        (
            6e-4,
            24_000,
            {
                1: 2.5e-8,
                12_000: 3e-4,
                24_000: 6e-4,
                24_001: 5.999987395e-4,
                100_000: 5.042016807e-4,
                262_000: 3e-4,
                499_999: 1.260504202e-9,
                500_000: 0,
            },
        ),
        (
            4e-4,
            30_000,
            {
                1: 1.333333333e-8,
                24_000: 3.2e-4,
                30_000: 4e-4,
                100_000: 3.404255319e-4,
                265_000: 2e-4,
                499_999: 8.510638298e-10,
                500_000: 0,
            },
        ),
    ],
    ids=["base", "large"],
)
def test_roberta(peak: float, warmup_steps: int, rates: dict[int, float]) -> None:
    schedule = Polynomial(warmup_steps=warmup_steps)
    for step, rate in rates.items():
        assert peak * schedule.factor(step, 500_000) == close(rate)


@pytest.mark.parametrize(
    ("shape", "floor", "factors"),
    [
        ("linear", 0.0, (0.5, 1, 1, 0.75, 0.5, 0.25, 0.05, 0, 0)),
        ("cosine", 0.0, (0.5, 1, 1, 0.8535533906, 0.5, 0.1464466094, 0.006155829702, 0, 0)),
        ("one_minus_sqrt", 0.0, (0.5, 1, 1, 0.5, 0.2928932188, 0.1339745962, 0.02532056552, 0, 0)),
        # The floor is the decay's alone: the warmup passes through 0.5 and not 0.55.
        ("linear", 0.1, (0.5, 1, 1, 0.775, 0.55, 0.325, 0.145, 0.1, 0.1)),
        ("one_minus_sqrt", 0.1, (0.5, 1, 1, 0.55, 0.3636038969, 0.2205771366, 0.122788509, 0.1, 0.1)),
    ],
)
def test_warmup_stable_decay(shape: Any, floor: float, factors: tuple[float, ...]) -> None:
    for length in ({"decay_steps": 20}, {"decay_ratio": 0.2}):
        schedule = WarmupStableDecay(warmup_steps=10, shape=shape, floor=floor, **length)
        values = [schedule.factor(step, 100) for step in (5, 10, 80, 85, 90, 95, 99, 100, 150)]
        assert values == close(list(factors))


def test_plateau_without_a_length_leaves_a_tenth_to_the_decay() -> None:
    schedule = WarmupStableDecay(warmup_steps=10)
    assert schedule.factor(90, 100) == 1.0
    assert schedule.factor(91, 100) < 1.0
    assert WarmupStableDecay(decay_steps=0).factor(100, 100) == 1.0


def test_inverse_square_root() -> None:
    schedule = InverseSquareRoot(warmup_steps=4000)
    rates = {0: 0, 1: 1.25e-7, 3999: 4.99875e-4, 4000: 5e-4, 16_000: 2.5e-4, 100_000: 1e-4}
    for step, rate in rates.items():
        assert 5e-4 * schedule.factor(step, 100_000) == close(rate)
    unwarmed = [InverseSquareRoot().factor(step, 30_000) for step in (0, 1, 10_000, 30_000)]
    assert unwarmed == close([1, 0.9999500037, 0.7071067812, 0.5])
    assert InverseSquareRoot(timescale=100).factor(300, 1000) == close(0.5)
    assert InverseSquareRoot(warmup_steps=100, floor=0.3).factor(2000, 2000) == 0.3
    assert InverseSquareRoot(warmup_steps=100, floor=0.3).factor(400, 2000) == close(0.5)


def test_nanogpt() -> None:
    schedule = Cosine(warmup_steps=2000, warmup_offset=1, floor=0.1)
    rates = {
        0: 2.99850075e-7,
        1: 5.997001499e-7,
        1999: 5.997001499e-4,
        2000: 6e-4,
        301_000: 3.3e-4,
        600_000: 6e-5,
        600_001: 6e-5,
    }
    for step, rate in rates.items():
        assert 6e-4 * schedule.factor(step, 600_000) == close(rate)


def test_cosine_does_not_rise_again() -> None:
    assert [Cosine(warmup_steps=10).factor(step, 110) for step in (110, 135, 160, 210)] == [0, 0, 0, 0]


@pytest.mark.parametrize("kind", [BertLinear, Linear])
def test_without_warmup(kind: type[Schedule]) -> None:
    assert [kind().factor(step, 100) for step in (0, 1, 99, 100)] == close([1, 0.99, 0.01, 0])


def test_constant() -> None:
    schedule = Constant(warmup_steps=4)
    assert [schedule.factor(step, 10) for step in (0, 1, 3, 4, 10, 99)] == [0, 0.25, 0.75, 1, 1, 1]
    assert "floor" not in {field.name for field in dataclasses.fields(Constant)}


def test_power() -> None:
    values = [Polynomial(warmup_steps=10, power=2.0, floor=0.1).factor(step, 110) for step in (10, 60, 110)]
    assert values == close([1, 0.1 + 0.9 * 0.25, 0.1])
    assert Polynomial(warmup_steps=10, power=0.5).factor(85, 110) == close(0.5)


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("fields", [{}, {"warmup_steps": 30}, {"warmup_ratio": 0.3, "warmup_offset": 1}])
def test_what_holds_for_all(kind: type[Schedule], fields: dict[str, Any]) -> None:
    schedule = kind(**fields)
    factors = [schedule.factor(step, 100) for step in range(131)]
    warmup = 30 if fields else 0
    assert all(0.0 <= factor <= 1.0 for factor in factors)
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    assert len(set(factors[100:])) == 1, "past the end nothing changes"
    if warmup:
        assert factors[0] == (1 / 31 if "warmup_offset" in fields else 0)


@pytest.mark.parametrize("kind", [kind for kind in SCHEDULES if kind not in (Constant, InverseSquareRoot)])
def test_floor_is_where_the_decay_ends(kind: Any) -> None:
    schedule = kind(warmup_steps=10, floor=0.2)
    assert schedule.factor(100, 100) == close(0.2)
    assert schedule.factor(0, 100) == 0, "the warmup starts at 0 all the same"
    assert schedule.factor(99, 100) > 0.2


@pytest.mark.parametrize(
    ("ratio", "max_steps", "steps"), [(0.1, 1234, 123), (0.29, 100, 29), (0.57, 100, 57), (0.07, 100, 7)]
)
def test_ratio_is_rounded_down(ratio: float, max_steps: int, steps: int) -> None:
    schedule = Linear(warmup_ratio=ratio)
    assert schedule.num_warmup_steps(max_steps) == steps
    assert schedule.factor(steps, max_steps) == 1.0
    assert all(
        schedule.factor(step, max_steps) == Linear(warmup_steps=steps).factor(step, max_steps)
        for step in range(max_steps)
    )


def test_is_a_value() -> None:
    assert Cosine(warmup_steps=3) == Cosine(warmup_steps=3) != Cosine(warmup_steps=4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Cosine().floor = 0.5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("kind", "fields", "sentence"),
    [
        (Linear, {"warmup_steps": -1}, "`warmup_steps` must not be negative, but is -1"),
        (Linear, {"warmup_ratio": 1.0}, "`warmup_ratio` must lie in [0, 1), but is 1.0"),
        (Linear, {"warmup_offset": 2}, "`warmup_offset` must be 0 or 1, but is 2"),
        (Cosine, {"floor": 1.5}, "`floor` must lie in [0, 1], but is 1.5"),
        (Polynomial, {"power": 0.0}, "`power` must be positive, but is 0.0"),
        (InverseSquareRoot, {"timescale": 0}, "`timescale` must be at least 1, but is 0"),
        (
            WarmupStableDecay,
            {"shape": "square"},
            "`shape` must be one of linear, cosine, one_minus_sqrt, but is square",
        ),
        (WarmupStableDecay, {"decay_steps": -1}, "`decay_steps` must not be negative, but is -1"),
        (WarmupStableDecay, {"decay_ratio": -0.5}, "`decay_ratio` must lie in [0, 1), but is -0.5"),
    ],
)
def test_wrong_fields_are_told(kind: Any, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as raised:
        kind(**fields)
    assert sentence in str(raised.value)


def test_warmup_as_long_as_the_run_is_told() -> None:
    with pytest.raises(InputError) as raised:
        Linear(warmup_steps=20_000).factor(0, 10_000)
    assert str(raised.value) == (
        "`warmup_steps` must be less than `max_steps` (10000), but is 20000; "
        "use for example `schedule.warmup_steps=1000`"
    )
    with pytest.raises(InputError, match=r"`warmup_steps` must be less than `max_steps` \(100\), but is 100"):
        BertLinear(warmup_steps=100).factor(150, 100)


def test_unknown_length_and_negative_step_are_told() -> None:
    with pytest.raises(InputError, match="`max_steps` must be at least 1, but is -1"):
        Linear().factor(0, -1)
    with pytest.raises(InputError, match="`step` must not be negative, but is -1"):
        Linear().factor(-1, 10)
    with pytest.raises(InputError, match=r"`decay_steps` must leave room for the 50 steps of warmup"):
        WarmupStableDecay(warmup_steps=50, decay_steps=60).factor(60, 100)


W, T = 13, 120


def hugging_face() -> list[tuple[Schedule, str, dict[str, Any]]]:
    plateau = {"num_stable_steps": T - W - 20, "num_decay_steps": 20, "min_lr_ratio": 0.0, "num_cycles": 0.5}
    length = {"num_training_steps": T}
    return [
        (Constant(warmup_steps=W), "constant_schedule_with_warmup_lr_lambda", {}),
        (Linear(warmup_steps=W), "linear_schedule_with_warmup_lr_lambda", length),
        (Cosine(warmup_steps=W), "cosine_schedule_with_warmup_lr_lambda", {**length, "num_cycles": 0.5}),
        (
            Cosine(warmup_steps=W, floor=0.1),
            "cosine_schedule_with_warmup_lr_lambda",
            {**length, "num_cycles": 0.5, "min_lr_rate": 0.1},
        ),
        (InverseSquareRoot(warmup_steps=W), "inverse_sqrt_schedule_lr_lambda", {"timescale": W}),
        (InverseSquareRoot(warmup_steps=W, timescale=50), "inverse_sqrt_schedule_lr_lambda", {"timescale": 50}),
        (
            Polynomial(warmup_steps=W, power=1.7, floor=0.01),
            "polynomial_decay_schedule_with_warmup_lr_lambda",
            {**length, "lr_end": 1e-5, "lr_init": 1e-3, "power": 1.7},
        ),
        *(
            (
                WarmupStableDecay(warmup_steps=W, decay_steps=20, shape=shape),
                "wsd_scheduler_lambda",
                {**plateau, "warmup_type": "linear", "decay_type": name},
            )
            for shape, name in (("linear", "linear"), ("cosine", "cosine"), ("one_minus_sqrt", "1-sqrt"))
        ),
    ]


@pytest.mark.parametrize("case", range(10))
def test_equals_transformers(case: int) -> None:
    optimization = pytest.importorskip("transformers.optimization")
    schedule, name, arguments = hugging_face()[case]
    function = getattr(optimization, f"_get_{name}")
    for step in range(T + 1):
        expected = function(step, num_warmup_steps=W, **arguments)
        assert schedule.factor(step, T) == pytest.approx(expected, rel=1e-12, abs=1e-15), step


def test_steps_win_over_a_ratio() -> None:
    assert Linear(warmup_steps=20, warmup_ratio=0.5).num_warmup_steps(100) == 20
    assert Linear(warmup_steps=0, warmup_ratio=0.5).num_warmup_steps(100) == 0
    assert WarmupStableDecay(decay_steps=20, decay_ratio=0.5).factor(79, 100) == 1.0
    assert WarmupStableDecay(decay_ratio=0.5).factor(79, 100) < 1.0
