"""A checkpoint gives back exactly the network that wrote it, and never runs what somebody put into it."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import lmmodules
from lmmodules.callbacks import ConfigSnapshot
from lmmodules.callbacks.config_snapshot import SNAPSHOT_KEY
from lmmodules.checkpoint import (
    build,
    load,
    load_tokenizer,
    read_checkpoint,
    read_snapshot,
    resolve_checkpoint,
    write_weights,
)
from lmmodules.data import ByteLevelBPE, text_corpus
from lmmodules.errors import InputError
from lmmodules.objectives import CausalLM, LanguageModel, MaskedLM

VOCABULARY = 50
IDS = torch.arange(24).view(2, 12)


def model_node(causal: bool) -> dict[str, Any]:
    return {
        "_target_": "lmmodules.models.Transformer",
        "vocab_size": VOCABULARY,
        "hidden_size": 8,
        "num_layers": 2,
        "num_heads": 2,
        "causal": causal,
        "position": {"_target_": "lmmodules.models.Learned", "max_length": 16, "hidden_size": 8},
    }


def objective_node(causal: bool) -> dict[str, Any]:
    name = "CausalLM" if causal else "MaskedLM"
    return {"_target_": f"lmmodules.objectives.{name}", "label_smoothing": 0.1}


def batches(causal: bool) -> DataLoader[dict[str, Tensor]]:
    labels = IDS + 1
    if not causal:
        labels[:, ::2] = -100
    return DataLoader([{"input_ids": IDS, "labels": labels}] * 2, batch_size=None)


def train(causal: bool, path: Path, tokenizer: str | None = None) -> LanguageModel:
    """Two steps of a real trainer, and its own checkpoint."""
    objective: LanguageModel = build(objective_node(causal), backbone=build(model_node(causal)))
    trainer = L.Trainer(
        max_steps=2,
        callbacks=[ConfigSnapshot(model_node(causal), objective_node(causal), tokenizer, {"seed": 3})],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(objective, batches(causal))
    trainer.save_checkpoint(path)
    return objective.eval()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[LanguageModel, Path]:
    """A causal model and its checkpoint, in the directory of a run."""
    path = tmp_path_factory.mktemp("run") / "checkpoints" / "last.ckpt"
    return train(True, path), path


@pytest.fixture
def change(whole: tuple[LanguageModel, Path], tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], Any]], Path]:
    """Writes the checkpoint anew with something in it changed."""

    def write(edit: Callable[[dict[str, Any]], Any]) -> Path:
        checkpoint = torch.load(whole[1], weights_only=True)
        edit(checkpoint)
        torch.save(checkpoint, tmp_path / "changed.ckpt")
        return tmp_path / "changed.ckpt"

    return write


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Path]:
    """A file that exists only if something was executed."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists(), "a checkpoint was executed"


