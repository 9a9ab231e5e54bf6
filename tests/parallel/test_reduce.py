from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from lmmodules.errors import InputError
from lmmodules.launch import free_port
from lmmodules.parallel.reduce import is_rank_zero, print_rank_zero, rank, reduce_losses, reduce_sums, world_size

# Each rank has `rank + 1` targets, each of which costs `rank` nats.
SCRIPT = """
import json, sys
import torch
import torch.distributed as dist
from lmmodules.parallel.reduce import is_rank_zero, print_rank_zero, rank, reduce_losses, reduce_sums, world_size

dist.init_process_group("gloo")
collectives = []
all_reduce = dist.all_reduce
def counted(*arguments, **options):
    collectives.append(1)
    return all_reduce(*arguments, **options)
dist.all_reduce = counted

me = rank()
losses = [torch.tensor(float(me), requires_grad=True), torch.tensor([10.0 + me]), torch.tensor(3.0)]
means = reduce_losses(losses)
after_losses = len(collectives)
pairs = {"loss": (torch.tensor(me * (me + 1.0)), torch.tensor(me + 1)), "accuracy": (torch.tensor(1), 2.0)}
if me % 2:
    pairs = dict(reversed(pairs.items()))
sums = reduce_sums(pairs)
after_sums = len(collectives)
alone = [dist.new_group([index]) for index in range(world_size())][me]
own = reduce_losses(losses, group=alone), reduce_sums(pairs, group=alone)
print_rank_zero("said once")
result = {
    "rank": me, "world_size": world_size(), "rank_in_group": rank(alone), "group_size": world_size(alone),
    "is_rank_zero": is_rank_zero(), "means": means.tolist(), "requires_grad": means.requires_grad,
    "untouched": [loss.item() for loss in losses], "after_losses": after_losses, "after_sums": after_sums,
    "sums": {name: [part.item() for part in pair] for name, pair in sums.items()}, "names": list(sums) == list(pairs),
    "own": own[0].tolist(), "own_sum": own[1]["loss"][0].item(), "after_own": len(collectives),
}
with open(f"{sys.argv[1]}/{me}.json", "w") as file:
    json.dump(result, file)
dist.barrier()
dist.destroy_process_group()
"""


def launch(script: str, directory: Path, ranks: int, timeout_seconds: float = 180.0) -> tuple[str, list[dict]]:
    """Run a script on several gloo ranks, in a session and an environment of its own."""
    path = directory / "script.py"
    path.write_text(script)
    ours = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "PL_GLOBAL_SEED")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ours and not name.startswith(("MASTER_", "SLURM_", "TORCHELASTIC_"))
    }
    environment["OMP_NUM_THREADS"] = "1"
    root = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    starter = ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}", f"--master_port={free_port()}"]
    process = subprocess.Popen(
        [sys.executable, *starter, str(path), str(directory)],
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
        pytest.fail(f"{ranks} ranks did not finish in {timeout_seconds} s\n{output}")
    assert process.returncode == 0, output
    return output, [json.loads((directory / f"{index}.json").read_text()) for index in range(ranks)]


@pytest.mark.distributed
@pytest.mark.parametrize("ranks", [2, 4])
def test_one_collective_over_ranks(tmp_path: Path, ranks: int) -> None:
    output, results = launch(SCRIPT, tmp_path, ranks)
    mean_rank = (ranks - 1) / 2
    nats = sum(index * (index + 1.0) for index in range(ranks))
    targets = ranks * (ranks + 1) / 2
    for index, result in enumerate(results):
        assert (result["rank"], result["world_size"]) == (index, ranks)
        assert (result["rank_in_group"], result["group_size"]) == (0, 1)
        assert result["is_rank_zero"] == (index == 0)
        assert result["means"] == [mean_rank, 10.0 + mean_rank, 3.0]
        assert not result["requires_grad"]
        assert result["untouched"] == [index, 10.0 + index, 3.0]
        assert result["after_losses"] == 1
        assert result["after_sums"] == 2
        assert result["sums"] == {"loss": [nats, targets], "accuracy": [ranks, 2.0 * ranks]}
        assert result["names"], "the order of each rank's own names"
        assert result["own"] == [index, 10.0 + index, 3.0]
        assert result["own_sum"] == index * (index + 1.0)
        assert result["after_own"] == 2, "a group of one rank needs no collective"
    assert nats / targets != mean_rank, "the mean per target and the mean of means must differ here"
    assert output.count("said once") == 1


def test_one_process_is_rank_zero_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert (rank(), world_size(), is_rank_zero()) == (0, 1, True)
    print_rank_zero("step", 3)
    assert capsys.readouterr().out == "step 3\n"


def test_one_process_needs_no_collective(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "all_reduce", lambda *_, **__: pytest.fail("a collective in one process"))
    loss = torch.tensor(2.0, requires_grad=True)
    means = reduce_losses([loss, torch.tensor([5.0])])
    assert means.tolist() == [2.0, 5.0]
    assert not means.requires_grad
    means += 1
    assert loss.item() == 2.0
    sums = reduce_sums({"loss": (loss * 3, torch.tensor(4)), "accuracy": (torch.tensor(1), 4.0)})
    assert list(sums) == ["loss", "accuracy"]
    assert [part.item() for part in sums["loss"]] == [6.0, 4.0]
    assert [part.item() for part in sums["accuracy"]] == [1.0, 4.0]
    assert not sums["loss"][0].requires_grad
    assert reduce_sums({}) == {}


def test_counts_stay_exact_beyond_float32() -> None:
    count = 2**24 + 1
    assert reduce_sums({"loss": (torch.tensor(1.0), torch.tensor(count))})["loss"][1].item() == count


@pytest.mark.parametrize("losses", [[], [torch.ones(2)], [torch.tensor(1.0), torch.ones(3, 1)]])
def test_only_scalars_are_losses(losses: list[torch.Tensor]) -> None:
    with pytest.raises(InputError, match="`losses` must be one or more scalars"):
        reduce_losses(losses)
