"""Runs that start from weights: taken whole, or refused with both numbers; and that need them no more afterwards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import lmmodules
from lmmodules import InputError, compose
from lmmodules.callbacks import read_metrics
from lmmodules.callbacks.config_snapshot import SNAPSHOT_KEY
from lmmodules.checkpoint import read_checkpoint
from lmmodules.command import conf_directory
from lmmodules.composition import compose_config
from lmmodules.data import Tokenizer
from lmmodules.export import export_checkpoint
from lmmodules.models import Alibi, Learned, Rotary, Transformer
from lmmodules.models.description import describe
from lmmodules.models.hugging_face_folder import from_hugging_face
from lmmodules.network import network_node, settle_model
from lmmodules.objectives import CausalLM, Classification, MaskedLM, MultipleChoice, Regression, RoBERTa
from lmmodules.starting_weights import StartingWeights, published_vocabulary

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

MASKED = ["objective=masked_lm", "model=encoder_tiny"]


@pytest.fixture(scope="module")
def overrides(tiny: list[str]) -> list[str]:
    return [*tiny, "max_steps=1"]


@pytest.fixture(scope="module")
def decoder(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of a causal model."""
    directory = tmp_path_factory.mktemp("decoder")
    compose(*overrides, "optimizer.lr=0.1", "max_steps=3", directory=str(directory)).fit()
    return directory


