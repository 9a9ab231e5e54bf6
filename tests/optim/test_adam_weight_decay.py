from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from lmmodules.errors import InputError
from lmmodules.optim import AdamWeightDecay, BertLinear, build_optimizer


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(shape, dtype=torch.float64).to(dtype)) for shape in [(3, 4), (5,), (1, 2, 3), ()]]


def give_gradients(parameters: list[nn.Parameter], scale: float = 1.0) -> None:
    for parameter in parameters:
        parameter.grad = (torch.randn(parameter.shape, dtype=torch.float64) * scale).to(parameter.dtype)


class Reference:
    """The formula of BERT's optimizer on nested lists of float64 scalars, written from the paper's appendix."""

    def __init__(self, values: list[Tensor], decay: list[float]) -> None:
        self.p = [value.detach().double().clone() for value in values]
        self.m = [torch.zeros_like(value) for value in self.p]
        self.v = [torch.zeros_like(value) for value in self.p]
        self.decay, self.step_number = decay, 0

    def step(self, gradients: list[Tensor], lr: float, b1: float, b2: float, eps: float, correct: bool) -> None:
        self.step_number += 1
        for i, g in enumerate(gradients):
            g = g.double()
            self.m[i] = b1 * self.m[i] + (1 - b1) * g
            self.v[i] = b2 * self.v[i] + (1 - b2) * g * g
            m, v = self.m[i], self.v[i]
            if correct:
                m, v = m / (1 - b1**self.step_number), v / (1 - b2**self.step_number)
            self.p[i] = self.p[i] - lr * (m / (v.sqrt() + eps) + self.decay[i] * self.p[i])


def scalar_trace(optimizer_kind: Any, steps: int, rates: list[float], **options: Any) -> list[float]:
    p = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    optimizer = optimizer_kind([p], lr=rates[0], betas=(0.9, 0.999), eps=1e-6, **options)
    trace = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rates[step % len(rates)]
        p.grad = torch.tensor(0.5, dtype=torch.float64)
        optimizer.step()
        trace.append(p.item())
    return trace


@pytest.mark.parametrize(
    ("weight_decay", "correct_bias", "expected"),
    [
        (0.1, False, [0.9673792233, 0.9239178280, 0.8734933651]),
        (0.0, False, [0.9683792233, 0.9258852073, 0.8763846622]),
        (0.1, True, [0.9890000200, 0.9780110400, 0.9670330489]),
    ],
)
def test_constant_gradient(weight_decay: float, correct_bias: bool, expected: list[float]) -> None:
    trace = scalar_trace(AdamWeightDecay, 3, [0.01], weight_decay=weight_decay, correct_bias=correct_bias)
    assert trace == pytest.approx(expected, abs=1e-10)


def test_under_berts_schedule() -> None:
    schedule = BertLinear(warmup_steps=4)
    rates = [0.01 * schedule.factor(step, 10) for step in range(6)]
    assert rates == pytest.approx([0, 0.0025, 0.005, 0.0075, 0.006, 0.005])
    trace = scalar_trace(AdamWeightDecay, 6, rates, weight_decay=0.1)
    expected = [1.0, 0.9891264960, 0.9638816602, 0.9223479171, 0.8870126519, 0.8562867478]
    assert trace == pytest.approx(expected, abs=1e-10)


def test_first_update_at_rate_zero_fills_the_moments() -> None:
    p = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    optimizer = AdamWeightDecay([p], lr=0.0, weight_decay=0.1)
    p.grad = torch.tensor(0.5, dtype=torch.float64)
    optimizer.step()
    assert p.item() == 1.0
    assert optimizer.state[p]["exp_avg"].item() == pytest.approx(0.05)
    assert optimizer.state[p]["exp_avg_sq"].item() == pytest.approx(0.00025)


def test_quadratic_of_berts_own_test() -> None:
    w = nn.Parameter(torch.tensor([0.1, -0.2, -0.1], dtype=torch.float64))
    x = torch.tensor([0.4, 0.2, -0.5], dtype=torch.float64)
    optimizer = AdamWeightDecay([w], lr=0.2, weight_decay=0.0)
    seen = {}
    for step in range(1, 101):
        optimizer.zero_grad()
        optimizer.step(lambda: (x - w).square().mean().backward())  # type: ignore[func-returns-value,arg-type,return-value]
        seen[step] = w.tolist()
    assert seen[1] == pytest.approx([0.73235555, 0.43238054, -0.73238054], abs=1e-8)
    assert seen[2] == pytest.approx([0.64426232, 0.60690534, -0.90690534], abs=1e-8)
    assert seen[10] == pytest.approx([0.19068553, 0.12303245, -0.42303245], abs=1e-8)
    assert seen[100] == pytest.approx([0.40164604, 0.19782445, -0.49782445], abs=1e-8)


