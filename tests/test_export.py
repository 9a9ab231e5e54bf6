"""`lmm-export`: transformers opens the folder with the same logits and the same ids; nothing is left half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lmmodules
from lmmodules import InputError, compose
from lmmodules.callbacks.config_snapshot import SNAPSHOT_KEY
from lmmodules.export import FILES, export_checkpoint, written_whole

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

TEXTS = [
    "the cat sees   a dog 7.\n\tmy aunt",
    "Größe, 北京 \U0001f600 don't",
    "</s> a <mask> <pad><s>",
    " leading and trailing ",
    "",
]


@pytest.fixture(scope="module")
def runs(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Runs of two steps, each made once."""

    def run(*overrides: str) -> Path:
        directory = tmp_path_factory.getbasetemp() / "-".join(["export", *overrides]).replace("/", "_")
        if not directory.exists():
            compose(*tiny, "max_steps=2", *overrides, directory=str(directory)).fit()
        return directory

    return run


@pytest.mark.parametrize(
    ("overrides", "auto", "opener"),
    [
        ([], "AutoModelForCausalLM", "GPTNeoXForCausalLM"),
        (["position=learned", "model.max_length=40"], "AutoModelForCausalLM", "GPT2LMHeadModel"),
        (["objective=masked_lm", "model=encoder_tiny"], "AutoModelForMaskedLM", "EsmForMaskedLM"),
    ],
)
def test_the_same_logits_and_ids(runs, overrides, auto, opener, tmp_path):
    run = runs(*overrides)
    output = tmp_path / "exported"
    assert export_checkpoint(run, output) == opener
    assert {path.name for path in output.iterdir()} == set(FILES) - {"generation_config.json"}

    objective, tokenizer = lmmodules.load(run), lmmodules.load_tokenizer(run)
    model, info = getattr(transformers, auto).from_pretrained(output, output_loading_info=True)
    assert not any(info.values()), info
    theirs = transformers.AutoTokenizer.from_pretrained(output)
    for text in TEXTS:
        ids = tokenizer.encode(text, parse_special_tokens=True)
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids) == tokenizer.decode(ids, skip_special_tokens=False) == text
    assert tokenizer.mask_id in theirs(TEXTS[2])["input_ids"]
    for role in ("bos", "eos", "pad", "unk", "mask"):
        assert getattr(theirs, f"{role}_token_id") == tokenizer.id_of(role)
    assert len(theirs) == tokenizer.vocab_size
    assert theirs.model_max_length == (objective.backbone.max_length or 32)

    batch = theirs(TEXTS[:2], padding=True, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"}
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        found = model.eval()(**batch).logits[real]
        expected = objective(dict(batch))[real]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_it_comes_back_as_it_went(runs, tmp_path):
    from lmmodules.models.hugging_face_folder import from_hugging_face

    run = runs()
    export_checkpoint(run, tmp_path / "exported")
    backbone, _ = from_hugging_face(tmp_path / "exported")
    expected = lmmodules.load(run).backbone.state_dict()
    assert backbone.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in backbone.state_dict().items())


def test_a_wrapped_model_goes_as_it_came(runs, tmp_path, caplog):
    config = transformers.DistilBertConfig(vocab_size=300, dim=16, n_layers=2, n_heads=2, hidden_dim=24)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "wrapped")
    run = runs("objective=masked_lm", "model=hugging_face", f"model.name={tmp_path / 'wrapped'}")
    assert export_checkpoint(run, tmp_path / "exported") == "DistilBertModel"
    assert "the head of `MaskedLM` is left out" in caplog.text
    model = transformers.AutoModel.from_pretrained(tmp_path / "exported").eval()
    ids = torch.arange(5, 15)[None]
    assert torch.equal(model(input_ids=ids).last_hidden_state, lmmodules.load(run).backbone(ids))
    before = transformers.AutoModel.from_pretrained(tmp_path / "wrapped").eval()
    assert not torch.equal(model(input_ids=ids).last_hidden_state, before(input_ids=ids).last_hidden_state)


