"""A run goes on with another strategy on another number of processes, as if it had never been interrupted; and what
several processes saved becomes one file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from lmmodules import compose, load
from lmmodules.callbacks import read_metrics
from lmmodules.export import export_checkpoint, export_weights
from lmmodules.launch import free_port

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

SCRIPT = Path(__file__).with_name("runs_of_one_launch.py")
FOREIGN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
INTERRUPTED, LENGTH = 3, 6


class Layout(NamedTuple):
    """How processes share a run, and what each is given so that a step sees the same four samples."""

    kind: str
    processes: int
    overrides: tuple[str, ...]
    in_parts: bool = False

    def command(self) -> list[str]:
        data = 1 if self.kind == "tensor" else 2 if self.kind == "mesh" else self.processes
        return [*self.overrides, f"trainer.devices={self.processes}", f"data.batch_size={4 // data}"]

    def saving(self) -> list[str]:
        return [*self.command(), *(["strategy.save_distributed_checkpoint=true"] if self.in_parts else [])]


def tensor(size: int) -> Layout:
    overrides = ("strategy=tensor_parallel", f"strategy.tensor_parallel_size={size}")
    return Layout("tensor", size, overrides, in_parts=True)


LAYOUTS = {
    "one": Layout("one", 1, ()),
    "ddp_2": Layout("ddp", 2, ("strategy=ddp",)),
    "ddp_4": Layout("ddp", 4, ("strategy=ddp",)),
    "fsdp_2": Layout("fsdp", 2, ("strategy=fsdp",), in_parts=True),
    "fsdp_4": Layout("fsdp", 4, ("strategy=fsdp",), in_parts=True),
    "tensor_2": tensor(2),
    "tensor_4": tensor(4),
    "mesh_4": Layout("mesh", 4, ("strategy=fsdp_tensor_parallel",), in_parts=True),
    # The same into one file, which process zero writes.
    "fsdp_2_file": Layout("fsdp", 2, ("strategy=fsdp",)),
    "mesh_4_file": Layout("mesh", 4, ("strategy=fsdp_tensor_parallel",)),
}
# Every kind after every kind, and every number of processes after every number.
PAIRS = (
    ("one", "ddp_4"), ("one", "fsdp_4"), ("one", "tensor_4"), ("one", "mesh_4"),
    ("ddp_4", "one"), ("ddp_2", "ddp_4"), ("ddp_4", "fsdp_2"), ("ddp_2", "tensor_4"), ("ddp_2", "mesh_4"),
    ("fsdp_4", "one"), ("fsdp_4", "ddp_2"), ("fsdp_2", "fsdp_4"), ("fsdp_4", "tensor_2"), ("fsdp_2", "mesh_4"),
    ("tensor_4", "one"), ("tensor_4", "ddp_2"), ("tensor_4", "fsdp_2"), ("tensor_4", "tensor_2"),
    ("tensor_2", "mesh_4"),
    ("mesh_4", "one"), ("mesh_4", "ddp_2"), ("mesh_4", "fsdp_2"), ("mesh_4", "tensor_2"), ("mesh_4", "mesh_4"),
    ("fsdp_2_file", "one"), ("fsdp_2_file", "tensor_4"), ("mesh_4_file", "ddp_2"), ("mesh_4_file", "fsdp_2"),
)  # fmt: skip
# With dropout, which ranks of other data draw for themselves: a run equals one of its own layout.
DROPPED = ("one", "ddp_2", "fsdp_2", "tensor_2", "mesh_4")
DROPOUT = ("model.dropout=0.3", "model.attention_dropout=0.3")


def launch(processes: int, folder: Path, runs: dict[str, list[str]]) -> None:
    """Train runs, one after the other, on that many processes."""
    plan = folder / f"runs_{processes}_{len(list(folder.glob('runs_*')))}.json"
    plan.write_text(json.dumps(runs))
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in FOREIGN and not name.startswith(("SLURM_", "TORCHELASTIC_", "PL_", "HYDRA_"))
    }
    environment |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    starter = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={free_port()}"]
    process = subprocess.Popen(
        [sys.executable, *(starter if processes > 1 else []), str(SCRIPT), str(plan)],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=400)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # a session of its own: every rank, and nobody else
        raise
    assert process.returncode == 0, said[-4000:]


def losses(directory: Path) -> dict[float, float]:
    return {row["step"]: row["train/loss"] for row in read_metrics(directory / "metrics.csv") if "train/loss" in row}


@pytest.fixture(scope="module")
def runs(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted, the first half of one by each layout, and the second half of each pair."""
    folder = tmp_path_factory.mktemp("resume")
    common = [
        *tiny, f"callbacks.warmup_decay.max_steps={LENGTH}", "data.validation_fraction=0", "callbacks.best=null",
        "callbacks.progress=null", "+trainer.enable_progress_bar=false",
    ]  # fmt: skip
    for processes in (1, 2, 4):
        firsts = {
            name: [*common, *layout.saving(), f"max_steps={INTERRUPTED}"]
            for name, layout in LAYOUTS.items()
            if layout.processes == processes
        }
        if processes == 1:
            firsts["whole"] = [*common, *LAYOUTS["one"].command(), f"max_steps={LENGTH}"]
        for name in DROPPED:
            if LAYOUTS[name].processes == processes:
                dropped = [*common, *LAYOUTS[name].saving(), *DROPOUT]
                firsts[f"{name}_dropped"] = [*dropped, f"max_steps={LENGTH}"]
                firsts[f"{name}_dropped_first"] = [*dropped, f"max_steps={INTERRUPTED}"]
        launch(processes, folder, firsts)
    for processes in (1, 2, 4):
        seconds = {
            f"{first}-{second}": [
                *common, *LAYOUTS[second].command(), f"max_steps={LENGTH}", f"resume={folder / first}",
            ]
            for first, second in PAIRS
            if LAYOUTS[second].processes == processes
        } | {
            f"{name}_dropped_second": [
                *common, *LAYOUTS[name].command(), *DROPOUT, f"max_steps={LENGTH}",
                f"resume={folder / name}_dropped_first",
            ]
            for name in DROPPED
            if LAYOUTS[name].processes == processes
        }  # fmt: skip
        launch(processes, folder, seconds)
    return folder


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_run_goes_on_as_if_unbroken(first: str, second: str, runs: Path) -> None:
    expected, found = losses(runs / "whole"), losses(runs / f"{first}-{second}")
    assert sorted(found) == [4, 5, 6]
    assert found == pytest.approx({step: expected[step] for step in found}, abs=1e-5)
    weights = load(runs / "whole").state_dict()
    trained = load(runs / f"{first}-{second}").state_dict()
    assert trained.keys() == weights.keys()
    for name, of_one in weights.items():
        assert (trained[name] - of_one).abs().max() < 1e-4, name


