from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lmmodules.batch import IGNORED, CausalBatch, FimBatch, MaskedBatch, TokenBatch, check_batch, provides
from lmmodules.errors import InputError

OPTIONAL = {"attention_mask", "document_ids", "token_type_ids"}


@pytest.mark.parametrize(
    ("contract", "required"),
    [
        (TokenBatch, {"input_ids"}),
        (CausalBatch, {"input_ids", "labels"}),
        (MaskedBatch, {"input_ids", "labels"}),
        (FimBatch, {"input_ids", "labels", "sections"}),
    ],
)
def test_required_keys_are_told_from_optional_ones(contract: type, required: set[str]) -> None:
    # An annotation kept as a string would make every key required.
    assert contract.__required_keys__ == required
    assert contract.__optional_keys__ == OPTIONAL | ({"next_sentence_labels"} if contract is MaskedBatch else set())


def test_contracts_of_the_same_keys_stay_apart() -> None:
    assert CausalBatch is not MaskedBatch


def test_the_ignored_label_is_that_of_torch() -> None:
    logits = torch.randn(3, 5)
    assert F.cross_entropy(logits, torch.tensor([1, IGNORED, IGNORED])) == F.cross_entropy(
        logits[:1], torch.tensor([1])
    )


def test_a_whole_batch_passes_with_and_without_what_is_optional() -> None:
    whole = dict.fromkeys(["input_ids", "labels", *OPTIONAL])
    check_batch(whole, CausalBatch, "CausalLM")
    check_batch({"input_ids": None, "labels": None}, CausalBatch, "CausalLM")
    check_batch({"input_ids": None}, TokenBatch, "X")
    check_batch({"input_ids": None, "labels": None, "of_another": None}, MaskedBatch, "MaskedLM")


def test_what_is_missing_and_what_is_there_are_named() -> None:
    with pytest.raises(InputError) as caught:
        check_batch({"input_ids": None, "document_ids": None}, CausalBatch, "CausalLM")
    assert str(caught.value) == (
        "`CausalLM` needs `labels` in a batch, but the data yields `document_ids`, `input_ids`; "
        "leave `transform=` to the objective"
    )


def test_several_missing_keys_come_in_one_sentence() -> None:
    with pytest.raises(InputError, match="`MaskedLM` needs `input_ids`, `labels` in a batch, but the data yields `x`;"):
        check_batch({"x": None}, MaskedBatch, "MaskedLM")


def test_a_batch_that_extends_another_can_be_read_as_it() -> None:
    class LongerBatch(MaskedBatch):
        extra: torch.Tensor

    assert provides(MaskedBatch, MaskedBatch)
    assert provides(LongerBatch, MaskedBatch)
    assert provides(LongerBatch, TokenBatch)
    assert not provides(MaskedBatch, LongerBatch)
    assert not provides(MaskedBatch, CausalBatch)  # the same keys with another meaning
