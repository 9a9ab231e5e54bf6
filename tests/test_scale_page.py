"""The table of docs/scale.md is what `lmm-preview` computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lmmodules.composition import compose_config
from lmmodules.plan import plan_run
from lmmodules.preview import sent_bytes

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"


def rows(model: str) -> list[list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.read_text().splitlines()]
    return [row[1:] for row in cells if row[0] == model and len(row) == 10]


@pytest.mark.parametrize("model", ["1.2B", "2.5B", "4.2B", "8.3B"])
def test_every_number(model: str) -> None:
    experiment = f"experiment=megatron_{model.lower().replace('.', '_')}"
    built = plan_run(compose_config("train", experiment))
    without = plan_run(compose_config("train", experiment, "model.attention_dropout=0"))
    computed = []
    for nodes in (1, 8, 64):
        config = compose_config("train", experiment, "trainer.devices=8", f"trainer.num_nodes={nodes}")
        plan, spared = (replace(it, config=config, devices=8 * nodes) for it in (built, without))
        sent = {name.partition(" axis")[0]: f"{number / 1e9:.1f}" for name, number in sent_bytes(plan).items()}
        computed.append([
            f"{plan.parameters / 1e9:.3f}B", f"{plan.devices}", f"{plan.layout.tensor} x {plan.layout.data}",
            f"{4 * (2 + plan.states_per_parameter) * plan.parameters_per_device / 1e9:.2f}",
            f"{plan.kept_activation_bytes / 2 / 1e9:.2f}", f"{spared.kept_activation_bytes / 2 / 1e9:.2f}",
            sent.get("tensor", ""), sent.get("data", ""), f"{3 * plan.forward_flops / plan.layout.tensor / 1e12:.0f}",
        ])  # fmt: skip
    assert rows(model) == computed
