"""`lmm-reproduce` measures a claim in every seed, goes on where it was stopped, and writes pages."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

import lmmodules.reproduce
from lmmodules.claims import Below, Claim, find_claims
from lmmodules.command import conf_directory
from lmmodules.composition import compose_config
from lmmodules.errors import InputError
from lmmodules.reproduce import checked_seeds, reproduce, results_directory

MICRO = (
    "model.num_layers=1",
    "model.hidden_size=32",
    "data.max_length=32",
    "max_steps=2",
    "validate_every_steps=1",
    "trainer.limit_val_batches=1",
)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DictConfig]:
    """The configuration of the command, for a directory of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *overrides: compose_config("reproduce", "seeds=[0,1]", *overrides)


def offer(claim: Claim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmmodules.reproduce, "find_claims", lambda paper, name: [claim])
    monkeypatch.setattr(lmmodules.reproduce, "all_claims", lambda: [claim])


@pytest.fixture
def micro(texts: Path, monkeypatch: pytest.MonkeyPatch) -> Claim:
    """A claim of two runs of two steps."""
    claim = Claim(
        paper="bert",
        name="hurry",
        statement="Who learns nothing knows less.",
        source="nowhere",
        reported="Nothing.",
        arms={"some": (), "none": ("optimizer.lr=1e-9",)},
        rules=(Below("some", "none"),),
        setting=("objective=masked_lm", f"data.path={texts}", "data.validation_fraction=0.34"),
        sizes={"cpu": (*MICRO, "model=encoder_tiny", "tokenizer.vocab_size=300", "optimizer.lr=0.01"), "gpu": ()},
    )
    offer(claim, monkeypatch)
    return claim


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """Twelve texts, so that there are several on either side of what is held out."""
    folder = tmp_path / "letters"
    folder.mkdir()
    for number in range(12):
        lines = [f"Dear number {number}, on day {day} it rained {day * number % 7} times." for day in range(40)]
        (folder / f"{number}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.slow
class TestEndToEnd:
    def test_what_it_leaves(
        self, micro: Claim, asked: Callable[..., DictConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (result,) = reproduce(asked())
        out = capsys.readouterr().out
        for seed in (0, 1):
            for arm in ("some", "none"):
                assert re.search(rf"^bert hurry, seed {seed}, {arm}: validation loss \d\.\d{{3}} \(\d+ s\)$", out, re.M)
        assert "bert hurry: held" in out
        assert "met: `some` is below `none` in every seed" in out
        folder = tmp_path / "runs" / "reproduce"
        assert out.rstrip().endswith("written to runs/reproduce/README.md")
        assert {path.name for path in folder.iterdir() if path.is_file()} == {
            "bert_hurry.json",
            "bert_hurry.md",
            "bert_hurry.png",
            "README.md",
        }
        content = json.loads((folder / "bert_hurry.json").read_text())
        assert list(content["seeds"]) == ["0", "1"]
        assert [step for step, _ in content["seeds"]["1"]["curves"]["some"]] == [1, 2]
        assert result.mean("some") == sum(seed["figures"]["some"] for seed in content["seeds"].values()) / 2
        runs = sorted(path.parent.name.partition("-")[0] for path in folder.rglob("outcome.json"))
        assert runs == ["none", "none", "some", "some"]

    def test_it_goes_on_where_it_was_stopped(
        self, micro: Claim, asked: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import lmmodules.trial

        train, trained = lmmodules.trial._train, []

        def stopped(overrides: tuple[str, ...], directory: Path) -> None:
            if len(trained) == 3:
                raise KeyboardInterrupt
            trained.append(directory)
            train(overrides, directory)

        monkeypatch.setattr(lmmodules.trial, "_train", stopped)
        with pytest.raises(KeyboardInterrupt):
            reproduce(asked())
        before = len(trained)
        monkeypatch.setattr(lmmodules.trial, "_train", lambda o, d: (trained.append(d), train(o, d))[1])
        (result,) = reproduce(asked())
        assert (before, len(trained), len(set(trained))) == (3, 4, 4)
        (again,) = reproduce(asked())
        assert len(trained) == 4
        assert again == result

    def test_pages_can_be_drawn_again(
        self, micro: Claim, asked: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        assert reproduce(asked("render_only=true", "output=there")) == []
        reproduce(asked("output=there", "seeds=[0]"))
        page = tmp_path / "there" / "bert_hurry.md"
        offer(replace(micro, statement="It is said otherwise."), monkeypatch)
        (result,) = reproduce(asked("render_only=true", "output=there", "runs=nowhere"))
        assert list(result.seeds) == [0]
        assert "> It is said otherwise." in page.read_text()
        assert not (tmp_path / "nowhere").exists()


@pytest.mark.slow
class TestClaims:
    """The claims themselves, on little text and for two steps."""

    @pytest.fixture
    def figures(
        self, letters: Path, asked: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
    ) -> Callable[[str, str], dict[str, float]]:
        """Measures a claim in one seed."""
        text = (f"data.path={letters}", "data.validation_fraction=0.5", "tokenizer.vocab_size=300")

        def measure(paper: str, name: str) -> dict[str, float]:
            (claim,) = find_claims(paper, name)
            setting = ["data=text" if override == "data=standard_library" else override for override in claim.setting]
            offer(replace(claim, setting=setting, sizes={"cpu": (*claim.sizes["cpu"], *MICRO, *text)}), monkeypatch)
            (result,) = reproduce(asked("seeds=[0]"))
            assert all(4.0 < figure < 8.0 for figure in result.seeds[0].figures.values())
            assert all([x for x, _ in curve] == [1, 2] for curve in result.seeds[0].curves.values())
            return result.seeds[0].figures

        return measure

    def test_warmup(self, figures: Callable[[str, str], dict[str, float]]) -> None:
        found = figures("bert", "warmup")
        assert set(found) == set(find_claims("bert", "warmup")[0].arms)
        assert found["with warmup"] == found["without warmup"], "a tenth of two steps is none"
        assert len(set(found.values())) == 3

    def test_dynamic_masking(self, figures: Callable[[str, str], dict[str, float]]) -> None:
        found = figures("roberta", "dynamic_masking")
        assert len(found) == 3
        assert len(set(found.values())) == 1, "all masks are new in the first epoch"

    def test_input_formats(self, figures: Callable[[str, str], dict[str, float]], tmp_path: Path) -> None:
        found = figures("roberta", "input_formats")
        assert list(found)[:3] == ["full sentences", "doc sentences", "segment pairs"]
        # The same text, masks and network, once while it trained and once again.
        assert found["full sentences"] == pytest.approx(found["full sentences, in its own form"], rel=0.05)
        pairs = figures("roberta", "sentence_pairs")
        assert pairs["segment pairs"] == found["segment pairs"]
        runs = [path.parent.name.partition("-")[0] for path in tmp_path.rglob("outcome.json")]
        assert sorted(runs) == ["doc_sentences", "full_sentences", "segment_pairs", "sentence_pairs"], "each once"


class TestRefusals:
    def test_scale(self, asked: Callable[..., DictConfig]) -> None:
        with pytest.raises(InputError, match="`scale` must be one of cpu, gpu, but is `tpu`; use `scale=cpu`"):
            reproduce(asked("scale=tpu"))

    @pytest.mark.parametrize("seeds", ["[]", "[-1]", "[a]", "[0.5]", "[true]", "null"])
    def test_seeds(self, asked: Callable[..., DictConfig], seeds: str) -> None:
        with pytest.raises(
            InputError, match=r"`seeds` must be whole numbers, at least 0, but is .*; use `seeds=\[0,1,2\]`"
        ):
            reproduce(asked(f"seeds={seeds}"))

    def test_claim(self, asked: Callable[..., DictConfig]) -> None:
        with pytest.raises(
            InputError,
            match="`claim` must be one of dynamic_masking, input_formats, sentence_pairs, fine_tuning, but is `x`",
        ):
            reproduce(asked("paper=roberta", "claim=x"))

    def test_matplotlib_is_asked_for_before_anything_is_trained(
        self, asked: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        real = importlib.import_module

        def without(name: str, package: str | None = None) -> object:
            if name.startswith("matplotlib"):
                raise ImportError(name)
            return real(name, package)

        monkeypatch.setattr(importlib, "import_module", without)
        with pytest.raises(InputError, match=r"drawing the pictures of the results needs `matplotlib`: pip install"):
            reproduce(asked("paper=bert"))
        assert not (tmp_path / "runs").exists()


class TestArguments:
    def test_seeds(self) -> None:
        assert checked_seeds(OmegaConf.create([2, 0, 2])) == [2, 0]
        assert checked_seeds(4) == [4]

    def test_output(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert results_directory("here") == Path("here")
        monkeypatch.chdir(tmp_path)
        assert results_directory(None) == Path("runs/reproduce")
        root = conf_directory().parent
        if (root / "docs").is_dir():
            monkeypatch.chdir(root)
            assert results_directory(None) == Path("docs/results")


@pytest.mark.slow
class TestCommandLine:
    def test_an_unknown_paper_is_one_sentence_and_exit_code_2(
        self, command: Callable[..., object], tmp_path: Path
    ) -> None:
        ended = command("reproduce", "paper=gpt5")
        assert ended.returncode == 2
        assert re.fullmatch(
            r"lmm-reproduce: `paper` must be one of .*bert.*roberta.*, but is `gpt5`; use `.*`\n", ended.stderr
        )
        assert not list(tmp_path.iterdir())

    def test_help(self, command: Callable[..., object]) -> None:
        ended = command("reproduce", "--help")
        assert ended.returncode == 0
        assert "lmm-reproduce paper=roberta claim=dynamic_masking" in ended.stdout
