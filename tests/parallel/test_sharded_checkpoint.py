"""A checkpoint in parts is whole or refused in one sentence, and takes the place of another without a gap."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

import lmmodules.parallel.replacing
from lmmodules.callbacks import WholeCheckpoints
from lmmodules.checkpoint import read_checkpoint, resolve_checkpoint
from lmmodules.errors import InputError
from lmmodules.launch import checkpoint_before_restart
from lmmodules.parallel.replacing import partial_of, put_in_place, replaced_by
from lmmodules.parallel.sharded_checkpoint import REST, damage_told, read_whole

Write = Callable[[Path, float], None]


def write_parts(folder: Path, value: float) -> None:
    """What a process leaves in which `value` is the only weight."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    state = {"state_dict": {"weight": torch.full((64,), value)}}
    dcp.save(state, storage_writer=dcp.FileSystemWriter(folder), no_dist=True)
    torch.save({"global_step": 3}, folder / REST)


def write_file(file: Path, value: float) -> None:
    torch.save({"state_dict": {"weight": torch.full((64,), value)}}, file)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    write_parts(tmp_path / "run/checkpoints/last.ckpt", 1.0)
    return tmp_path / "run/checkpoints/last.ckpt"


def weight(path: Path) -> Tensor:
    state = read_whole(path) if path.is_dir() else torch.load(path, weights_only=True)
    found: Tensor = state["state_dict"]["weight"]
    return found


class TestDamage:
    def refusal(self, path: Path) -> str:
        with pytest.raises(InputError) as caught:
            read_checkpoint(path)
        return str(caught.value)

    def test_a_truncated_part(self, parts: Path) -> None:
        (part,) = parts.glob("*.distcp")
        size = part.stat().st_size
        with part.open("r+b") as file:
            file.truncate(size // 2)
        assert self.refusal(parts) == (
            f"`{part}` must have at least {size} bytes, by the index of the checkpoint, but has {size // 2}; copy the "
            "whole directory, or use an earlier checkpoint"
        )

    @pytest.mark.parametrize("given", ["the checkpoint", "the run"])
    def test_a_missing_index(self, given: str, parts: Path) -> None:
        (parts / ".metadata").unlink()
        assert self.refusal(parts if given == "the checkpoint" else parts.parents[1]) == (
            f"`{parts}` is a checkpoint in parts and must have its index, but `.metadata` is missing; copy the whole "
            "directory, or use an earlier checkpoint"
        )

    @pytest.mark.parametrize("name", ["__0_0.distcp", REST])
    def test_a_missing_part(self, name: str, parts: Path) -> None:
        (parts / name).unlink()
        assert f"a checkpoint of 1 parts and must have all of them, but `{name}` is missing" in self.refusal(parts)

    def test_bytes_that_are_others(self, parts: Path) -> None:
        (part,) = parts.glob("*.distcp")
        part.write_bytes(bytes(part.stat().st_size))
        assert self.refusal(parts) == (
            f"`{parts}` cannot be read as a checkpoint: a part of it is truncated or damaged"
        )
        with pytest.raises(InputError, match="a part of it is damaged, or belongs to another"), damage_told(parts):
            dcp.load({"state_dict": {"weight": torch.zeros(64)}}, checkpoint_id=parts, no_dist=True)


class TestReplacing:
    @pytest.mark.parametrize("before", [write_parts, write_file, None])
    @pytest.mark.parametrize("after", [write_parts, write_file])
    @pytest.mark.parametrize("killed_before", [0, 1, 2, 3, 4])
    def test_a_kill_leaves_one_of_the_two(
        self, before: Write | None, after: Write, killed_before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target = tmp_path / "checkpoints" / "last.ckpt"
        target.parent.mkdir()
        if before is not None:
            before(target, 1.0)
        after(partial_of(target), 2.0)
        count = [0]

        def counted(original: Any) -> Any:
            def change(*arguments: Any, **options: Any) -> Any:
                if count[0] == killed_before:
                    raise KeyboardInterrupt
                count[0] += 1
                return original(*arguments, **options)

            return change

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", counted(Path.replace))
            patched.setattr(lmmodules.parallel.replacing, "remove", counted(lmmodules.parallel.replacing.remove))
            try:
                put_in_place(target)
                finished = True
            except KeyboardInterrupt:
                finished = False
        if before is None and count[0] == 0:
            return  # nothing has had the name yet
        found = weight(resolve_checkpoint(tmp_path))
        assert found.tolist() in ([1.0] * 64, [2.0] * 64)
        # The next one has no trouble with what is left.
        after(partial_of(target), 3.0)
        put_in_place(target)
        assert weight(target).tolist() == [3.0] * 64
        assert not replaced_by(target).exists()
        assert not partial_of(target).exists()
        assert finished or killed_before < 4

    def test_a_job_that_is_started_again_finds_it(self, parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run = parts.parents[1]
        parts.replace(replaced_by(parts))
        assert checkpoint_before_restart(run) is None
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        assert checkpoint_before_restart(run) == str(replaced_by(parts))
        assert checkpoint_before_restart(run / "nowhere") is None

    def test_one_file_takes_the_place_of_parts(self, parts: Path) -> None:
        write_parts(partial_of(parts), 4.0)  # as a kill leaves it
        WholeCheckpoints().save_checkpoint({"state_dict": {"weight": torch.full((64,), 5.0)}}, parts)
        assert parts.is_file()
        assert weight(parts).tolist() == [5.0] * 64
