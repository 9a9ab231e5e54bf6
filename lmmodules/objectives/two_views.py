"""The backbone over both views of COCO-LM: every state of the corrupted text, and the first of the crop."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lmmodules.batch import CorrectionBatch
from lmmodules.models.backbone import Backbone


def encode_apart(backbone: Backbone, batch: CorrectionBatch, input_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Run the backbone over one view and then over the other.

    Args:
        backbone: Token ids in, hidden states out.
        batch: Masks and crops.
        input_ids: (B, T) the corrupted texts.

    Returns:
        (B * T, D) states of the corrupted texts, and (B, D) of the crops' first tokens.
    """
    texts = backbone(
        input_ids,
        attention_mask=batch.get("attention_mask"),
        document_ids=batch.get("document_ids"),
        token_type_ids=batch.get("token_type_ids"),
    )
    num_crops, length = batch["crop_ids"].shape
    crops = backbone(
        batch["crop_ids"],
        attention_mask=batch.get("crop_attention_mask"),
        document_ids=batch.get("crop_document_ids"),
        rows=torch.arange(num_crops, device=input_ids.device) * length,
    )
    return texts.flatten(0, 1), crops


def encode_together(backbone: Backbone, batch: CorrectionBatch, input_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Run the backbone once over both views, the crops filled up with padding.

    Fewer and larger operations, for some work on padding and an attention mask.

    Args:
        backbone: Token ids in, hidden states out.
        batch: Masks and crops.
        input_ids: (B, T) the corrupted texts.

    Returns:
        (B * T, D) states of the corrupted texts, and (B, D) of the crops' first tokens.
    """
    crop_ids = batch["crop_ids"]
    attention_mask = _beneath(
        batch.get("attention_mask", torch.ones_like(input_ids)),
        batch.get("crop_attention_mask", torch.ones_like(crop_ids)),
    )
    document_ids = token_type_ids = None
    if "document_ids" in batch:
        document_ids = _beneath(batch["document_ids"], batch["crop_document_ids"])
    if "token_type_ids" in batch:
        token_type_ids = _beneath(batch["token_type_ids"], torch.zeros_like(crop_ids))
    num_states = input_ids.numel()
    states = torch.arange(num_states, device=input_ids.device)
    hidden = backbone(
        _beneath(input_ids, crop_ids),
        attention_mask=attention_mask,
        document_ids=document_ids,
        token_type_ids=token_type_ids,
        rows=torch.cat([states, num_states + states[:: input_ids.shape[1]]]),
    )
    return hidden[:num_states], hidden[num_states:]


def _beneath(texts: Tensor, crops: Tensor) -> Tensor:
    """(2 B, T) rows of (B, T) and of (B, C), the latter filled up with zeros."""
    return torch.cat([texts, F.pad(crops, (0, texts.shape[1] - crops.shape[1]))])
