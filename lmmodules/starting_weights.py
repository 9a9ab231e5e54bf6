"""Weights that a run starts from: of an earlier run, or of a published model."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lmmodules.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from lmmodules.data import Tokenizer
    from lmmodules.models import Backbone, Transformer
    from lmmodules.objectives import Objective

log = logging.getLogger(__name__)

POSITIONS = {
    "Alibi": "alibi",
    "Learned": "learned",
    "NoPosition": "none",
    "RelativeBias": "coco_lm",
    "Rotary": "rotary",
    "Sinusoidal": "sinusoidal",
}
"""What the classes of positions are called on the command line."""


FREE = ("causal", "position.offset")
"""What two networks may differ in and still use each other's weights; the second is rows that no token uses."""


class StartingWeights:
    """Weights to start from, with the network and the vocabulary they belong to.

    Args:
        source: A checkpoint of `lmm-train` or the directory of a run; or a folder with `config.json` and weights, a
            GGUF file, or a name on the hub.

    Raises:
        InputError: When there is nothing of that name, or it cannot be read.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        path = Path(source).expanduser()
        if (path / "checkpoints").is_dir() or (path.is_file() and path.suffix != ".gguf"):
            self._read_checkpoint(path)
        else:
            self._read_published(source)

    def _read_checkpoint(self, path: Path) -> None:
        import torch

        from lmmodules.callbacks.config_snapshot import SNAPSHOT_KEY
        from lmmodules.checkpoint import COMPILED_PREFIX, build, read_checkpoint
        from lmmodules.data import Tokenizer
        from lmmodules.models.transformer import Transformer

        checkpoint = read_checkpoint(path)
        snapshot, tensors = checkpoint[SNAPSHOT_KEY], checkpoint["state_dict"]
        self.state: dict[str, Tensor] = {name.replace(COMPILED_PREFIX, ""): tensors[name] for name in tensors}
        with torch.device("meta"):
            self.backbone: Backbone = build(snapshot["model"])
        is_ours = isinstance(self.backbone, Transformer)
        self.arguments: dict[str, Any] = (
            {name: value for name, value in snapshot["model"].items() if name != "_target_"} if is_ours else {}
        )
        text = snapshot.get("tokenizer")
        self.vocabulary = None if text is None else vocabulary_of(Tokenizer.from_json(text))
        self.remedy = f"tokenizer=checkpoint tokenizer.path={self.source}"

    def _read_published(self, source: str) -> None:
        from lmmodules.models.hugging_face_folder import find_model, read_model

        place = find_model(source)
        published = read_model(place)
        self.backbone = published.backbone
        self.arguments = network_arguments(published.backbone)
        parts = {
            "next_sentence_head" if purpose == "next_sentence" else "head": weights
            for purpose, weights in published.sequence_heads.items()
        }
        parts["backbone"] = self.backbone.state_dict()
        if published.head is not None:
            parts["head"] = published.head.state_dict()
        self.state = {f"{part}.{name}": tensor for part, weights in parts.items() for name, tensor in weights.items()}
        self.vocabulary = published_vocabulary(place)
        self.remedy = f"tokenizer=hub tokenizer.name={source}"

    def check_vocabulary(self, tokenizer: Tokenizer) -> None:
        """Compare the tokens of a run with those the weights were trained on.

        Args:
            tokenizer: Of the run.

        Raises:
            InputError: When a token of the run has another id there, or none.
        """
        if self.vocabulary is None:
            log.warning(f"`model.weights={self.source}` comes without a tokenizer: nobody can tell whether yours fits")
            return
        ours = vocabulary_of(tokenizer)
        strange = next((token for token, index in ours.items() if self.vocabulary.get(token) != index), None)
        if strange is None:
            return
        there = self.vocabulary.get(strange)
        raise InputError(
            f"`tokenizer` must be that of `model.weights={self.source}`, which has {len(self.vocabulary)} tokens, but "
            f"has {len(ours)}, of which {strange!r} is {ours[strange]} and {'not there' if there is None else there} "
            f"there; use `{self.remedy}`"
        )

    def load_into(self, objective: Objective) -> None:
        """Give an objective the weights of its backbone, and of every other part that both have.

        Args:
            objective: Freshly made.

        Raises:
            InputError: When the networks differ in anything that matters, naming both values.
        """
        self._compare(objective.backbone)
        state, fresh = self._state_for(objective.backbone), objective.state_dict()
        taken: dict[str, Tensor] = {}
        for part in dict.fromkeys(name.partition(".")[0] for name in fresh):
            wanted = {name: tuple(tensor.shape) for name, tensor in fresh.items() if _belongs(name, part)}
            given = {name: tuple(tensor.shape) for name, tensor in state.items() if _belongs(name, part)}
            if wanted == given:
                taken |= {name: state[name] for name in wanted}
            elif part == "backbone":
                name = next(name for name in wanted | given if wanted.get(name) != given.get(name))
                raise InputError(
                    f"`{name}` has the shape {wanted.get(name)} here, but {given.get(name)} in "
                    f"`model.weights={self.source}`"
                )
            else:
                log.warning(f"no `{part}` of its shape in `model.weights={self.source}`: a new one is made")
        objective.load_state_dict(taken, strict=False)

    def _state_for(self, backbone: Backbone) -> dict[str, Tensor]:
        """The weights, with as many unused rows before the table of positions as the network has."""
        import torch

        from lmmodules.models.positions import Learned

        here, there = (getattr(one, "position", None) for one in (backbone, self.backbone))
        if not isinstance(here, Learned) or not isinstance(there, Learned) or here.offset == there.offset:
            return self.state
        name = "backbone.position.table.weight"
        used = self.state[name][there.offset :]
        return {**self.state, name: torch.cat([used.new_zeros(here.offset, used.shape[1]), used])}

    def _compare(self, backbone: Backbone) -> None:
        from lmmodules.models.description import describe
        from lmmodules.models.transformer import Transformer

        if not isinstance(backbone, Transformer) or not isinstance(self.backbone, Transformer):
            return
        here = describe(backbone)
        for name, there in describe(self.backbone).items():
            if name not in FREE and not _equal(here.get(name), there):
                override = f"model.{name}={there}"
                if name == "position":
                    override = f"position={POSITIONS.get(there, there)}"
                elif name == "position.max_length":
                    override = f"model.max_length={there}"
                raise InputError(
                    f"`model.{name}` must be {there}, as in `model.weights={self.source}`, but is {here.get(name)}; "
                    f"use `{override}`, or `model=pretrained`, which takes everything from there"
                )


def _equal(here: Any, there: Any) -> bool:
    """Whether two values are the same, of numbers to what 32 bits hold: a GGUF file has no more."""
    if isinstance(here, float) and isinstance(there, float):
        return math.isclose(here, there, rel_tol=1e-6)
    return bool(here == there)


def _belongs(name: str, part: str) -> bool:
    return name.partition(".")[0] == part


def network_arguments(backbone: Transformer) -> dict[str, Any]:
    """Everything that makes a network like this one, as plain values with its positions as a node.

    Args:
        backbone: On any device.
    """
    from lmmodules.models.block import Block
    from lmmodules.models.description import describe

    arguments = describe(backbone)
    places = {name: arguments.pop(name) for name in list(arguments) if name.startswith("position.")}
    position = {name.partition(".")[2]: value for name, value in places.items()}
    kind = arguments["position"]
    if kind == "Learned":
        position["hidden_size"] = arguments["embedding_size"]
    elif kind == "Alibi":
        position["num_heads"] = arguments["num_heads"]
    return {
        **arguments,
        "position": {"_target_": f"lmmodules.models.{kind}", **position},
        "max_length": backbone.max_length,
        "dropout": backbone.dropout.p,
        "attention_dropout": cast(Block, backbone.blocks[0]).attention.dropout,
        "initializer_std": backbone.initializer_std,
        "scale_residual_init": backbone.scale_residual_init,
        "pad_id": backbone.token_embedding.padding_idx,
    }


def vocabulary_of(tokenizer: Tokenizer) -> dict[str, int]:
    """Every token with its id."""
    vocabulary: dict[str, int] = tokenizer.backend.get_vocab(with_added_tokens=True)
    return vocabulary


def published_vocabulary(place: Path) -> dict[str, int] | None:
    """The tokens of a published model with their ids; `None` where it does not bring them as plain files.

    Args:
        place: A folder, or a GGUF file.
    """
    from lmmodules.data import Tokenizer
    from lmmodules.data.tokenizer import gguf_file

    if (quantised := gguf_file(place)) is not None:
        try:
            return vocabulary_of(Tokenizer.from_hub(str(quantised)))
        except InputError:  # a file may hold weights alone
            return None
    if (place / "tokenizer.json").is_file():
        return vocabulary_of(Tokenizer.from_file(place / "tokenizer.json"))
    if (place / "vocab.json").is_file():
        vocabulary: dict[str, int] = json.loads((place / "vocab.json").read_text(encoding="utf-8"))
        return vocabulary
    if (place / "vocab.txt").is_file():
        lines = (place / "vocab.txt").read_text(encoding="utf-8").splitlines()
        return {token: index for index, token in enumerate(lines)}
    return None
