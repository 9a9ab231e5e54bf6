"""Rows of all ranks, and a contrastive loss over them: sums and gradients are those of one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lmmodules.launch import free_port
from lmmodules.parallel.gather import gather_rows

# Every rank makes all batches and keeps its own; the loss and its gradients are then added up as DDP does.
SCRIPT = """
import json, sys
import torch
import torch.distributed as dist
from lmmodules.models import Learned, RelativeBias, Transformer
from lmmodules.objectives import CocoLM
from lmmodules.parallel.gather import gather_rows

directory, sizes = sys.argv[1], json.loads(sys.argv[2])
ranks = len(sizes)
if ranks > 1:
    dist.init_process_group("gloo")
me = dist.get_rank() if ranks > 1 else 0
result = {}

# Rows by themselves.
everyone = torch.arange(float(sum(SIZES := [2, 0, 3]) * 4)).view(-1, 4)
if ranks == len(SIZES):
    begin = sum(SIZES[:me])
    mine = everyone[begin : begin + SIZES[me]].clone().requires_grad_()
    rows, start = gather_rows(mine)
    ((me + 1) * (rows**2)).sum().backward()
    result["rows"] = [rows.tolist() == everyone.tolist(), start == begin]
    # The gradient is the sum of what ranks 1, 2 and 3 say: (1 + 2 + 3) * 2x.
    result["gradient"] = torch.equal(mine.grad, 12 * mine.detach())
    empty, start = gather_rows(torch.empty(0, 4))
    result["none"] = [list(empty.shape), start]

# The objective on uneven batches.
B, T, V, D = sum(sizes), 10, 30, 16
generator = torch.Generator().manual_seed(5)
ids = torch.randint(V - 1, (B, T), generator=generator)
chosen = torch.rand(B, T, generator=generator) < 0.3
batch = {
    "input_ids": ids.masked_fill(chosen, V - 1), "labels": torch.where(chosen, ids, -100),
    "draws": torch.rand(B, T, generator=generator), "crop_ids": ids[:, 1:9],
}
first = sum(sizes[:me])
batch = {name: tensor[first : first + sizes[me]] for name, tensor in batch.items()}
for gather in (True, False) if min(sizes) > 1 else (True,):  # one sequence alone has nothing to be told from
    torch.manual_seed(0)
    network = Transformer(
        vocab_size=V, hidden_size=D, num_layers=3, num_heads=2, causal=False, initializer_std=0.3,
        position=RelativeBias(2, 8, 6, Learned(T, D)), embedding_norm=True,
    )
    model = CocoLM(network, gather_negatives=gather, temperature=0.3)
    loss = model.training_step(batch, 0)
    loss.backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
    loss = loss.detach()
    if ranks > 1:
        dist.all_reduce(gradients)
        dist.all_reduce(loss)
    metrics = model.collect_training_metrics()
    result[str(gather)] = {
        "loss": (loss / ranks).item(), "gradients": (gradients / ranks).tolist(), "metrics": metrics,
    }
with open(f"{directory}/{ranks}-{me}.json", "w") as file:
    json.dump(result, file)
if ranks > 1:
    dist.barrier()
    dist.destroy_process_group()
"""


def launch(directory: Path, sizes: list[int], timeout_seconds: float = 180.0) -> list[dict[str, Any]]:
    """Run the script on as many gloo ranks as there are batch sizes, apart from this process and its environment."""
    path = directory / "script.py"
    path.write_text(SCRIPT)
    command = [sys.executable]
    if len(sizes) > 1:
        command += ["-m", "torch.distributed.run", f"--nproc_per_node={len(sizes)}", f"--master_port={free_port()}"]
    ours = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "PL_GLOBAL_SEED")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ours and not name.startswith(("MASTER_", "SLURM_", "TORCHELASTIC_"))
    }
    environment["OMP_NUM_THREADS"] = "1"
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [*command, str(path), str(directory), json.dumps(sizes)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"{len(sizes)} ranks did not finish in {timeout_seconds} s\n{output}")
    assert process.returncode == 0, output
    return [json.loads((directory / f"{len(sizes)}-{rank}.json").read_text()) for rank in range(len(sizes))]


@pytest.mark.distributed
def test_uneven_ranks_do_what_one_process_does(tmp_path: Path) -> None:
    (one,) = launch(tmp_path, [6])
    two = launch(tmp_path, [4, 2])
    three = launch(tmp_path, [1, 3, 2])
    for ranks in (two, three):
        for result in ranks:
            assert result["True"]["loss"] == pytest.approx(one["True"]["loss"], rel=1e-5)
            gradients = torch.tensor([result["True"]["gradients"], one["True"]["gradients"]])
            torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)
            assert result["True"]["metrics"] == pytest.approx(one["True"]["metrics"], rel=1e-5)
            assert result["True"]["metrics"]["negatives"] == 10
    for result in two:
        # Without gathering, a rank's own batch has fewer negatives, and so a smaller loss.
        assert result["False"]["metrics"]["negatives"] < 10
        assert result["False"]["metrics"]["contrast"] < one["False"]["metrics"]["contrast"] - 0.1
        # Whether negatives are gathered does not concern the other losses.
        for name in ("auxiliary", "copy", "correction", "replaced"):
            assert result["False"]["metrics"][name] == pytest.approx(one["False"]["metrics"][name], rel=1e-5)
    assert two[0]["False"]["metrics"]["negatives"] == pytest.approx((4 * 6 + 2 * 2) / 6)
    for result in three:
        assert result["rows"] == [True, True]
        assert result["gradient"]
        assert result["none"] == [[0, 4], 0]


def test_one_process_keeps_its_rows() -> None:
    rows = torch.randn(3, 2, requires_grad=True)
    gathered = gather_rows(rows)
    assert gathered.rows is rows
    assert gathered.start == 0
