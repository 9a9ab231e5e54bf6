"""A training step as users run it, ours and that of transformers, and whether the two compute the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.workload import Agreement, Step
from lmmodules import CorpusDataModule, Transformer
from lmmodules.data import ByteLevelBPE
from lmmodules.data.transform import Transform
from lmmodules.models.hugging_face import from_transformers, to_transformers_state_dict
from lmmodules.objectives import LanguageModel

LOSS_TOLERANCE = 2e-6
GRADIENT_TOLERANCE = 2e-5
LARGEST_TOKENIZER = 8192

fused_adamw = partial(torch.optim.AdamW, lr=3e-4, fused=True)
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    """A network small enough for a processor; the same for ours and for every peer."""

    hidden_size: int = 256
    num_layers: int = 4
    num_heads: int = 4


SMALL = Sizes()


def corpus(
    vocab_size: int,
    length: int,
    batch_size: int,
    transform: Transform | None = None,
    special_tokens: Sequence[str] = (),
) -> CorpusDataModule:
    """The standard library as tokens, under the cache directory.

    It has not the words to fill a large vocabulary, so the tokens of one are the first 8,192: what a step costs
    depends on the size of the vocabulary, and not on which tokens occur.

    Args:
        vocab_size: Of the network.
        length: Positions of a sample.
        batch_size: Samples of a batch.
        transform: What becomes of a block; `None` for next-token prediction.
        special_tokens: What the tokenizer has beyond its usual ones.
    """
    recipe = ByteLevelBPE(vocab_size=min(vocab_size, LARGEST_TOKENIZER), special_tokens=tuple(special_tokens))
    return CorpusDataModule(tokenizer=recipe, transform=transform, max_length=length, batch_size=batch_size).prepare()


def endless(loader: Iterable[Any]) -> Iterator[Any]:
    """Pass after pass."""
    while True:
        yield from loader


def our_step(objective: LanguageModel, data: CorpusDataModule) -> Step:
    """What `lightning.Trainer` does in a step: the next batch, `training_step`, backward, the optimizer of the project.

    Args:
        objective: In training mode from here on.
        data: Read through its own loader.
    """
    objective.train()
    optimizer = objective.configure_optimizers()
    batches = endless(data.train_dataloader())

    def step() -> None:
        loss = objective.training_step(next(batches), 0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def peer_step(
    model: nn.Module,
    batches: Iterator[Any],
    loss: Callable[[nn.Module, Any], Tensor],
    optimizer: Callable[..., torch.optim.Optimizer],
) -> Step:
    """The loop that everybody writes around a module.

    Args:
        model: In training mode from here on.
        batches: Without an end.
        loss: Of the model on a batch.
        optimizer: Takes the parameters.
    """
    model.train()
    built = optimizer(model.parameters())

    def step() -> None:
        value = loss(model, next(batches))
        built.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        built.step()

    return step


def transformers_loss(model: nn.Module, batch: Any) -> Tensor:
    """The loss that a model of transformers returns by itself."""
    loss: Tensor = model(**batch).loss
    return loss


def objective_from(model: Any, kind: type[LanguageModel]) -> LanguageModel:
    """Ours, with the sizes and the weights of a model of transformers.

    Args:
        model: Of a family that `from_transformers` knows.
        kind: The objective.
    """
    backbone, head = from_transformers(model)
    return kind(backbone, head=head, optimizer=fused_adamw)


def same_loss_and_gradients(
    objective: LanguageModel,
    batch: Batch,
    model: nn.Module,
    peer_loss: Tensor,
    translate: Callable[[LanguageModel], dict[str, Tensor]],
) -> list[Agreement]:
    """Compare loss and gradients of ours with those of a peer that has the same weights.

    Both are without dropout. The objective must not be used afterwards: its weights are gone.

    Args:
        objective: Ours.
        batch: For ours.
        model: The peer.
        peer_loss: Its loss on the same batch, not yet differentiated.
        translate: The parameters of ours under the names of the peer.
    """
    loss = objective.eval().training_step(batch, 0)
    loss.backward()  # type: ignore[no-untyped-call]
    peer_loss.backward()  # type: ignore[no-untyped-call]
    for parameter in objective.parameters():
        assert parameter.grad is not None
        parameter.data = parameter.grad
    ours = translate(objective)
    difference = largest = 0.0
    for name, parameter in model.named_parameters():
        # Where our network has folded a tensor of the peer into another, it has no gradient of its own.
        if name in ours and parameter.grad is not None:
            difference = max(difference, (ours[name] - parameter.grad).abs().max().item())
            largest = max(largest, parameter.grad.abs().max().item())
    return [
        Agreement("loss", abs(loss.item() - peer_loss.item()) / abs(peer_loss.item()), LOSS_TOLERANCE),
        Agreement("largest gradient", difference / largest, GRADIENT_TOLERANCE),
    ]


def random_decoder(vocab_size: int, sizes: Sizes = SMALL, **options: Any) -> Transformer:
    """A decoder of ours, with the same random weights each time.

    Args:
        vocab_size: Tokens known.
        sizes: Of the network.
        **options: Other arguments of `Transformer`.
    """
    torch.manual_seed(0)
    return Transformer(
        vocab_size=vocab_size,
        hidden_size=sizes.hidden_size,
        num_layers=sizes.num_layers,
        num_heads=sizes.num_heads,
        causal=True,
        **options,
    )


def random_gpt2(vocab_size: int, length: int, sizes: Sizes = SMALL, activation: str = "gelu_new") -> Any:
    """A `GPT2LMHeadModel` without dropout, with the same random weights each time.

    Args:
        vocab_size: Tokens known.
        length: Most positions.
        sizes: Of the network.
        activation: As transformers names it.
    """
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=vocab_size,
        n_positions=length,
        n_embd=sizes.hidden_size,
        n_layer=sizes.num_layers,
        n_head=sizes.num_heads,
        activation_function=activation,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=2,
    )
    return transformers.GPT2LMHeadModel(config)


def random_roberta(
    vocab_size: int, length: int, sizes: Sizes = SMALL, dropout: float = 0.0, attention_dropout: float = 0.0
) -> Any:
    """A `RobertaForMaskedLM` with the same random weights each time.

    Args:
        vocab_size: Tokens known.
        length: Most positions of a sample.
        sizes: Of the network.
        dropout: Of hidden states.
        attention_dropout: Of attention weights.
    """
    import transformers

    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=vocab_size,
        hidden_size=sizes.hidden_size,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        intermediate_size=4 * sizes.hidden_size,
        max_position_embeddings=length + 2,  # positions are counted from behind the padding's
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=attention_dropout,
    )
    return transformers.RobertaForMaskedLM(config)


def names_of_transformers(family: str) -> Callable[[LanguageModel], dict[str, Tensor]]:
    """A `translate` for `same_loss_and_gradients`.

    Args:
        family: `model_type` of the peer's configuration.
    """

    def translate(objective: LanguageModel) -> dict[str, Tensor]:
        state = to_transformers_state_dict(family, objective.backbone, objective.head)  # type: ignore[arg-type]
        # All tokens are of one type, whose gradient ours adds to that of every position.
        return {name: tensor for name, tensor in state.items() if "token_type_embeddings" not in name}

    return translate