@pytest.mark.parametrize("name", DROPPED)
def test_a_run_with_dropout_goes_on_as_if_unbroken(name: str, runs: Path) -> None:
    expected, found = losses(runs / f"{name}_dropped"), losses(runs / f"{name}_dropped_second")
    assert sorted(found) == [4, 5, 6]
    assert found == {step: expected[step] for step in found}
    assert expected != pytest.approx(losses(runs / "whole"), abs=1e-3), "dropout takes part"
    weights = load(runs / f"{name}_dropped").state_dict()
    trained = load(runs / f"{name}_dropped_second").state_dict()
    assert all(torch.equal(trained[key], tensor) for key, tensor in weights.items())


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.in_parts])
def test_each_process_saves_what_it_holds(name: str, runs: Path) -> None:
    checkpoint = runs / name / "checkpoints" / "last.ckpt"
    parts = sorted(path.name for path in checkpoint.glob("*.distcp"))
    assert parts == [f"__{rank}_0.distcp" for rank in range(LAYOUTS[name].processes)]


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.in_parts])
def test_parts_become_one_file(name: str, runs: Path, tiny: list[str], tmp_path: Path) -> None:
    expected = load(runs / name)
    export_weights(runs / name, tmp_path / "model.safetensors")
    started = compose(
        *tiny, "max_steps=1", f"model.weights={tmp_path / 'model.safetensors'}", directory=str(tmp_path / "run")
    )
    for found in (load(tmp_path / "model.safetensors"), started.objective):
        assert found.state_dict().keys() == expected.state_dict().keys()
        assert all(torch.equal(tensor, expected.state_dict()[key]) for key, tensor in found.state_dict().items())


def test_parts_become_a_folder_of_transformers(runs: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    export_checkpoint(runs / "tensor_2", tmp_path / "exported")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported").eval()
    ids = torch.arange(4, 24)[None]
    with torch.no_grad():
        expected = load(runs / "tensor_2")({"input_ids": ids})
        torch.testing.assert_close(model(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_every_kind_follows_every_kind() -> None:
    kinds = {layout.kind for layout in LAYOUTS.values()}
    covered = {(LAYOUTS[first].kind, LAYOUTS[second].kind) for first, second in PAIRS}
    assert covered >= {(one, other) for one in kinds for other in kinds} - {("one", "one")}
    sizes = {(LAYOUTS[first].processes, LAYOUTS[second].processes) for first, second in PAIRS}
    assert sizes >= {(1, 4), (2, 4), (4, 4), (4, 2), (4, 1)}