@pytest.fixture(scope="module")
def encoder(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of a masked model."""
    directory = tmp_path_factory.mktemp("encoder")
    compose(*overrides, *MASKED, "optimizer.lr=0.1", "max_steps=3", directory=str(directory)).fit()
    return directory


@pytest.fixture(scope="module")
def published(decoder: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same models as folders of transformers."""
    folder = tmp_path_factory.mktemp("published")
    for name, run in (("decoder", decoder), ("encoder", encoder)):
        export_checkpoint(run, folder / name)
    return {name: folder / name for name in ("decoder", "encoder")}


def tokenizer_of(source: Path) -> list[str]:
    if (source / "config.json").exists():
        return ["tokenizer=hub", f"tokenizer.name={source}"]
    return ["tokenizer=checkpoint", f"tokenizer.path={source}"]


def same(one, other) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class TestTaken:
    @pytest.mark.parametrize("kind", ["directory", "checkpoint", "published"])
    @pytest.mark.parametrize("name", ["decoder", "encoder"])
    def test_every_weight_of_network_and_head(self, overrides, kind, name, published, request, tmp_path):
        run = request.getfixturevalue(name)
        source = {"directory": run, "checkpoint": run / "checkpoints" / "last.ckpt", "published": published[name]}[kind]
        chosen = MASKED if name == "encoder" else []
        started = compose(*overrides, *chosen, f"model.weights={source}", directory=str(tmp_path))
        assert same(started.objective, lmmodules.load(run))
        random = compose(*overrides, *chosen, directory=str(tmp_path))
        assert not same(random.objective, lmmodules.load(run))

    @pytest.mark.parametrize("offset", [0, 2, 5])
    def test_rows_that_no_token_uses_come_and_go(self, encoder, published, offset):
        expected = lmmodules.load(encoder)
        sizes = {"vocab_size": 300, "hidden_size": 64, "num_layers": 2, "num_heads": 4, "causal": False}
        for source in (encoder, published["encoder"]):
            objective = MaskedLM(Transformer(**sizes, position=Learned(512, 64, offset))).eval()
            StartingWeights(str(source)).load_into(objective)
            ids = torch.arange(4, 24)[None]
            assert torch.equal(objective({"input_ids": ids}), expected({"input_ids": ids}))

    def test_the_first_loss_is_the_last_one(self, overrides, decoder, tmp_path):
        summary = compose(*overrides, f"model.weights={decoder}", "optimizer.lr=0", directory=str(tmp_path)).fit()
        assert summary["val_loss"] == pytest.approx(json.loads((decoder / "summary.json").read_text())["val_loss"])
        assert len(read_metrics(tmp_path / "metrics.csv")) >= 1

    def test_a_network_that_says_nothing_of_its_sizes(self, overrides, decoder, encoder, published, tmp_path):
        for source, chosen in ((decoder, []), (published["decoder"], []), (encoder, MASKED[:1])):
            started = compose(
                *[override for override in overrides if not override.startswith("model=")],
                *chosen,
                "model=pretrained",
                f"model.weights={source}",
                directory=str(tmp_path),
            )
            expected = lmmodules.load(decoder if source != encoder else encoder)
            assert same(started.objective, expected)
            assert describe(started.objective.backbone) == describe(expected.backbone)

    def test_of_such_a_network_anything_may_be_said(self, overrides, published, tmp_path):
        started = compose(
            *overrides, "model=pretrained", f"model.weights={published['decoder']}", "model.dropout=0.3",
            directory=str(tmp_path),
        )  # fmt: skip
        assert started.objective.backbone.dropout.p == 0.3
        assert started.config.model.num_layers == 2

    def test_a_causal_network_may_become_a_bidirectional_one(self, overrides, decoder, tmp_path):
        started = compose(
            *overrides, "objective=masked_lm", "model=decoder_tiny", "model.causal=false", f"model.weights={decoder}",
            directory=str(tmp_path),
        )  # fmt: skip
        assert same(started.objective.backbone, lmmodules.load(decoder).backbone)

    def test_a_head_that_is_not_there_is_new_and_said_to_be(self, overrides, decoder, tmp_path, caplog):
        compose(
            *overrides, "objective=masked_lm", "model=decoder_tiny", "model.causal=false", f"model.weights={decoder}",
            directory=str(tmp_path),
        )  # fmt: skip
        assert caplog.messages.count(f"no `head` of its shape in `model.weights={decoder}`: a new one is made") == 1

    def test_the_vocabulary_is_that_of_the_weights_where_none_is_given(self, overrides, decoder, tmp_path):
        checkpoint = torch.load(decoder / "checkpoints" / "last.ckpt", weights_only=True)
        name = "backbone.token_embedding.weight"
        rows = checkpoint["state_dict"][name]
        checkpoint["state_dict"][name] = torch.cat((rows, rows[:4]))  # rows that no token uses, as for speed
        checkpoint[SNAPSHOT_KEY]["model"]["vocab_size"] += 4
        torch.save(checkpoint, tmp_path / "padded.ckpt")
        started = compose(*overrides, f"model.weights={tmp_path / 'padded.ckpt'}", directory=str(tmp_path / "run"))
        assert started.objective.backbone.vocab_size == 304
        started.fit()
        again = compose(
            *overrides, "max_steps=2", f"model.weights={tmp_path / 'padded.ckpt'}", f"resume={tmp_path / 'run'}",
            directory=str(tmp_path / "run"),
        )  # fmt: skip
        assert again.objective.backbone.vocab_size == 304


SMALL = {
    "vocab_size": 37,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
    "initializer_range": 0.3,
}
IDS = torch.randint(3, 37, (2, 9), generator=torch.Generator().manual_seed(0))
THREE = Classification, {"classes": ["a", "b", "c"]}
HEADS = {
    "BertForSequenceClassification": ({"num_labels": 3}, *THREE),
    "RobertaForSequenceClassification": ({"num_labels": 3}, *THREE),
    "BertForMultipleChoice": ({}, MultipleChoice, {}),
    "RobertaForMultipleChoice": ({}, MultipleChoice, {}),
    "BertForPreTraining": ({}, RoBERTa, {"next_sentence": True}),
    "EsmForSequenceClassification": (
        {"num_labels": 1, "hidden_dropout_prob": 0.0, "emb_layer_norm_before": True},
        Regression,
        {},
    ),
}


class TestHeadsOfPublishedModels:
    def make(self, name: str, folder: Path, **options):
        torch.manual_seed(0)
        kind = getattr(transformers, name)
        config = kind.config_class(**SMALL, pad_token_id=1, **options)
        model = kind(config).eval()
        with torch.no_grad():  # vectors are zeros and ones otherwise, and then anything goes
            for parameter in (parameter for parameter in model.parameters() if parameter.ndim == 1):
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
        model.save_pretrained(folder)
        return model

    @pytest.mark.parametrize("name", HEADS)
    def test_they_are_taken_along(self, name, tmp_path, caplog):
        options, kind, arguments = HEADS[name]
        model = self.make(name, tmp_path, **options)
        weights = StartingWeights(str(tmp_path))
        objective = kind(from_hugging_face(tmp_path)[0], **arguments)
        caplog.clear()  # a head over the vocabulary is what that asks for
        weights.load_into(objective.eval())
        assert not caplog.messages
        with torch.no_grad():
            if kind is MultipleChoice:
                ids = torch.stack((IDS, IDS.flip(1)), dim=1)
                found, expected = objective({"input_ids": ids}), model(input_ids=ids).logits
            elif kind is RoBERTa:
                theirs = model(input_ids=IDS)
                found, expected = objective({"input_ids": IDS}), theirs.prediction_logits
                relation = objective.next_sentence_head(objective.backbone(IDS)[:, 0])
                torch.testing.assert_close(relation, theirs.seq_relationship_logits, atol=1e-5, rtol=1e-5)
            else:
                found, expected = objective({"input_ids": IDS}), model(input_ids=IDS).logits
        assert expected.std() > 1e-3
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)

    def test_of_two_heads_one_may_be_there(self, tmp_path, caplog):
        model = self.make("BertForNextSentencePrediction", tmp_path)
        objective = RoBERTa(from_hugging_face(tmp_path)[0], next_sentence=True).eval()
        caplog.clear()
        StartingWeights(str(tmp_path)).load_into(objective)
        assert caplog.messages == [f"no `head` of its shape in `model.weights={tmp_path}`: a new one is made"]
        relation = objective.next_sentence_head(objective.backbone(IDS)[:, 0])
        torch.testing.assert_close(relation, model(input_ids=IDS).logits, atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("BertForSequenceClassification", {"num_labels": 4}),
            ("BertForTokenClassification", {"num_labels": 3}),  # one layer and no pooler
            ("RobertaForTokenClassification", {"num_labels": 3}),
            ("ElectraForSequenceClassification", {"num_labels": 3}),  # a GELU in place of tanh
        ],
    )
    def test_one_of_another_form_or_size_is_made_anew(self, name, options, tmp_path, caplog):
        self.make(name, tmp_path, **options)
        weights = StartingWeights(str(tmp_path))
        objective = Classification(from_hugging_face(tmp_path)[0], classes=["a", "b", "c"])
        caplog.clear()
        before = {name: tensor.clone() for name, tensor in objective.head.state_dict().items()}
        weights.load_into(objective)
        assert caplog.messages == [f"no `head` of its shape in `model.weights={tmp_path}`: a new one is made"]
        assert all(torch.equal(tensor, before[name]) for name, tensor in objective.head.state_dict().items())


