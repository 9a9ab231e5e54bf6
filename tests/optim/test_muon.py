from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lmmodules.errors import InputError
from lmmodules.optim import Cosine, Muon, ParameterGroups, build_optimizer


class Toy(nn.Module):
    """Embedding, two blocks of matrices and norms, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.Tanh()) for _ in range(2))
        self.head = nn.Linear(8, 11)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embedding(ids)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return nn.functional.cross_entropy(self.head(hidden), (ids * 3 + 1) % 11)


def toy() -> Toy:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Toy()


def build(module: nn.Module, **options: Any) -> Any:
    groups = ParameterGroups(hidden_matrices=True)
    return build_optimizer(module, lambda parameters: Muon(parameters, **options), groups)


def train(module: Toy, optimizer: Any, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = module(torch.arange(11))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("adjust_lr_fn", ["original", "match_rms_adamw"])
def test_equals_the_two_optimizers_it_joins(adjust_lr_fn: Any) -> None:
    ours, theirs = toy(), toy()
    joined = build(ours, lr=0.02, adamw_lr=0.005, momentum=0.9, ns_steps=4, nesterov=False, adjust_lr_fn=adjust_lr_fn)
    matrices = [block[1].weight for block in theirs.blocks]
    vectors = [p for p in theirs.parameters() if p.ndim < 2]
    others = [theirs.embedding.weight, theirs.head.weight]
    muon = torch.optim.Muon(
        matrices, lr=0.02, weight_decay=0.1, momentum=0.9, ns_steps=4, nesterov=False, adjust_lr_fn=adjust_lr_fn
    )
    adamw = torch.optim.AdamW(
        [{"params": others}, {"params": vectors, "weight_decay": 0.0}],
        lr=0.005,
        betas=(0.9, 0.95),
        weight_decay=0.1,
        fused=True,
    )
    for _ in range(5):
        train(ours, joined, 1)
        theirs(torch.arange(11)).backward()
        muon.step()
        adamw.step()
        theirs.zero_grad()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def test_matrices_of_the_blocks_and_no_others() -> None:
    module = toy()
    optimizer = build(module)
    marked = [p for group in optimizer.param_groups if group["hidden_matrices"] for p in group["params"]]
    assert marked == [block[1].weight for block in module.blocks]
    everything = [p for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, everything)) == sorted(map(id, module.parameters()))


def test_an_update_has_all_singular_values_alike() -> None:
    module = toy()
    weight = module.blocks[0][1].weight
    before = weight.detach().clone()
    train(module, build(module, lr=0.1, weight_decay=0.0, adjust_lr_fn="original"), 1)
    singular = torch.linalg.svdvals((before - weight.detach()) / 0.1)
    assert singular.max() < 1.3
    assert singular.median() > 0.6


def test_learns() -> None:
    module = toy()
    losses = train(module, build(module, lr=0.02), 60)
    assert losses[-1] < 0.1 < 2.0 < losses[0]


def test_one_rate_for_both_unless_told_otherwise() -> None:
    assert {group["lr"] for group in build(toy(), lr=0.02).param_groups} == {0.02}
    rates = {group["name"]: group["initial_lr"] for group in build(toy(), lr=0.02, adamw_lr=0.003).param_groups}
    assert rates == {"decayed": 0.003, "not decayed": 0.003, "hidden matrices decayed": 0.02}


def test_both_parts_follow_the_schedule() -> None:
    module = toy()
    optimizer = build(module, lr=0.02, adamw_lr=0.005)
    before = copy.deepcopy(list(module.parameters()))
    factors = [Cosine(warmup_steps=1).factor(step, 3) for step in range(2)]
    for step, factor in enumerate(factors):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        train(module, optimizer, 1)
        same = [torch.equal(a, b) for a, b in zip(module.parameters(), before, strict=True)]
        assert all(same) if step == 0 else not any(same)


def test_goes_on_from_a_saved_state() -> None:
    unbroken = toy()
    optimizer = build(unbroken, lr=0.02)
    train(unbroken, optimizer, 3)
    resumed = copy.deepcopy(unbroken)
    other = build(resumed, lr=0.5)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert train(unbroken, optimizer, 3) == train(resumed, other, 3)
    for a, b in zip(unbroken.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_options_change_the_update() -> None:
    def result(**options: Any) -> Tensor:
        module = toy()
        train(module, build(module, **options), 3)
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    usual = result()
    for options in (
        {"weight_decay": 0.5},
        {"momentum": 0.5},
        {"nesterov": False},
        {"ns_steps": 3},
        {"adjust_lr_fn": "original"},
        {"betas": (0.5, 0.6)},
        {"eps": 1e-2},
    ):
        assert not torch.equal(result(**options), usual), options


def test_matrices_alone() -> None:
    weight = nn.Parameter(torch.eye(3))
    optimizer = Muon([{"params": [weight], "hidden_matrices": True}], lr=0.1)
    weight.grad = torch.eye(3)
    assert optimizer.step(lambda: 7.0) == 7.0
    assert not torch.equal(weight, torch.eye(3))


def test_wrong_input_is_told() -> None:
    with pytest.raises(InputError, match=r"use `parameter_groups\.hidden_matrices=true`"):
        build_optimizer(toy(), lambda groups: Muon(groups), ParameterGroups())
    with pytest.raises(InputError, match=r"`adamw_lr` must not be negative, but is -1\.0"):
        build(toy(), adamw_lr=-1.0)
