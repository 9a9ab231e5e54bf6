"""Learning-rate schedules: pure functions from an optimizer step to a share of the peak learning rate.

Steps count optimizer updates and start at 0: the first update is made at `factor(0, max_steps)`. Each schedule warms
up linearly from 0 and then follows its own curve; past `max_steps` it stays where it ended.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from lmmodules.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """Linear warmup to the peak, then whatever the subclass says in `after_warmup`.

    Attributes:
        warmup_steps: Length of the warmup in optimizer steps. Without this and `warmup_ratio` there is no warmup.
        warmup_ratio: The same as a share of the run, in [0, 1), for where `warmup_steps` is not given. The number of
            steps is rounded to 9 decimals first and then down, so that 0.29 of 100 steps are 29, and not the 28 of
            floating point.
        warmup_offset: 0 starts the warmup with an update at learning rate 0, `step / warmup_steps`, as BERT and most
            others do; 1 starts it one step up, `(step + 1) / (warmup_steps + 1)`, as nanoGPT does.

    Raises:
        InputError: If a field is out of range.
    """

    warmup_steps: int | None = None
    warmup_ratio: float | None = None
    warmup_offset: Literal[0, 1] = 0

    def __post_init__(self) -> None:
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise InputError(
                f"`warmup_steps` must not be negative, but is {self.warmup_steps}; "
                "for none use `schedule.warmup_steps=0`"
            )
        _check_share("warmup_ratio", self.warmup_ratio)
        if self.warmup_offset not in (0, 1):
            raise InputError(
                f"`warmup_offset` must be 0 or 1, but is {self.warmup_offset}; use `schedule.warmup_offset=0`"
            )

    def factor(self, step: int, max_steps: int) -> float:
        """Share of the peak learning rate at which an update is made.

        Args:
            step: Number of updates made before it.
            max_steps: Length of the run in optimizer steps; beyond it the value of the end holds.

        Returns:
            The factor, in [0, 1].

        Raises:
            InputError: If `step` is negative, `max_steps` is not positive, or the warmup is not shorter than the run.
        """
        if step < 0:
            raise InputError(f"`step` must not be negative, but is {step}; count optimizer steps from 0")
        warmup_steps = self.num_warmup_steps(max_steps)
        if step < warmup_steps:
            return (step + self.warmup_offset) / (warmup_steps + self.warmup_offset)
        return self.after_warmup(min(step, max_steps), warmup_steps, max_steps)

    def num_warmup_steps(self, max_steps: int) -> int:
        """Length of the warmup in optimizer steps.

        Args:
            max_steps: Length of the run in optimizer steps.

        Raises:
            InputError: If `max_steps` is not positive or the warmup is not shorter than the run.
        """
        if max_steps < 1:
            raise InputError(f"`max_steps` must be at least 1, but is {max_steps}; use for example `max_steps=1000`")
        warmup_steps = _steps_of(self.warmup_ratio, max_steps) if self.warmup_steps is None else self.warmup_steps
        if warmup_steps >= max_steps:
            raise InputError(
                f"`warmup_steps` must be less than `max_steps` ({max_steps}), but is {warmup_steps}; use for example "
                f"`schedule.warmup_steps={max_steps // 10}`"
            )
        return warmup_steps

    @abstractmethod
    def after_warmup(self, step: int, warmup_steps: int, max_steps: int) -> float:
        """The factor from the end of the warmup on, for `warmup_steps <= step <= max_steps`."""


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """Warmup, then the peak for ever."""

    def after_warmup(self, step: int, warmup_steps: int, max_steps: int) -> float:
        """Always 1."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Decay(Schedule, ABC):
    """Warmup, then a decay from the peak towards a floor.

    Attributes:
        floor: Where the decay ends, as a share of the peak. The warmup starts at 0 all the same.

    Raises:
        InputError: If a field is out of range.
    """

    floor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.floor <= 1.0:
            raise InputError(f"`floor` must lie in [0, 1], but is {self.floor}; use for example `schedule.floor=0.1`")

    def after_warmup(self, step: int, warmup_steps: int, max_steps: int) -> float:
        """The curve, squeezed between the floor and the peak."""
        return self.floor + (1.0 - self.floor) * self.curve(step, warmup_steps, max_steps)

    @abstractmethod
    def curve(self, step: int, warmup_steps: int, max_steps: int) -> float:
        """The decay without a floor, for `warmup_steps <= step <= max_steps`."""


@dataclass(frozen=True, kw_only=True)
class BertLinear(Decay):
    """BERT's warmup and linear decay, with the drop where they meet.

    The decay runs over the whole of training and the warmup only covers its beginning: `1 - step / max_steps` holds
    from the end of the warmup on. The peak is therefore never reached, and the learning rate drops from
    `1 - 1 / warmup_steps` to `1 - warmup_steps / max_steps` at the end of the warmup. `Linear` is the schedule that
    others have since called by that name.

    Source:
        Devlin et al. 2019, "BERT"; google-research/bert, `optimization.py`.
    """

    def curve(self, step: int, warmup_steps: int, max_steps: int) -> float:
        """A line from the first step of training, not of the decay."""
        return 1.0 - step / max_steps


@dataclass(frozen=True, kw_only=True)
class Linear(Decay):
    """Warmup, then a line from the peak to the floor."""

    def curve(self, step: int, warmup_steps: int, max_steps: int) -> float:
        """A line from the end of the warmup."""
        return (max_steps - step) / (max_steps - warmup_steps)