class TestRoundTrip:
    @pytest.mark.parametrize("causal", [True, False])
    def test_weights_and_logits_are_the_same_bits(self, causal: bool, tmp_path: Path) -> None:
        trained = train(causal, tmp_path / "model.ckpt")
        untrained: LanguageModel = build(objective_node(causal), backbone=build(model_node(causal)))
        loaded = load(tmp_path / "model.ckpt")
        assert type(loaded) is (CausalLM if causal else MaskedLM)
        assert not loaded.training
        expected, found = trained.state_dict(), loaded.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert torch.equal(loaded({"input_ids": IDS}), trained({"input_ids": IDS}))
        assert not torch.equal(loaded({"input_ids": IDS}), untrained.eval()({"input_ids": IDS}))

    def test_options_of_the_objective_come_back(self, whole: tuple[LanguageModel, Path]) -> None:
        assert load(whole[1]).label_smoothing == 0.1

    def test_no_random_number_decides_what_is_loaded(self, whole: tuple[LanguageModel, Path]) -> None:
        torch.manual_seed(1)
        first = load(whole[1]).state_dict()
        torch.manual_seed(2)
        second = load(whole[1]).state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_a_compiled_network_is_read_into_a_plain_one(
        self, whole: tuple[LanguageModel, Path], change: Callable[..., Path]
    ) -> None:
        # What `torch.compile(backbone)` and a compiled block within it make of the names.
        def compile_names(checkpoint: dict[str, Any]) -> None:
            checkpoint["state_dict"] = {
                name.replace("backbone.", "backbone._orig_mod.").replace("blocks.1.", "blocks.1._orig_mod."): tensor
                for name, tensor in checkpoint["state_dict"].items()
            }
            assert any(name.count("_orig_mod.") == 2 for name in checkpoint["state_dict"])

        loaded = load(change(compile_names))
        expected = whole[0].state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())

    @pytest.mark.slow
    def test_the_names_are_those_that_torch_compile_makes(self) -> None:
        names = torch.compile(build(model_node(True))).state_dict()
        assert all(name.startswith("_orig_mod.") for name in names)

    def test_a_device_can_be_asked_for(self, whole: tuple[LanguageModel, Path]) -> None:
        meta = load(whole[1], device="meta")
        assert all(parameter.is_meta for parameter in meta.parameters())

    def test_the_whole_configuration_is_on_record(self, whole: tuple[LanguageModel, Path]) -> None:
        assert read_checkpoint(whole[1])[SNAPSHOT_KEY]["config"] == {"seed": 3}


class TestSnapshot:
    def test_it_is_that_of_the_whole(self, whole: tuple[LanguageModel, Path], tmp_path: Path) -> None:
        checkpoint = read_checkpoint(whole[1])
        write_weights(checkpoint, tmp_path / "x.safetensors")
        for path in (whole[1], whole[1].parent.parent, tmp_path / "x.safetensors"):
            assert read_snapshot(path) == checkpoint[SNAPSHOT_KEY]

    @pytest.mark.skipif(not Path("/proc/self/io").is_file(), reason="no /proc/self/io tells what a process has read")
    def test_weights_are_not_read_for_it(self, change: Callable[..., Path]) -> None:
        def enlarge(checkpoint: dict[str, Any]) -> None:
            checkpoint["state_dict"]["more"] = torch.ones(5_000_000)

        def read_so_far() -> int:
            return int(Path("/proc/self/io").read_text().split()[1])

        path = change(enlarge)
        start = read_so_far()
        read_snapshot(path)
        middle = read_so_far()
        read_checkpoint(path)
        assert middle - start < 1_000_000 < 20_000_000 < read_so_far() - middle

    def test_of_a_checkpoint_in_parts_the_parts_are_not_read(
        self, whole: tuple[LanguageModel, Path], tmp_path: Path
    ) -> None:
        snapshot = read_checkpoint(whole[1])[SNAPSHOT_KEY]
        (tmp_path / ".metadata").touch()
        torch.save({SNAPSHOT_KEY: snapshot}, tmp_path / "meta.pt")
        assert read_snapshot(tmp_path) == snapshot

    def test_what_is_wrong_is_told_as_for_the_whole(self, tmp_path: Path) -> None:
        torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
        with pytest.raises(InputError, match="was not written by lmmodules"):
            read_snapshot(tmp_path / "foreign.ckpt")
        (tmp_path / "cut.ckpt").write_bytes(b"PK")
        with pytest.raises(InputError, match="cannot be read as a checkpoint"):
            read_snapshot(tmp_path / "cut.ckpt")
        with pytest.raises(InputError, match="does not exist"):
            read_snapshot(tmp_path / "nowhere.ckpt")


