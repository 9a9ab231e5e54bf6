"""What a command says when an input is wrong, and that it says nothing when a run failed."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader, Dataset

import lmmodules
from lmmodules.command import (
    conf_directory,
    input_error,
    missing_value,
    no_empty_directory,
    quoted_text,
    run_command,
    told_in_one_sentence,
)
from lmmodules.composition import compose_config
from lmmodules.errors import InputError

Command = Callable[..., "subprocess.CompletedProcess[str]"]


class Broken(Dataset[int]):
    """Data that cannot be read."""

    def __init__(self, cause: Exception | None) -> None:
        self.cause = cause

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise InputError("`data.path` must hold text, but is broken") from self.cause


def raised(function: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        function()
    return caught.value


def chain(*errors: BaseException) -> BaseException:
    """The first error, caused by the second, and so on."""
    for error, cause in itertools.pairwise(errors):
        error.__cause__ = cause
    return errors[0]


class Picky:
    """A constructor that refuses."""

    def __init__(self, error: str = "input") -> None:
        if error == "input":
            raise InputError("`size` must be even, but is 3; use `model.size=4`")
        if error == "type":
            raise TypeError("unsupported operand type(s) for +")
        raise RuntimeError("the disk is on fire")


class TestInputError:
    def test_nothing_is_no_input_error(self) -> None:
        assert input_error(None) is None

    def test_our_own_is_told_as_it_is(self) -> None:
        assert input_error(InputError("`a` must be 1, but is 2")) == "`a` must be 1, but is 2"

    @pytest.mark.parametrize(
        "error", [RuntimeError("x"), ValueError("x"), KeyError("x"), TypeError("f() missing 1 required argument: 'x'")]
    )
    def test_a_run_that_failed_is_not_an_input(self, error: BaseException) -> None:
        assert input_error(error) is None
        assert input_error(chain(error, RuntimeError("y"))) is None

    def test_causes_are_searched(self) -> None:
        assert input_error(chain(RuntimeError("x"), ValueError("y"), InputError("`a` is wrong"))) == "`a` is wrong"

    def test_what_was_merely_being_handled_is_not_a_cause(self) -> None:
        error = RuntimeError("x")
        error.__context__ = InputError("`a` is wrong")
        assert input_error(error) is None

    @pytest.mark.parametrize("override", ["objective.lable_smoothing=0.1", "nosuchgroup=4", "model.hidden.size=3"])
    def test_a_misspelt_key_is_named(self, override: str) -> None:
        sentence = input_error(raised(lambda: compose_config("train", "max_steps=1", override)))
        key = override.partition("=")[0]
        assert sentence is not None
        assert f"`{key}` is not an option here" in sentence
        assert "\n" not in sentence

    def test_a_misspelt_option_of_a_group_brings_those_there_are(self) -> None:
        sentence = input_error(raised(lambda: compose_config("train", "max_steps=1", "model=decoder_smal")))
        assert sentence is not None
        assert sentence.startswith("`model` has no option `decoder_smal`; there are bert_base, ")
        options = sentence.partition("there are ")[2].split(", ")
        assert options == sorted(path.stem for path in (conf_directory() / "model").glob("*.yaml"))

    @pytest.mark.parametrize("override", ["objective", "max_steps=[1", "model@", "~nothing", "+seed=3"])
    def test_what_hydra_cannot_read_is_one_line(self, override: str) -> None:
        sentence = input_error(raised(lambda: compose_config("train", override)))
        assert sentence
        assert "\n" not in sentence

    @pytest.mark.parametrize(
        ("option", "package", "extra"),
        [
            ("launcher=slurm", "hydra-submitit-launcher", "sweep"),
            ("launcher=local", "hydra-submitit-launcher", "sweep"),
            ("launcher=submitit_local", "hydra-submitit-launcher", "sweep"),
            ("launcher=joblib", "hydra-joblib-launcher", "sweep"),
            ("sweeper=optuna", "hydra-optuna-sweeper", "optuna"),
        ],
    )
    def test_a_missing_plugin_is_named_with_its_extra(
        self, option: str, package: str, extra: str, command: Command, tmp_path: Path
    ) -> None:
        # An ordinary package of that name hides those that plugins share.
        (tmp_path / "hydra_plugins").mkdir()
        (tmp_path / "hydra_plugins/__init__.py").touch()
        said = command("train", "-m", f"hydra/{option}", "max_steps=1", environment={"PYTHONPATH": str(tmp_path)})
        assert said.returncode == 2
        assert said.stderr == f"lmm-train: `hydra/{option}` needs `{package}`: pip install 'lmmodules[{extra}]'\n"

    def test_a_key_that_code_asks_for_in_vain_is_one_line(self) -> None:
        config = OmegaConf.create({"steps": 1})
        OmegaConf.set_struct(config, True)
        sentence = input_error(raised(lambda: config.stepz))
        assert sentence is not None
        assert "stepz" in sentence
        assert "full_key" not in sentence
        assert "object_type" not in sentence
        assert "\n" not in sentence

    def test_a_missing_length_says_what_to_do(self) -> None:
        sentence = input_error(raised(lambda: compose_config("train").max_steps))
        assert sentence == missing_value("max_steps")
        assert "`max_steps=1000`" in sentence
        assert "`experiment=start_here`" in sentence

    def test_any_other_missing_value_is_named_in_full(self) -> None:
        config = OmegaConf.create({"data": {"path": "???"}})
        assert input_error(raised(lambda: config.data.path)) == (
            "`data.path` is missing: give it on the command line, as `data.path=...`"
        )

    def test_a_missing_value_behind_a_constructor_is_found(self) -> None:
        node = OmegaConf.create({"trainer": {"_target_": "builtins.dict", "steps": "${max_steps}"}, "max_steps": "???"})
        sentence = input_error(raised(lambda: instantiate(node.trainer)))
        assert sentence == "`trainer.steps` is missing: give it on the command line, as `trainer.steps=...`"

    def test_our_own_inside_hydras_wrapping_is_told(self) -> None:
        error = raised(lambda: instantiate({"_target_": f"{__name__}.Picky"}, _convert_="all"))
        assert isinstance(error, InstantiationException)
        assert input_error(error) == "`size` must be even, but is 3; use `model.size=4`"

    def test_an_argument_that_a_constructor_does_not_take_is_told(self) -> None:
        node = OmegaConf.create({"_target_": "lmmodules.callbacks.RankZeroLogging", "every_step": 3})
        sentence = input_error(raised(lambda: instantiate(node)))
        assert sentence is not None
        assert "unexpected keyword argument 'every_step'" in sentence

    def test_an_argument_that_a_constructor_misses_is_told(self) -> None:
        sentence = input_error(raised(lambda: instantiate({"_target_": "lmmodules.models.Alibi"})))
        assert sentence is not None
        assert "missing 1 required positional argument: 'num_heads'" in sentence

    def test_a_constructor_that_failed_is_a_run_that_failed(self) -> None:
        assert input_error(raised(lambda: instantiate({"_target_": f"{__name__}.Picky", "error": "run"}))) is None

    def test_a_constructor_that_refused_its_values_was_given_wrong_ones(self) -> None:
        node = OmegaConf.create({"picky": {"_target_": f"{__name__}.Picky", "error": "type"}})
        sentence = input_error(raised(lambda: instantiate(node.picky)))
        assert sentence == "`picky` was refused: unsupported operand type(s) for +"


class TestToldInOneSentence:
    def test_an_input_ends_with_two_and_one_line(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("LMM_TRACEBACK", raising=False)
        with pytest.raises(SystemExit) as caught, told_in_one_sentence("lmm-train"):
            raise InputError("`a` must be 1, but is 2")
        assert caught.value.code == 2
        out, err = capsys.readouterr()
        assert (out, err) == ("", "lmm-train: `a` must be 1, but is 2\n")

    def test_who_wants_the_traceback_gets_it(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LMM_TRACEBACK", "1")
        with pytest.raises(InputError), told_in_one_sentence("lmm-train"):
            raise InputError("`a` must be 1, but is 2")
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize("cause", [None, KeyError("within")])
    def test_of_an_error_in_a_worker_the_sentence_is_told(
        self, cause: Exception | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("LMM_TRACEBACK", raising=False)
        loader = DataLoader(Broken(cause), num_workers=1)
        with pytest.raises(SystemExit) as caught, told_in_one_sentence("lmm-train"):
            next(iter(loader))
        assert caught.value.code == 2
        assert capsys.readouterr().err == "lmm-train: `data.path` must hold text, but is broken\n"
        with pytest.raises(InputError) as whole:
            next(iter(loader))
        assert str(whole.value) == "`data.path` must hold text, but is broken"
        assert "in __getitem__" in str(whole.value.__cause__)  # where it was raised, for who wants the traceback

    @pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), SystemExit(7)])
    def test_everything_else_goes_through(self, error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(type(error)) as caught, told_in_one_sentence("lmm-train"):
            raise error
        assert caught.value is error
        assert capsys.readouterr().err == ""

    def test_a_command_that_succeeds_says_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        with told_in_one_sentence("lmm-train"):
            pass
        assert capsys.readouterr().err == ""


class TestNoEmptyDirectory:
    @pytest.fixture(autouse=True)
    def here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def fail(self, directory: Path) -> None:
        with pytest.raises(RuntimeError, match="x"), no_empty_directory(directory):
            raise RuntimeError("x")

    def test_an_empty_one_goes_with_the_empty_ones_that_hold_it(self, here: Path) -> None:
        directory = here / "runs" / "day" / "hour"
        directory.mkdir(parents=True)
        self.fail(directory)
        assert here.is_dir()
        assert not list(here.iterdir())

    def test_what_holds_something_stays(self, here: Path) -> None:
        directory, other = here / "runs" / "day" / "hour", here / "runs" / "other"
        directory.mkdir(parents=True)
        other.mkdir()
        self.fail(directory)
        assert [path.name for path in (here / "runs").iterdir()] == ["other"]
        (other / "metrics.csv").touch()
        self.fail(other)
        assert (other / "metrics.csv").exists()

    def test_the_working_directory_stays(self, here: Path) -> None:
        self.fail(here)
        assert here.is_dir()

    def test_a_directory_that_was_never_made_is_no_matter(self, here: Path) -> None:
        self.fail(here / "nowhere")
        assert here.is_dir()

    def test_success_leaves_it(self, here: Path) -> None:
        with no_empty_directory(here / "runs"):
            (here / "runs").mkdir()
        assert (here / "runs").is_dir()

    def test_an_interruption_counts(self, here: Path) -> None:
        (here / "runs").mkdir()
        with pytest.raises(KeyboardInterrupt), no_empty_directory(here / "runs"):
            raise KeyboardInterrupt
        assert not (here / "runs").exists()


class TestConfDirectory:
    def test_it_holds_the_configuration(self) -> None:
        assert conf_directory().is_absolute()
        assert isinstance(OmegaConf.load(conf_directory() / "train.yaml"), DictConfig)

    def test_a_wheel_keeps_it_inside_and_a_checkout_beside(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = tmp_path / "lmmodules"
        package.mkdir()
        monkeypatch.setattr("lmmodules.command.__file__", str(package / "command.py"))
        assert conf_directory() == tmp_path / "conf"
        (package / "conf").mkdir()
        assert conf_directory() == package / "conf"

    def test_every_command_has_its_yaml(self) -> None:
        package = Path(lmmodules.__file__).parent
        for name in ("train", "preview", "evaluate", "generate", "export", "reproduce"):
            assert (package / f"{name}.py").exists()
            assert (conf_directory() / f"{name}.yaml").exists()


class TestTexts:
    @pytest.mark.parametrize(
        "text", ["def area(", "    return c", "it's, \\", "${seed}", "\\${a}'", "1e3", "null", "", "a\n=b\t"]
    )
    def test_are_taken_letter_by_letter(self, text: str) -> None:
        config = compose_config("generate", quoted_text(f"prefix={text}", ["prefix"]))
        assert config.prefix == text

    def test_of_any_signs(self) -> None:
        signs = ["\\", "'", '"', "${", "}", "{", "[", "a", "=", ",", "\n", "é", " ", "#", "😀", "${a}", "oc.env:HOME"]
        generator = random.Random(0)
        parser = OverridesParser.create()
        for _ in range(2000):
            text = "".join(generator.choices(signs, k=generator.randrange(9)))
            [override] = parser.parse_overrides([quoted_text(f"prompt={text}", ["prompt"])])
            assert OmegaConf.create({"prompt": override.value()}).prompt == text

    def test_other_values_stay_as_they_are(self) -> None:
        for argument in ("seed=1", "prompt", "-m", "+prompt=x", "model.prompt=a"):
            assert quoted_text(argument, ["prompt"]) == argument

    def test_the_command_line_is_read_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["lmm-generate", "prefix=def add(a, b):", "suffix=    return c", "seed=3"])
        seen = []
        run_command(
            lambda config: seen.append((config.prefix, config.suffix, config.seed)), "generate", ["prefix", "suffix"]
        )
        assert seen == [("def add(a, b):", "    return c", 3)]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("data.path=a(b", "`data.path=a(b` has signs that must be quoted"),
        ("model.dropout=)", "`model.dropout=)` has signs that must be quoted"),
        ("data.path=a,b(", "`data.path=a,b(` has signs that must be quoted"),
        ("checkpoint", "`checkpoint` must have the form key=value"),
        ("model=3", "a group such as `model` takes the name of one of its options"),
    ],
)
def test_what_hydra_cannot_read_is_told(override: str, sentence: str) -> None:
    with pytest.raises((HydraException, ValueError)) as caught:
        compose_config("train", override)
    assert sentence in str(input_error(caught.value))