@dataclass(frozen=True, kw_only=True)
class Polynomial(Decay):
    """Warmup, then a power of what is left of the run.

    Attributes:
        power: 1 is linear; a larger one falls faster at first.

    Raises:
        InputError: If a field is out of range.

    Source:
        fairseq, `polynomial_decay`, which trained RoBERTa with power 1.
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.power <= 0:
            raise InputError(f"`power` must be positive, but is {self.power}; use `schedule.power=1` for a line")

    def curve(self, step: int, warmup_steps: int, max_steps: int) -> float:
        """A power of the share of the decay that is left."""
        return float(((max_steps - step) / (max_steps - warmup_steps)) ** self.power)


@dataclass(frozen=True, kw_only=True)
class Cosine(Decay):
    """Warmup, then half a cosine from the peak to the floor.

    Source:
        Loshchilov and Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts", equation 5, one period.
    """

    def curve(self, step: int, warmup_steps: int, max_steps: int) -> float:
        """Half a cosine from the end of the warmup."""
        return _cosine((step - warmup_steps) / (max_steps - warmup_steps))


@dataclass(frozen=True, kw_only=True)
class InverseSquareRoot(Decay):
    """Warmup, then one over the square root of the step.

    `floor` is a lower bound here, since the curve has no end to be squeezed towards.

    Attributes:
        timescale: Steps until the factor is 1 / sqrt(2) after the peak; the length of the warmup by default, or
            10000 without one.

    Raises:
        InputError: If a field is out of range.

    Source:
        Vaswani et al. 2017, "Attention Is All You Need", section 5.3.
    """

    timescale: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.timescale is not None and self.timescale < 1:
            raise InputError(
                f"`timescale` must be at least 1, but is {self.timescale}; "
                "use `schedule.timescale=null` for the length of the warmup"
            )

    def after_warmup(self, step: int, warmup_steps: int, max_steps: int) -> float:
        """The curve, but not below the floor."""
        return max(self.floor, self.curve(step, warmup_steps, max_steps))

    def curve(self, step: int, warmup_steps: int, max_steps: int) -> float:
        """One at the end of the warmup."""
        timescale = self.timescale or warmup_steps or 10_000
        return 1.0 / math.sqrt((step - warmup_steps + timescale) / timescale)


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(Decay):
    """Warmup, a plateau at the peak, and a decay over the last steps.

    Attributes:
        decay_steps: Length of the decay in optimizer steps. Without this and `decay_ratio` it is a tenth of the run.
        decay_ratio: The same as a share of the run, in [0, 1), for where `decay_steps` is not given; rounded like
            `warmup_ratio`.
        shape: The form of the decay.

    Raises:
        InputError: If a field is out of range.

    Source:
        Hu et al. 2024, "MiniCPM", section 4; the form `one_minus_sqrt` from Hägele et al. 2024, "Scaling Laws and
        Compute-Optimal Training Beyond Fixed Training Durations", section 3.
    """

    decay_steps: int | None = None
    decay_ratio: float | None = None
    shape: Literal["linear", "cosine", "one_minus_sqrt"] = "one_minus_sqrt"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decay_steps is not None and self.decay_steps < 0:
            raise InputError(
                f"`decay_steps` must not be negative, but is {self.decay_steps}; use `schedule.decay_steps=0` for none"
            )
        _check_share("decay_ratio", self.decay_ratio)
        if self.shape not in DECAY_SHAPES:
            raise InputError(
                f"`shape` must be one of {', '.join(DECAY_SHAPES)}, but is {self.shape}; use `schedule.shape=linear`"
            )

    def curve(self, step: int, warmup_steps: int, max_steps: int) -> float:
        """One on the plateau, then the shape.

        Raises:
            InputError: When warmup and decay are longer than the run.
        """
        if self.decay_steps is not None:
            decay_steps = self.decay_steps
        else:
            decay_steps = _steps_of(0.1 if self.decay_ratio is None else self.decay_ratio, max_steps)
        start = max_steps - decay_steps
        if start < warmup_steps:
            raise InputError(
                f"`decay_steps` must leave room for the {warmup_steps} steps of warmup in `max_steps` ({max_steps}), "
                f"but is {decay_steps}; use for example `schedule.decay_steps={max_steps - warmup_steps}`"
            )
        if decay_steps == 0:
            return 1.0
        return DECAY_SHAPES[self.shape](max(0.0, (step - start) / decay_steps))


def _linear(progress: float) -> float:
    return 1.0 - progress


def _cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _one_minus_sqrt(progress: float) -> float:
    return 1.0 - math.sqrt(progress)


DECAY_SHAPES: MappingProxyType[str, Callable[[float], float]] = MappingProxyType(
    {"linear": _linear, "cosine": _cosine, "one_minus_sqrt": _one_minus_sqrt}
)
"""Forms of a decay: from the share of it that has passed to a factor that falls from 1 to 0."""


def _steps_of(ratio: float | None, max_steps: int) -> int:
    return math.floor(round((ratio or 0.0) * max_steps, 9))


def _check_share(name: str, share: float | None) -> None:
    if share is not None and not 0.0 <= share < 1.0:
        raise InputError(
            f"`{name}` must lie in [0, 1), but is {share}; a number of steps is given as "
            f"`schedule.{name.replace('ratio', 'steps')}`"
        )
