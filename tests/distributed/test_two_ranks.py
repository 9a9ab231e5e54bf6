"""What ranks that share a network must agree on, where they must differ, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmmodules.callbacks import read_metrics
from lmmodules.launch import free_port

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Facts = list[dict[str, Any]]

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

SCRIPT = Path(__file__).with_name("facts_of_two_ranks.py")
FOREIGN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    folder = tmp_path_factory.mktemp("facts")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in FOREIGN and not name.startswith(("SLURM_", "TORCHELASTIC_", "PL_"))
    }
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_addr", "127.0.0.1",
        "--master_port", str(free_port()), str(SCRIPT), str(folder),
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "is deprecated" not in done.stderr, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_other_weights_and_other_data_are_refused_on_every_rank(facts: Facts) -> None:
    for rank in facts:
        assert "weights that ranks start from must be the same" in rank["refusals"]["weights"]
        assert "must read the same batch" in rank["refusals"]["batch"]
        assert rank["refusals"]["same batch"] == rank["refusals"]["same orders"] == ""
        assert rank["refusals"]["seed"] == (
            "`seed` must be the same on all ranks, but differs between rank 0 and rank 1: 0 on rank 0 and 1 on rank 1; "
            "start every process with the same command on the same files"
        )
        assert (
            "`tokenizer` must be the same on all ranks, but differs between rank 0 and rank 1; start"
            in (rank["refusals"]["tokenizer"])
        )


@pytest.mark.parametrize(
    ("name", "size", "mended"),
    [("num_heads", 1, 2), ("num_kv_heads", 1, 2), ("intermediate_size", 33, 34), ("vocab_size", 33, 34)],
)
def test_what_cannot_be_divided_is_refused(name: str, size: int, mended: int, facts: Facts) -> None:
    for rank in facts:
        assert rank["refusals"][name] == (
            f"`{name}` must be a multiple of `strategy.tensor_parallel_size` (2), but is {size}; use "
            f"`model.{name}={mended}`"
        )


def test_dropout_agrees_where_activations_do_and_differs_where_they_differ(facts: Facts) -> None:
    one, other = (rank["dropout"] for rank in facts)
    for shared in ("common", "whole sequence"):
        assert one[shared] == other[shared]
    for own in ("own", "divided sequence"):
        assert one[own] != other[own]


@pytest.mark.parametrize("sequence", ["whole", "divided"])
def test_ranks_stay_together_under_dropout_and_recomputation(sequence: str, facts: Facts) -> None:
    one, other = (rank["dropout"] for rank in facts)
    for kind in (sequence, f"{sequence} recomputed"):
        assert one[f"{kind} losses"] == other[f"{kind} losses"]
        assert one[f"{kind} shared parameters"] == other[f"{kind} shared parameters"]
        assert len(one[f"{kind} shared parameters"]) > 6
    # What is computed again draws what it drew before.
    assert one[f"{sequence} recomputed losses"] == pytest.approx(one[f"{sequence} losses"], abs=1e-6)


@pytest.mark.parametrize("what", ["parameters", "kept in blocks", "sent", "sent, recomputed"])
def test_a_rank_keeps_and_sends_what_the_arithmetic_says(what: str, facts: Facts) -> None:
    for rank in facts:
        found, expected = rank["sizes"][what]
        # Of the loss go a few numbers per token besides, by all-gathers, which are not counted here.
        assert found == expected


def test_shards_are_gathered_in_bfloat16_and_gradients_summed_in_float32(facts: Facts) -> None:
    for rank in facts:
        plain, rounded = rank["shards"]["float32"], rank["shards"]["bfloat16"]
        assert plain["exchanged"] == {"_allgather_base_": ["torch.float32"], "_reduce_scatter_base_": ["torch.float32"]}
        assert rounded["exchanged"] == {
            "_allgather_base_": ["torch.bfloat16"], "_reduce_scatter_base_": ["torch.float32"]
        }  # fmt: skip
        assert rounded["kept"] == ["torch.float32"]
        assert rounded["losses"] != plain["losses"]
        assert rounded["losses"] == pytest.approx(plain["losses"], abs=0.01)


def test_shards_that_a_processor_keeps_learn_the_same(facts: Facts) -> None:
    for rank in facts:
        plain, offloaded = rank["shards"]["float32"], rank["shards"]["offloaded"]
        assert (plain["policies"], offloaded["policies"]) == (["OffloadPolicy"], ["CPUOffloadPolicy"])
        assert offloaded["losses"] == plain["losses"]


@pytest.mark.parametrize("strategy", ["tensor_parallel", "fsdp"])
def test_mixed_precision_rounds_and_does_not_lead_astray(
    strategy: str, command: Command, tiny: list[str], tmp_path: Path
) -> None:
    offloaded = ["trainer.devices=2", "strategy.cpu_offload=true"] if strategy == "fsdp" else []
    found = {}
    for precision in ("float32", "bf16"):
        done = command(
            "train", *tiny, f"strategy={strategy}", *offloaded, f"precision={precision}", "max_steps=3",
            f"paths.output_dir={precision}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found[precision] = [row["train/loss"] for row in read_metrics(tmp_path / precision / "metrics.csv")
                            if "train/loss" in row]  # fmt: skip
    assert found["bf16"] != found["float32"]
    assert found["bf16"] == pytest.approx(found["float32"], abs=0.05)