@pytest.mark.parametrize("correct_bias", [False, True])
@pytest.mark.parametrize("alone", [False, True])
def test_random_steps_against_the_formula(correct_bias: bool, alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if alone:  # the path of sharded tensors
        monkeypatch.setattr("lmmodules.optim.adam_weight_decay._is_plain", lambda parameter: False)
    decayed, others = parameters(), parameters()
    optimizer = AdamWeightDecay(
        [{"params": decayed}, {"params": others, "weight_decay": 0.0}],
        betas=(0.8, 0.95),
        eps=1e-4,
        weight_decay=0.3,
        correct_bias=correct_bias,
    )
    reference = Reference(decayed + others, [0.3] * len(decayed) + [0.0] * len(others))
    for step in range(200):
        rate = 0.01 * (1 + step % 7)
        for group in optimizer.param_groups:
            group["lr"] = rate
        give_gradients(decayed + others)
        reference.step([p.grad for p in decayed + others], rate, 0.8, 0.95, 1e-4, correct_bias)  # type: ignore[misc]
        optimizer.step()
    for actual, expected in zip(decayed + others, reference.p, strict=True):
        assert (actual - expected).abs().max() < 1e-12


def test_with_bias_correction_it_is_torch_adamw() -> None:
    ours = parameters()
    theirs = copy.deepcopy(ours)
    options = {"lr": 0.01, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.1}
    one, other = AdamWeightDecay(ours, correct_bias=True, **options), torch.optim.AdamW(theirs, **options)  # type: ignore[arg-type]
    plain = copy.deepcopy(ours)
    uncorrected = AdamWeightDecay(plain, **options)  # type: ignore[arg-type]
    for _ in range(20):
        give_gradients(ours)
        for source, *targets in zip(ours, theirs, plain, strict=True):
            for target in targets:
                target.grad = source.grad
        for optimizer in (one, other, uncorrected):
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-14)
    assert (ours[0] - plain[0]).abs().max() > 0.01


def test_without_a_gradient_a_parameter_stays() -> None:
    idle, busy = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = AdamWeightDecay([idle, busy], lr=0.1, weight_decay=0.5)
    busy.grad = torch.ones(2)
    optimizer.step()
    assert idle.tolist() == [1.0, 1.0]
    assert not optimizer.state[idle]
    assert (busy < 1).all()


def test_returns_what_the_closure_does() -> None:
    p = nn.Parameter(torch.ones(1))
    optimizer = AdamWeightDecay([p], lr=0.1)

    def closure() -> float:
        loss = p.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 1.0


@pytest.mark.parametrize("correct_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_goes_on_from_a_saved_state(dtype: torch.dtype, correct_bias: bool) -> None:
    unbroken = parameters(dtype)
    optimizer = AdamWeightDecay(unbroken, lr=0.01, correct_bias=correct_bias)
    for _ in range(3):
        give_gradients(unbroken)
        optimizer.step()
    resumed = [nn.Parameter(p.detach().clone()) for p in unbroken]
    other = AdamWeightDecay(resumed, lr=0.5, correct_bias=correct_bias)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for a, b in zip(unbroken, resumed, strict=True):
        assert torch.equal(optimizer.state[a]["exp_avg_sq"], other.state[b]["exp_avg_sq"])
    for _ in range(3):
        give_gradients(unbroken)
        for source, target in zip(unbroken, resumed, strict=True):
            target.grad = source.grad
        optimizer.step()
        other.step()
    for a, b in zip(unbroken, resumed, strict=True):
        assert torch.equal(a, b)


def test_sharded_parameters_learn_alike() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    sharded = copy.deepcopy(module)
    inputs = torch.randn(5, 3)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
        results = []
        for model in (module, sharded):
            optimizer = build_optimizer(model, partial(AdamWeightDecay, lr=0.01))
            for _ in range(3):
                optimizer.zero_grad()
                model(inputs).pow(3).sum().backward()
                optimizer.step()
            results.append([getattr(p, "full_tensor", p.detach)() for p in model.parameters()])
        assert all(isinstance(p, DTensor) for p in sharded.parameters())
    finally:
        dist.destroy_process_group()
    for plain, gathered in zip(*results, strict=True):
        torch.testing.assert_close(plain, gathered, rtol=1e-5, atol=1e-6)


def test_half_precision_keeps_moments_in_float32() -> None:
    low = parameters(torch.bfloat16)
    optimizer = AdamWeightDecay(low, lr=0.01, betas=(0.9, 0.999))
    reference = Reference(low, [0.01] * len(low))
    for _ in range(50):
        give_gradients(low, scale=0.1)
        reference.step([p.grad for p in low], 0.01, 0.9, 0.999, 1e-6, correct=False)  # type: ignore[misc]
        optimizer.step()
    for p, second in zip(low, reference.v, strict=True):
        state = optimizer.state[p]
        assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.float32
        # In bfloat16 a moment could not grow by a thousandth of a step at a time.
        torch.testing.assert_close(state["exp_avg_sq"].double(), second, rtol=1e-5, atol=1e-12)
        assert p.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lr": -1.0}, "`lr` must not be negative, but is -1.0"),
        ({"eps": -1e-6}, "`eps` must not be negative"),
        ({"weight_decay": -0.1}, "`weight_decay` must not be negative, but is -0.1"),
        ({"betas": (0.9, 1.0)}, "`betas` must lie in [0, 1), but are (0.9, 1.0)"),
    ],
)
def test_wrong_numbers_are_told(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as raised:
        AdamWeightDecay([nn.Parameter(torch.ones(1))], **options)
    assert sentence in str(raised.value)
