"""`lmm-export`: transformers opens the folder with the same logits and the same ids, and one file holds any network;
nothing is left half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lmmodules
from lmmodules import InputError, compose
from lmmodules.callbacks.config_snapshot import SNAPSHOT_KEY
from lmmodules.composition import compose_config
from lmmodules.export import FILES, export, export_checkpoint, export_weights, written_whole

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
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids
        around = ([], []) if objective.backbone.causal else ([tokenizer.bos_id], [tokenizer.eos_id])
        assert theirs(text)["input_ids"] == [*around[0], *ids, *around[1]]
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


ENCODER = ["objective=roberta", "model=encoder_tiny", "model.pre_norm=false", "model.embedding_norm=true"]
PAIRS = [*ENCODER, "packing=segment_pairs", "data.validation_fraction=0"]
WORDS = ["tokenizer=wordpiece", "tokenizer.vocab_size=80"]


@pytest.mark.parametrize(
    ("overrides", "between", "types"),
    [
        (["objective=masked_lm", "model=encoder_tiny"], 2, None),
        ([*ENCODER, *WORDS], 1, None),
        ([*ENCODER, "model.num_token_types=2"], 1, (0, 1)),  # never saw a pair, but could tell its segments apart
        ([*PAIRS, *WORDS, "model.num_token_types=2"], 1, (0, 1)),
        ([*PAIRS, "model.num_token_types=2", "packing.double_separator=true"], 2, (0, 1)),
        (PAIRS, 1, None),
        ([], 0, None),
    ],
    ids=["byte-level", "word pieces", "two segments", "BERT", "RoBERTa's pairs", "no segments", "causal"],
)
def test_texts_and_pairs_are_laid_out_as_they_were_trained_on(runs, overrides, between, types, tmp_path):
    run = runs(*overrides)
    export_checkpoint(run, tmp_path / "exported")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    ours = lmmodules.load_tokenizer(run)
    begin, end = ([ours.bos_id], [ours.eos_id]) if between else ([], [])
    one, two = ours.encode("the cat sees"), ours.encode("a river")
    assert theirs("the cat sees")["input_ids"] == [*begin, *one, *end]
    first, second = [*begin, *one, *end * between], [*two, *end]
    pair = theirs("the cat sees", "a river")
    assert pair["input_ids"] == first + second
    if types is None:
        assert "token_type_ids" not in pair
    else:
        assert pair["token_type_ids"] == [types[0]] * len(first) + [types[1]] * len(second)
        assert theirs("the cat sees")["token_type_ids"] == [0] * (len(one) + 2)
    assert (theirs.cls_token_id, theirs.sep_token_id) == ((ours.bos_id, ours.eos_id) if between else (None, None))
    # Longer pairs than the model takes are cut, and keep their special tokens.
    cut = theirs("the cat " * 400, "a river " * 400, truncation=True, max_length=30)["input_ids"]
    assert (len(cut), cut[-1:]) == (30, end or cut[-1:])


def test_a_pair_is_what_the_packing_makes_of_it(runs, tiny, tmp_path):
    """Of two lines that fit, a sample is the pair; masks are taken out of it."""
    chosen = [
        *ENCODER, *WORDS, "packing=sentence_pairs", "data.max_length=80", "data.validation_fraction=0",
        "model.num_token_types=2",
    ]  # fmt: skip
    run = runs(*chosen)
    export_checkpoint(run, tmp_path / "exported")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    data = compose(*tiny, "max_steps=2", *chosen, directory=str(tmp_path / "run")).data
    batch = next(iter(data.train_dataloader()))
    for ids, labels, types in zip(batch["input_ids"], batch["labels"], batch["token_type_ids"], strict=True):
        original = torch.where(labels == -100, ids, labels)
        size = int((original != theirs.pad_token_id).sum())
        original, types = original[:size].tolist(), types[:size].tolist()
        border = types.index(1)
        texts = [theirs.decode(part, skip_special_tokens=True) for part in (original[:border], original[border:])]
        pair = theirs(*texts)
        assert (pair["input_ids"], pair["token_type_ids"]) == (original, types)


@pytest.fixture(scope="module")
def published(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of random weights with both heads, and its own tokenizer."""
    folder = tmp_path_factory.mktemp("published") / "bert"
    words = sorted({word for file in texts.iterdir() for word in file.read_text().replace(".", " . ").split()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    tokenizer = transformers.BertTokenizer(vocab={word: index for index, word in enumerate(vocabulary)})
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=40, initializer_range=0.3,
    )  # fmt: skip
    transformers.BertForPreTraining(config).save_pretrained(folder)
    return folder


class TestBert:
    def started(self, tiny: list[str], published: Path, directory: Path, *overrides: str) -> lmmodules.Run:
        plain = [override for override in tiny if not override.startswith(("tokenizer.", "model="))]
        from_there = [f"model.weights={published}", "tokenizer=hub", f"tokenizer.name={published}"]
        return compose(
            *plain, "model=pretrained", *from_there, *overrides, "max_steps=2", "optimizer.lr=0.1",
            directory=str(directory),
        )  # fmt: skip

    def test_it_goes_through_training_and_out_again(self, tiny, published, tmp_path, caplog):
        run = self.started(tiny, published, tmp_path / "run", "objective=roberta", *PAIRS[-2:])
        assert "a new one is made" not in caplog.text
        before = transformers.AutoModelForPreTraining.from_pretrained(published).eval()
        original = transformers.AutoTokenizer.from_pretrained(published)
        one, many = ("the cat sees a dog", "my aunt"), [["this river", "a dog 7"], ["the cat", "my aunt likes a cat."]]
        batch = original(*map(list, zip(*many, strict=True)), padding=True, return_tensors="pt")

        def compare(objective, model) -> None:
            with torch.no_grad():
                found = model(**batch)
                hidden = objective.backbone(**batch)
                relation = objective.next_sentence_head(hidden[:, 0])
                real = batch["attention_mask"].bool()
                logits = objective(dict(batch))[real]
            torch.testing.assert_close(found.prediction_logits[real], logits, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(found.seq_relationship_logits, relation, atol=1e-5, rtol=1e-5)

        compare(run.objective.eval(), before)
        run.objective.train()
        run.fit()
        assert export_checkpoint(run.directory, tmp_path / "exported") == "BertForPreTraining"
        after, info = transformers.AutoModelForPreTraining.from_pretrained(
            tmp_path / "exported", output_loading_info=True
        )
        assert not any(info.values()), info
        compare(lmmodules.load(run.directory), after.eval())
        assert not torch.equal(after.bert.pooler.dense.weight, before.bert.pooler.dense.weight)
        returned = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
        assert dict(returned(*one)) == dict(original(*one))
        assert dict(returned(one[0])) == dict(original(one[0]))
        assert set(returned(*one)) == {"input_ids", "token_type_ids", "attention_mask"}
        for role in ("cls", "sep", "pad", "unk", "mask"):
            assert getattr(returned, f"{role}_token_id") == getattr(original, f"{role}_token_id")
        # And in again, with both heads.
        caplog.clear()
        again = self.started(tiny, tmp_path / "exported", tmp_path / "again", "objective=roberta", *PAIRS[-2:])
        expected = lmmodules.load(run.directory).state_dict()
        assert "a new one is made" not in caplog.text
        assert all(torch.equal(tensor, expected[name]) for name, tensor in again.objective.state_dict().items())

    def test_a_template_at_odds_with_the_training_is_replaced(self, tiny, published, tmp_path):
        rows = tmp_path / "rows.tsv"
        rows.write_text("one\ttwo\tlabel\n" + "the cat sees\ta dog\t0\nmy aunt\tthis river\t1\n" * 8)
        run = self.started(
            [override for override in tiny if not override.startswith("data.path")],
            published, tmp_path / "run", "objective=classification", f"data.path={rows}", "data.layout=roberta",
            "data.text_columns=[one,two]", "data.validation_fraction=0", "data.classes=[bad,good]",
        )  # fmt: skip
        run.fit()
        assert export_checkpoint(run.directory, tmp_path / "exported") == "BertForSequenceClassification"
        returned = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
        pairs = [returned(*pair) for pair in (("the cat sees", "a dog"), ("my aunt", "this river"))]
        trained_on = run.data.train_samples.sequences
        for index, pair in enumerate(pairs):
            assert trained_on.tokens[slice(*trained_on.offsets[index : index + 2])].tolist() == pair["input_ids"]
        assert not any(any(pair["token_type_ids"]) for pair in pairs)
        tokens = returned.convert_ids_to_tokens(pairs[0]["input_ids"])
        assert " ".join(tokens) == "[CLS] the cat sees [SEP] [SEP] a dog [SEP]"


ROWS = [
    ("the cat sees a dog", "my aunt", "bad"),
    ("this river", "a dog forgets my aunt", "good"),
    ("a dog", "the cat", "so so"),
]
SINGLE = {"classification": "data.label_column=class", "regression": "data.label_column=score"}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = [f"{one}\t{two}\t{name}\t{len(one)}" for one, two, name in ROWS] * 4
    file = tmp_path_factory.mktemp("rows") / "rows.tsv"
    file.write_text("\n".join(["one\ttwo\tclass\tscore", *lines]) + "\n")
    return file


class TestClassificationAndItsKin:
    @pytest.mark.parametrize("purpose", SINGLE)
    @pytest.mark.parametrize(
        ("model", "opener"),
        [
            (["model.num_token_types=2", "data.layout=bert"], "BertForSequenceClassification"),
            (["position=roberta"], "RobertaForSequenceClassification"),
            (["model.pre_norm=true", "model.embedding_norm=false"], "EsmForSequenceClassification"),
        ],
        ids=["bert", "roberta", "esm"],
    )
    def test_the_same_logits_and_back_again(self, purpose, model, opener, rows, tiny, tmp_path, caplog):
        plain = [override for override in tiny if not override.startswith("data.path")]
        options = [
            *plain, f"objective={purpose}", *ENCODER[1:], *model, f"data.path={rows}", "data.text_columns=[one,two]",
            SINGLE[purpose], "objective.pooler_dropout=0.25", "max_steps=3", "tokenizer.vocab_size=280",
            "data.validation_fraction=0", "model.initializer_std=0.2",
        ]  # fmt: skip
        run = compose(*options, directory=str(tmp_path / "run"))
        run.fit()
        assert export_checkpoint(run.directory, tmp_path / "exported") == opener
        assert "left out" not in caplog.text
        objective = lmmodules.load(run.directory)
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
        classifier, info = transformers.AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "exported", output_loading_info=True
        )
        assert type(classifier).__name__ == opener
        assert not any(info.values()), info
        batch = tokenizer([row[0] for row in ROWS], [row[1] for row in ROWS], padding=True, return_tensors="pt")
        with torch.no_grad():
            found, expected = classifier.eval()(**batch).logits, objective(dict(batch))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert expected.std(0).min() > 1e-4
        config = classifier.config
        if purpose == "classification":
            assert config.id2label == {0: "bad", 1: "good", 2: "so so"}
            assert config.label2id == {"bad": 0, "good": 1, "so so": 2}
            assert config.problem_type == "single_label_classification"
        else:
            assert (config.num_labels, config.problem_type) == (1, "regression")
        assert config.classifier_dropout == 0.25

        again = compose(
            *(option for option in options if not option.startswith("tokenizer.")),
            f"model.weights={tmp_path / 'exported'}",
            "tokenizer=hub",
            f"tokenizer.name={tmp_path / 'exported'}",
            directory=str(tmp_path / "again"),
        )
        assert "a new one is made" not in caplog.text
        with torch.no_grad():
            torch.testing.assert_close(again.objective.eval()(dict(batch)), expected, atol=1e-5, rtol=1e-5)


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
        sentence = "no family of transformers expresses .*; one file takes any network: `output=my_model.safetensors`"
        with pytest.raises(InputError, match=sentence):
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


class TestOneFile:
    @pytest.mark.parametrize(
        "overrides",
        [
            ["position=sinusoidal"],
            ["objective=electra", "model=encoder_tiny"],
            ["objective=masked_lm", "model=encoder_tiny"],
        ],
        ids=["no family", "two networks", "encoder"],
    )
    def test_every_weight_comes_back(self, runs, overrides, tmp_path):
        run, file = runs(*overrides), tmp_path / "deeply" / "model.safetensors"
        export_weights(run, file)
        assert [path.name for path in file.parent.iterdir()] == ["model.safetensors"]
        expected, found = lmmodules.load(run), lmmodules.load(file)
        assert type(found) is type(expected)
        assert found.state_dict().keys() == expected.state_dict().keys()
        assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in found.state_dict().items())
        assert lmmodules.load_tokenizer(file).to_json() == lmmodules.load_tokenizer(run).to_json()

    def test_any_objective_starts_from_it(self, runs, tiny, tmp_path):
        run, file = runs("position=sinusoidal"), tmp_path / "model.safetensors"
        export_weights(run, file)
        expected = lmmodules.load(run)
        plain = [override for override in tiny if not override.startswith("tokenizer.")]
        causal = ["position=sinusoidal"]
        masked = ["objective=masked_lm", "model=decoder_tiny", "model.causal=false", "position=sinusoidal"]
        for chosen in (causal, ["model=pretrained"], masked):
            started = compose(
                *plain, *chosen, "max_steps=1", f"model.weights={file}", "tokenizer=checkpoint",
                f"tokenizer.path={file}", directory=str(tmp_path / "run"),
            )  # fmt: skip
            found = started.objective.backbone.state_dict()
            assert found.keys() == expected.backbone.state_dict().keys()
            assert all(torch.equal(tensor, expected.backbone.state_dict()[name]) for name, tensor in found.items())

    def test_the_header_names_the_architecture(self, runs, tmp_path):
        from safetensors import safe_open

        export_weights(runs(), tmp_path / "model.safetensors")
        with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
            header = file.metadata()
        assert header["architecture"] == "lmmodules.models.Transformer"
        assert header["objective"] == "lmmodules.objectives.CausalLM"
        assert json.loads(header[SNAPSHOT_KEY])["model"]["num_layers"] == 2

    def test_a_wrapped_model_keeps_the_head_there(self, runs, tmp_path):
        config = transformers.DistilBertConfig(vocab_size=300, dim=16, n_layers=2, n_heads=2, hidden_dim=24)
        transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "wrapped")
        run = runs("objective=masked_lm", "model=hugging_face", f"model.name={tmp_path / 'wrapped'}")
        export_weights(run, tmp_path / "model.safetensors")
        ids = {"input_ids": torch.arange(5, 15)[None]}
        assert torch.equal(lmmodules.load(tmp_path / "model.safetensors")(ids), lmmodules.load(run)(ids))

    def test_no_run_goes_on_with_it(self, runs, tiny, tmp_path):
        export_weights(runs(), tmp_path / "model.safetensors")
        sentence = r"`resume` must be a checkpoint, .* use `model.weights=.*model.safetensors`"
        with pytest.raises(InputError, match=sentence):
            compose(*tiny, "max_steps=4", f"resume={tmp_path / 'model.safetensors'}", directory=str(tmp_path / "run"))

    def test_the_command_takes_a_name_for_it(self, runs, tmp_path, capsys):
        file = tmp_path / "model.safetensors"
        export(compose_config("export", f"checkpoint={runs()}", f"output={file}"))
        assert f"`model.weights={file}` " in capsys.readouterr().out
        assert type(lmmodules.load(file)).__name__ == "CausalLM"

    def test_what_is_there_stays(self, runs, tmp_path):
        file = tmp_path / "model.safetensors"
        file.write_text("mine")
        with pytest.raises(InputError, match=r"`output` must be a new file, .* use `overwrite=true`"):
            export_weights(runs(), file)
        assert file.read_text() == "mine"
        export_weights(runs(), file, overwrite=True)
        assert lmmodules.load(file)
        assert file.stat().st_mode == (runs() / "summary.json").stat().st_mode
        (tmp_path / "folder.safetensors").mkdir()
        with pytest.raises(InputError, match=r"must be a file where its name ends in .*, but .* is a folder"):
            export_weights(runs(), tmp_path / "folder.safetensors")
        with pytest.raises(InputError, match=r"`.*nowhere` does not exist"):
            export_weights(tmp_path / "nowhere", tmp_path / "other.safetensors")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.safetensors", "model.safetensors"]

    def test_what_is_damaged_or_foreign_is_told(self, runs, tmp_path):
        from safetensors.torch import save_file

        whole, cut, foreign = (tmp_path / f"{name}.safetensors" for name in ("whole", "cut", "foreign"))
        export_weights(runs(), whole)
        cut.write_bytes(whole.read_bytes()[:-100])
        with pytest.raises(InputError, match=r"`.*cut.safetensors` is truncated, damaged, or not a safetensors file"):
            lmmodules.load(cut)
        for header in (None, {SNAPSHOT_KEY: "{"}, {SNAPSHOT_KEY: "{}"}):
            save_file({"weight": torch.zeros(2)}, foreign, metadata=header)
            with pytest.raises(InputError, match=r"`.*foreign.safetensors` was not written by lmmodules"):
                lmmodules.load(foreign)


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