def test_a_checkpoint_without_a_tokenizer(runs, tmp_path, caplog):
    checkpoint = torch.load(runs() / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint[SNAPSHOT_KEY]["tokenizer"] = None
    torch.save(checkpoint, tmp_path / "last.ckpt")
    export_checkpoint(tmp_path / "last.ckpt", tmp_path / "exported")
    assert {path.name for path in (tmp_path / "exported").iterdir()} == {"config.json", "model.safetensors"}
    assert "carries no tokenizer" in caplog.text


class TestTheFolder:
    def test_what_is_there_stays_unless_it_is_an_export_to_be_replaced(self, runs, tmp_path):
        output = tmp_path / "deeply" / "exported"
        export_checkpoint(runs(), output)
        (output / "tokenizer.json").write_text("old")
        with pytest.raises(InputError, match=r"`output` must be a new folder, .*; use `overwrite=true`"):
            export_checkpoint(runs(), output)
        assert (output / "tokenizer.json").read_text() == "old"
        export_checkpoint(runs(), output, overwrite=True)
        assert json.loads((output / "tokenizer.json").read_text())
        assert [path.name for path in output.parent.iterdir()] == ["exported"]

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_other_files_are_never_touched(self, runs, tmp_path, overwrite):
        (tmp_path / "config.json").touch()
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(InputError, match=r"must not hold anything but an export, but `.*` has `thesis.tex`"):
            export_checkpoint(runs(), tmp_path, overwrite=overwrite)
        with pytest.raises(InputError, match=r"`output` must be a folder, but .* is a file"):
            export_checkpoint(runs(), tmp_path / "thesis.tex", overwrite=overwrite)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "thesis.tex"]

    def test_an_empty_folder_will_do(self, runs, tmp_path):
        export_checkpoint(runs(), tmp_path)
        assert (tmp_path / "model.safetensors").exists()

    def test_a_network_that_cannot_be_expressed_leaves_nothing(self, runs, tmp_path):
        with pytest.raises(InputError, match="no family of transformers expresses this network: the nearest, "):
            export_checkpoint(runs("position=sinusoidal"), tmp_path / "exported")
        assert not list(tmp_path.iterdir())

    def test_what_fails_leaves_the_former_export(self, tmp_path):
        output = tmp_path / "exported"
        output.mkdir()
        (output / "config.json").write_text("former")

        def fail():
            with written_whole(output) as folder:
                (folder / "config.json").write_text("half")
                raise OSError("the disk is full")

        with pytest.raises(OSError, match="the disk is full"):
            fail()
        assert (output / "config.json").read_text() == "former"
        assert [path.name for path in tmp_path.iterdir()] == ["exported"]


@pytest.mark.slow
class TestCommand:
    def test_start_here(self, command, texts, tmp_path):
        small = [
            f"data.path={texts}",
            "tokenizer.vocab_size=300",
            "max_steps=2",
            "data.batch_size=2",
            "trainer.limit_val_batches=1",
        ]
        run = tmp_path / "run"
        result = command(
            "train", "experiment=start_here", *small, f"paths.output_dir={run}", "data.validation_fraction=0.34"
        )
        assert result.returncode == 0, result.stderr
        result = command("export", f"checkpoint={run}", "output=exported")
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith("exported: transformers opens it with GPTNeoXForCausalLM.from_pretrained")
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported").eval()
        ids = torch.arange(4, 40)[None]
        expected = lmmodules.load(run)({"input_ids": ids})
        torch.testing.assert_close(model(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-5)
        again = command("export", f"checkpoint={run}", "output=exported")
        assert (again.returncode, again.stdout) == (2, "")
        assert "use `overwrite=true`" in again.stderr
        assert command("export", f"checkpoint={run}", "output=exported", "overwrite=true").returncode == 0

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            ([], "`checkpoint` is missing"),
            (["checkpoint=nowhere"], "`output` is missing"),
            (["checkpoint=nowhere", "output=x"], "`nowhere` does not exist"),
        ],
    )
    def test_what_is_missing(self, command, arguments, sentence, tmp_path):
        result = command("export", *arguments)
        assert result.returncode == 2
        assert sentence in result.stderr
        assert not list(tmp_path.iterdir())