class TestPath:
    def test_a_run_directory_means_its_last_checkpoint(self, whole: tuple[LanguageModel, Path]) -> None:
        directory = whole[1].parent.parent
        assert resolve_checkpoint(directory) == whole[1]
        assert resolve_checkpoint(str(directory)) == whole[1]
        assert isinstance(load(directory), CausalLM)

    def test_a_file_means_itself(self, whole: tuple[LanguageModel, Path]) -> None:
        assert resolve_checkpoint(whole[1]) == whole[1]

    @pytest.mark.parametrize("name", ["nowhere.ckpt", "nowhere/at/all.ckpt"])
    def test_a_missing_file_is_named(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=f"`checkpoint` must be a file .* but `.*{name}` does not exist"):
            load(tmp_path / name)

    def test_a_directory_without_a_checkpoint_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"`.*checkpoints/last\.ckpt` does not exist"):
            load(tmp_path)

    def test_a_checkpoint_in_parts_is_told_from_a_run_directory(self, tmp_path: Path) -> None:
        (tmp_path / ".metadata").touch()
        assert resolve_checkpoint(tmp_path) == tmp_path, "a run can be resumed from it"
        with pytest.raises(InputError, match=r"its index `\.metadata` is damaged"):
            load(tmp_path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
class TestDamage:
    @pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
    def test_a_truncated_file_is_one_sentence(
        self, share: float, whole: tuple[LanguageModel, Path], tmp_path: Path
    ) -> None:
        content = whole[1].read_bytes()
        (tmp_path / "cut.ckpt").write_bytes(content[: int(share * len(content))])
        with pytest.raises(InputError, match=r"`.*cut\.ckpt` cannot be read as a checkpoint: it is truncated"):
            load(tmp_path / "cut.ckpt")

    @pytest.mark.parametrize(
        "content",
        [b"", b"no checkpoint", b"\x80\x02.", b"\x80\x02X\x04\x00\x00\x00ab", b"\x80\x02h\x07.", b"PK\x03\x04"],
        ids=repr,
    )  # fmt: skip
    def test_bytes_that_trip_the_unpickler_are_one_sentence(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "x.ckpt").write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as a checkpoint"):
            load(tmp_path / "x.ckpt")

    @pytest.mark.parametrize("seed", range(25))
    def test_flipped_bytes_never_escape_as_anything_else(self, seed: int, tmp_path: Path) -> None:
        content = bytearray(pickle.dumps({SNAPSHOT_KEY: {"model": {}}, "state_dict": {"x": [1, 2]}}, protocol=2))
        generator = torch.Generator().manual_seed(seed)
        for place in torch.randint(len(content), (4,), generator=generator).tolist():
            content[place] = int(torch.randint(256, (), generator=generator))
        (tmp_path / "x.ckpt").write_bytes(content)
        with pytest.raises(InputError):
            load(tmp_path / "x.ckpt")

    @pytest.mark.parametrize(
        "content",
        [
            {"state_dict": {}},
            {SNAPSHOT_KEY: {"model": model_node(True), "objective": objective_node(True)}},
            {"state_dict": {}, SNAPSHOT_KEY: "a string"},
            {"state_dict": {}, SNAPSHOT_KEY: {"model": model_node(True)}},
            {"state_dict": {}, SNAPSHOT_KEY: {"model": {}, "objective": objective_node(True)}},
            [torch.zeros(2)],
            torch.zeros(2),
        ],
        ids=["no snapshot", "no weights", "not a snapshot", "no objective", "no target", "a list", "a tensor"],
    )
    def test_a_foreign_checkpoint_is_told_from_a_damaged_one(self, content: object, tmp_path: Path) -> None:
        torch.save(content, tmp_path / "foreign.ckpt")
        with pytest.raises(InputError, match=r"`.*foreign\.ckpt` was not written by lmmodules"):
            load(tmp_path / "foreign.ckpt")

    def test_a_checkpoint_of_lightning_alone_is_foreign(self, tmp_path: Path) -> None:
        trainer = L.Trainer(logger=False, enable_checkpointing=False, enable_model_summary=False, accelerator="cpu")
        trainer.strategy.connect(build(objective_node(True), backbone=build(model_node(True))))
        trainer.save_checkpoint(tmp_path / "plain.ckpt", weights_only=True)
        with pytest.raises(InputError, match="was not written by lmmodules"):
            load(tmp_path / "plain.ckpt")

    @pytest.mark.parametrize("spoil", ["miss", "add", "reshape"])
    def test_weights_of_another_network_are_named_in_one_line(self, spoil: str, change: Callable[..., Path]) -> None:
        name = "backbone.blocks.1.mlp.up.weight"

        def edit(checkpoint: dict[str, Any]) -> None:
            state = checkpoint["state_dict"]
            if spoil == "miss":
                del state[name]
            elif spoil == "add":
                state[name + ".more"] = torch.zeros(1)
            else:
                state[name] = torch.zeros(3, 3)

        with pytest.raises(InputError, match="does not hold the weights that its own configuration asks for") as caught:
            load(change(edit))
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_an_argument_that_no_class_takes_is_told(self, change: Callable[..., Path]) -> None:
        path = change(lambda checkpoint: checkpoint[SNAPSHOT_KEY]["objective"].update(lable_smoothing=0.1))
        with pytest.raises(InputError, match=r"`lmmodules\.objectives\.CausalLM` with arguments .* 'lable_smoothing'"):
            load(path)

    def test_a_class_that_is_gone_is_told(self, change: Callable[..., Path]) -> None:
        for target in ("lmmodules.objectives.Forgotten", "lmmodules.nowhere.CausalLM"):
            path = change(lambda c, target=target: c[SNAPSHOT_KEY]["objective"].update(_target_=target))
            with pytest.raises(InputError, match=f"`{target}`, which this version of the package does not have"):
                load(path)


class Spring:
    """Executes when unpickled the usual way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
class TestMalice:
    """Each of these would leave the file `trap` if it came to run."""

    def targets(self, trap: Path) -> dict[str, dict[str, Any]]:
        return {
            "a shell": {"_target_": "os.system", "command": f"touch {trap}"},
            "builtins": {"_target_": "builtins.eval", "source": f"open({str(trap)!r}, 'w')"},
            "a process": {"_target_": "subprocess.run", "args": ["touch", str(trap)]},
            "a class of ours that is no module": {"_target_": "lmmodules.checkpoint.Path", "path": str(trap)},
            "a function of ours": {"_target_": "lmmodules.run_directory.write_text", "path": str(trap), "text": "x"},
            "a module of ours": {"_target_": "lmmodules.checkpoint.os", "path": str(trap)},
            "through a module of ours": {"_target_": "lmmodules.checkpoint.os.system", "command": f"touch {trap}"},
            "a name alone": {"_target_": "eval", "source": f"open({str(trap)!r}, 'w')"},
            "a namesake": {"_target_": "lmmodules_evil.Module", "path": str(trap)},
            "nothing": {"_target_": ""},
        }

    CASES = (
        "a shell",
        "builtins",
        "a process",
        "a class of ours that is no module",
        "a function of ours",
        "a module of ours",
        "through a module of ours",
        "a name alone",
        "a namesake",
        "nothing",
    )

    @pytest.mark.parametrize("place", ["model", "objective", "inside the model", "in a list inside the objective"])
    @pytest.mark.parametrize("case", CASES)
    def test_a_target_is_refused(self, case: str, place: str, trap: Path, change: Callable[..., Path]) -> None:
        evil = self.targets(trap)[case]

        def edit(checkpoint: dict[str, Any]) -> None:
            snapshot = checkpoint[SNAPSHOT_KEY]
            if place == "inside the model":
                snapshot["model"]["position"] = evil
            elif place == "in a list inside the objective":
                snapshot["objective"]["head"] = {"any": [1, [evil]]}
            else:
                snapshot[place] = evil

        with pytest.raises(InputError, match="the checkpoint asks for"):
            load(change(edit))

    def test_the_cases_are_all_tried(self, trap: Path) -> None:
        assert set(self.CASES) == set(self.targets(trap))

    @pytest.mark.parametrize("place", ["alone", "in the snapshot", "in the weights", "beside them"])
    def test_a_pickle_that_executes_is_refused(self, place: str, trap: Path, tmp_path: Path) -> None:
        spring = Spring(trap)
        snapshot: dict[str, Any] = {"model": model_node(True), "objective": objective_node(True), "tokenizer": None}
        content: Any = {SNAPSHOT_KEY: snapshot, "state_dict": {}}
        if place == "alone":
            content = spring
        elif place == "in the snapshot":
            snapshot["tokenizer"] = spring
        elif place == "in the weights":
            content["state_dict"]["x"] = spring
        else:
            content["callbacks"] = {"x": spring}
        torch.save(content, tmp_path / "zip.ckpt")
        (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps(content))
        for name in ("zip.ckpt", "pickle.ckpt"):
            for read in (load, load_tokenizer, read_checkpoint):
                with pytest.raises(InputError, match="cannot be read as a checkpoint"):
                    read(tmp_path / name)

    def test_the_spring_would_have_gone_off(self, tmp_path: Path) -> None:
        torch.save(Spring(tmp_path / "executed"), tmp_path / "x.ckpt")
        torch.load(tmp_path / "x.ckpt", weights_only=False)
        assert (tmp_path / "executed").exists()


class TestTrust:
    @pytest.fixture
    def mine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        """A package of the user's with an objective and a function."""
        (tmp_path / "my_papers_for_the_test.py").write_text(
            "from lmmodules.objectives import CausalLM\n"
            "class Louder(CausalLM):\n"
            "    def __init__(self, backbone, *, volume):\n"
            "        super().__init__(backbone)\n"
            "        self.volume = volume\n"
            "def function(backbone):\n"
            "    raise AssertionError('called')\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        return "my_papers_for_the_test"

    def test_a_package_of_ones_own_is_let_in_by_name(self, mine: str, change: Callable[..., Path]) -> None:
        def edit(checkpoint: dict[str, Any]) -> None:
            checkpoint[SNAPSHOT_KEY]["objective"] = {"_target_": f"{mine}.Louder", "volume": 11}

        path = change(edit)
        with pytest.raises(InputError, match=rf"lies outside lmmodules; .*`trusted=\('lmmodules', '{mine}'\)`"):
            load(path)
        loaded = load(path, trusted=("lmmodules", mine))
        assert type(loaded).__name__ == "Louder"
        assert loaded.volume == 11

    def test_trust_is_for_modules_only(self, mine: str, change: Callable[..., Path]) -> None:
        path = change(lambda c: c[SNAPSHOT_KEY].update(objective={"_target_": f"{mine}.function"}))
        with pytest.raises(InputError, match="is not a module of a network"):
            load(path, trusted=("lmmodules", mine))

    def test_trust_in_another_does_not_include_our_own(self, mine: str, whole: tuple[LanguageModel, Path]) -> None:
        with pytest.raises(InputError, match=f"lies outside {mine}"):
            load(whole[1], trusted=(mine,))


def test_build_keeps_plain_values() -> None:
    node = {"a": [1, {"b": None}], "c": "text"}
    assert build(node) == node


class TestTokenizer:
    def test_it_comes_back(self, texts: Path, tmp_path: Path) -> None:
        tokenizer = ByteLevelBPE(vocab_size=300).train(text_corpus(texts))
        train(True, tmp_path / "model.ckpt", tokenizer.to_json())
        loaded = lmmodules.load_tokenizer(tmp_path / "model.ckpt")
        text = "the cat sees a dog."
        assert loaded.vocab_size == 300
        assert loaded.encode(text) == tokenizer.encode(text)
        assert loaded.decode(loaded.encode(text)) == text

    def test_a_checkpoint_may_have_none(self, whole: tuple[LanguageModel, Path], change: Callable[..., Path]) -> None:
        for path in (whole[1], change(lambda checkpoint: checkpoint[SNAPSHOT_KEY].pop("tokenizer"))):
            with pytest.raises(InputError, match="carries no tokenizer"):
                load_tokenizer(path)