class TestNeededNoMore:
    @pytest.mark.parametrize("model", ["decoder_tiny", "pretrained"])
    def test_loading_and_going_on(self, overrides, decoder, tmp_path, model):
        source, run = tmp_path / "source", tmp_path / "run"
        shutil.copytree(decoder, source)
        started = [*overrides, f"model={model}", f"model.weights={source}"]
        compose(*started, "max_steps=2", directory=str(run)).fit()
        shutil.rmtree(source)
        assert "weights" not in read_checkpoint(run)[SNAPSHOT_KEY]["model"]
        assert read_checkpoint(run)[SNAPSHOT_KEY]["config"]["model"]["weights"] == str(source)  # for the record
        assert lmmodules.load(run).backbone.num_layers == 2
        going_on = compose(*started, "max_steps=3", f"resume={run}", directory=str(run))
        assert not same(going_on.objective, lmmodules.load(run))  # the trainer restores it
        assert going_on.fit()["steps"] == 3
        if model == "decoder_tiny":
            assert compose(*overrides, "max_steps=4", f"resume={run}", directory=str(run)).fit()["steps"] == 4

    def test_what_makes_a_network_again(self):
        config = compose_config("train", "model=decoder_tiny", "model.weights=somewhere", "max_steps=1")
        node = network_node(config.model)
        assert "weights" not in node
        assert node["position"] == {"_target_": "lmmodules.models.Rotary", "theta": 10000.0}
        assert config.model.weights == "somewhere"


class TestRefused:
    def told(self, *overrides: str) -> str:
        with pytest.raises(InputError) as caught:
            compose(*overrides)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"vocab_size": 310}, "`model.vocab_size` must be 300, as in {source}, but is 310; use `model.vocab_size"),
            ({"hidden_size": 32}, "`model.hidden_size` must be 64, as in {source}, but is 32"),
            ({"num_layers": 3}, "`model.num_layers` must be 2, as in {source}, but is 3"),
            ({"num_heads": 8}, "`model.num_heads` must be 4, as in {source}, but is 8"),
            ({"intermediate_size": 100}, "`model.intermediate_size` must be 256, as in {source}, but is 100"),
            ({"norm_eps": 1e-6}, "`model.norm_eps` must be 1e-05, as in {source}, but is 1e-06"),
            ({"activation": "relu"}, "`model.activation` must be gelu, as in {source}, but is relu"),
            ({"pre_norm": False}, "`model.pre_norm` must be True, as in {source}, but is False"),
            ({"position": Rotary(500.0)}, "`model.position.theta` must be 10000.0, as in {source}, but is 500.0"),
            ({"position": Alibi(4)}, "`model.position` must be Rotary, as in {source}, but is Alibi; use `"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("kind", ["run", "published"])
    def test_networks_that_differ(self, decoder, published, change, sentence, kind):
        source = decoder if kind == "run" else published["decoder"]
        sizes = {"vocab_size": 300, "hidden_size": 64, "num_layers": 2, "num_heads": 4, "causal": True}
        weights = StartingWeights(str(source))
        weights.load_into(CausalLM(Transformer(**sizes)))
        with pytest.raises(InputError) as caught:
            weights.load_into(CausalLM(Transformer(**{**sizes, **change})))
        assert str(caught.value).startswith(sentence.format(source=f"`model.weights={source}`"))
        assert str(caught.value).endswith("or `model=pretrained`, which takes everything from there")

    def test_what_32_bits_hold_is_the_same(self, decoder):
        sizes = {"vocab_size": 300, "hidden_size": 64, "num_layers": 2, "num_heads": 4, "causal": True}
        as_in_gguf = torch.tensor(1e-5).item()
        assert as_in_gguf != 1e-5
        StartingWeights(str(decoder)).load_into(CausalLM(Transformer(**sizes, norm_eps=as_in_gguf)))

    def test_the_run_says_the_same(self, overrides, decoder):
        said = self.told(*overrides, f"model.weights={decoder}", "model.activation=relu")
        assert said.startswith(f"`model.activation` must be gelu, as in `model.weights={decoder}`, but is relu")

    @pytest.mark.parametrize("length", [48, 600])
    def test_a_position_table_is_never_cut(self, overrides, encoder, length):
        said = self.told(*overrides, *MASKED, f"model.weights={encoder}", f"model.max_length={length}")
        assert said.startswith(
            f"`model.position.max_length` must be 512, as in `model.weights={encoder}`, but is {length}"
        )
        assert "use `model.max_length=512`" in said

    @pytest.mark.parametrize("kind", ["run", "published"])
    def test_another_vocabulary(self, overrides, decoder, published, kind, tmp_path):
        source = decoder if kind == "run" else published["decoder"]
        remedy = {
            "run": f"tokenizer=checkpoint tokenizer.path={source}",
            "published": f"tokenizer=hub tokenizer.name={source}",
        }[kind]
        said = self.told(*overrides, f"model.weights={source}", "tokenizer.vocab_size=290")
        assert said.startswith(
            f"`tokenizer` must be that of `model.weights={source}`, which has 300 tokens, but has 290"
        )
        assert said.endswith(f"use `{remedy}`")
        plain = [override for override in overrides if not override.startswith("tokenizer.")]
        started = compose(*plain, f"model.weights={source}", *remedy.split(), directory=str(tmp_path))
        assert same(started.objective, lmmodules.load(decoder))

    def test_what_is_not_there(self, overrides):
        assert "must be a folder, a GGUF file or a name on the hub, but does not exist" in self.told(
            *overrides, "model.weights=./nothing"
        )
        assert "could not be fetched from the hub" in self.told(*overrides, "model.weights=nobody/nothing")
        assert "`model.weights` is missing" in self.told(*overrides, "model=pretrained")

    def test_a_checkpoint_of_somebody_else(self, overrides, tmp_path):
        torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
        assert "was not written by lmmodules" in self.told(*overrides, f"model.weights={tmp_path / 'other.ckpt'}")


class TestVocabularies:
    def test_of_a_folder(self, published, tmp_path, caplog):
        expected = published_vocabulary(published["decoder"])
        assert expected is not None
        assert (expected["<mask>"], len(expected)) == (299, 300)
        (tmp_path / "vocab.txt").write_text("[PAD]\n[CLS]\nthe\n##s\n")
        assert published_vocabulary(tmp_path) == {"[PAD]": 0, "[CLS]": 1, "the": 2, "##s": 3}
        (tmp_path / "vocab.json").write_text(json.dumps({"a": 3}))
        assert published_vocabulary(tmp_path) == {"a": 3}
        assert published_vocabulary(tmp_path / "model.gguf") is None

    def test_of_a_gguf_file(self, published, gguf_with_tokenizer):
        tokenizer = Tokenizer.from_file(published["decoder"] / "tokenizer.json")
        file = gguf_with_tokenizer(tokenizer)
        for place in (file, file.parent):
            # Libraries may add a token of their own behind those of the file.
            assert tokenizer.backend.get_vocab().items() <= published_vocabulary(place).items()

    def test_of_a_gguf_file_without_a_tokenizer(self, gguf_with_tokenizer):
        assert published_vocabulary(gguf_with_tokenizer()) is None

    def test_where_there_is_none_that_is_said(self, published, decoder, tmp_path, caplog):
        shutil.copytree(published["decoder"], tmp_path / "bare")
        (tmp_path / "bare" / "tokenizer.json").unlink()
        weights = StartingWeights(str(tmp_path / "bare"))
        weights.check_vocabulary(lmmodules.load_tokenizer(decoder))
        assert "comes without a tokenizer" in caplog.text

    def test_a_part_of_the_vocabulary_is_no_other_vocabulary(self, decoder):
        weights = StartingWeights(str(decoder))
        weights.vocabulary["<more>"] = 300
        weights.check_vocabulary(lmmodules.load_tokenizer(decoder))
        weights.vocabulary["<mask>"] = 7
        with pytest.raises(InputError, match="'<mask>' is 299 and 7 there"):
            weights.check_vocabulary(lmmodules.load_tokenizer(decoder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random models that are none of ours."""
    folder = tmp_path_factory.mktemp("wrapped")
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "max_position_embeddings": 40, "bos_token_id": 0, "eos_token_id": 2}
    models = {
        "opt": transformers.OPTConfig(
            hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=16, **sizes
        ),
        "distilbert": transformers.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=24, **sizes),
    }
    for name, config in models.items():
        transformers.AutoModel.from_config(config).save_pretrained(folder / name)
    return folder


class TestWrapped:
    """`model=hugging_face`, from the command line's side."""

    def options(self, overrides, name, *changes):
        kept = [override for override in overrides if not override.startswith("model=")]
        return [*kept, "model=hugging_face", f"model.name={name}", *changes]

    @pytest.mark.parametrize(("name", "objective"), [("opt", "causal_lm"), ("distilbert", "masked_lm")])
    def test_it_trains_goes_on_and_is_loaded_without_its_folder(self, overrides, folder, name, objective, tmp_path):
        shutil.copytree(folder / name, tmp_path / name)
        started = self.options(overrides, tmp_path / name, f"objective={objective}", "max_steps=2", "optimizer.lr=0.1")
        run = compose(*started, directory=str(tmp_path / "run"))
        plain = transformers.AutoModel.from_pretrained(folder / name)
        assert torch.equal(run.objective.backbone.token_embedding.weight, plain.get_input_embeddings().weight)
        before = run.objective.backbone.token_embedding.weight.clone()
        assert run.fit()["steps"] == 2
        assert not torch.equal(run.objective.backbone.token_embedding.weight, before)
        shutil.rmtree(tmp_path / name)
        loaded = lmmodules.load(tmp_path / "run")
        assert same(loaded, run.objective)
        assert loaded.backbone.causal == (objective == "causal_lm")
        going_on = compose(*started, "max_steps=3", f"resume={tmp_path / 'run'}", directory=str(tmp_path / "run"))
        assert going_on.fit()["steps"] == 3

    def test_without_its_weights_it_takes_the_vocabulary_of_the_tokenizer(self, overrides, folder, tmp_path):
        options = self.options(overrides, folder / "opt", "model.weights=false", "tokenizer.vocab_size=290")
        run = compose(*options, directory=str(tmp_path))
        assert run.objective.backbone.vocab_size == 290
        with pytest.raises(
            InputError, match=r"`model.vocab_size` must be at least that of the tokenizer \(310\), but is 300"
        ):
            compose(*self.options(overrides, folder / "opt", "tokenizer.vocab_size=310"))

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            (["position=alibi"], "`position` must be left to a model that `model=hugging_face` wraps"),
            (["model.weights=somewhere"], "`model.weights` must be true or false with `model=hugging_face`"),
            (["data.document_mask=true"], "use `data.document_mask=false`"),
            (["data.max_length=64"], r"has positions for \(40\), but is 64; use `data.max_length=40`"),
            (["objective=masked_lm"], "`MaskedLM` needs a bidirectional backbone"),
            (["model.causal=false"], "`model.causal` must be True or left out"),
        ],
    )
    def test_refusals(self, overrides, folder, changes, sentence):
        with pytest.raises(InputError, match=sentence):
            compose(*self.options(overrides, folder / "opt", *changes))

    def test_a_name_is_needed(self, overrides):
        with pytest.raises(InputError, match=r"`model.name` is missing"):
            compose(*self.options(overrides, "x")[:-1])

    def test_nothing_can_start_from_one_but_itself(self, overrides, folder, tmp_path):
        options = self.options(overrides, folder / "opt", "max_steps=1")
        compose(*options, directory=str(tmp_path)).fit()
        with pytest.raises(
            InputError, match="must be of a `Transformer` for `model=pretrained`, but is of a `HuggingFace"
        ):
            compose(*overrides, "model=pretrained", f"model.weights={tmp_path}")

    def test_a_preview_needs_no_weights(self, overrides, folder):
        from lmmodules.plan import plan_run

        config = compose_config("train", *self.options(overrides, folder / "opt"))
        plan = plan_run(config)
        expected = transformers.AutoModel.from_pretrained(folder / "opt")
        assert plan.parameters == sum(parameter.numel() for parameter in expected.parameters())


@pytest.mark.parametrize("preset", sorted((conf_directory() / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_network_can_start_from_weights(preset):
    model = compose_config("train", f"model={preset.stem}", "max_steps=1").model
    assert "weights" in model.keys()  # noqa: SIM118 (one that is still to be given is none otherwise)


def test_settling_leaves_other_runs_alone():
    config = compose_config("train", "model=gpt2", "max_steps=1")
    before = config.copy()
    assert settle_model(config) is None
    assert config == before
