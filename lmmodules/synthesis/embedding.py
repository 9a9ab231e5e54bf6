"""Questions as vectors of length one, whose products tell how similar they are."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Protocol
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch

from lmmodules.errors import InputError

Vectors = npt.NDArray[np.float32]


class Embedder(Protocol):
    """Makes vectors (N, D) of length one of texts that are to be compared with one another."""

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Vectors (N, D).

        Args:
            texts: All that are to be compared.
        """
        ...


class NgramEmbedder:
    """Counts of character n-grams within words, each weighted by how few of the texts have it.

    It needs no model and knows no meaning: two questions are similar when they are spelt alike.

    Args:
        sizes: The shortest and the longest n-gram.
        dimensions: Length of a vector; n-grams share its places by a hash.

    Raises:
        InputError: When the sizes are not in order.
    """

    def __init__(self, sizes: tuple[int, int] = (3, 5), dimensions: int = 4096) -> None:
        if not 1 <= sizes[0] <= sizes[1]:
            raise InputError(f"`sizes` must be the shortest and the longest n-gram, but is {sizes}")
        self.sizes = sizes
        self.dimensions = dimensions

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Vectors (N, D).

        Args:
            texts: All that are to be compared.
        """
        counts = np.zeros((len(texts), self.dimensions), dtype=np.float64)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+|[^\w\s]", text.lower()):
                padded = f" {word} "
                for size in range(self.sizes[0], self.sizes[1] + 1):
                    for start in range(max(len(padded) - size + 1, 1)):
                        counts[row, crc32(padded[start : start + size].encode()) % self.dimensions] += 1
        have = (counts > 0).sum(0)
        weights = np.log1p(counts) * (np.log((1 + len(texts)) / (1 + have)) + 1)
        return unit_length(weights)


class EncoderEmbedder:
    """The mean of the hidden states of an encoder over the tokens of a text.

    Args:
        path: A folder with `config.json`, weights and `tokenizer.json`, or a name on the hub; for example
            all-MiniLM-L6-v2.
        max_length: Tokens of a text that are read.
        batch_size: Texts at a time.

    Raises:
        InputError: When there is no such model, or it is not bidirectional.

    Source:
        Reimers & Gurevych 2019 (mean pooling). Drori et al. 2022 take text-similarity-babbage-001.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_length: int = 256, batch_size: int = 16) -> None:
        from lmmodules.data.tokenizer import Tokenizer
        from lmmodules.models.hugging_face_folder import find_model, read_model

        place = find_model(path)
        self._backbone = read_model(place)[0].eval()
        if self._backbone.causal:
            raise InputError(f"`encoder` must be a bidirectional model, but `{path}` is causal; use `encoder=null`")
        file = place / "tokenizer.json"
        self._tokenizer = Tokenizer.from_file(file) if file.is_file() else Tokenizer.from_hub(str(place))
        self._max_length = min(max_length, self._backbone.max_length or max_length)
        self._batch_size = batch_size

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Vectors (N, D).

        Args:
            texts: All that are to be compared.
        """
        tokenizer = self._tokenizer
        first = [tokenizer.bos_id] if tokenizer.has("bos") else []
        room = self._max_length - len(first) - 1
        rows = [[*first, *ids[:room], tokenizer.eos_id] for ids in tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        vectors = np.zeros((len(rows), self._backbone.hidden_size))
        for start in range(0, len(order), self._batch_size):
            chosen = order[start : start + self._batch_size]
            longest = max(len(rows[row]) for row in chosen)
            ids = torch.zeros(len(chosen), longest, dtype=torch.int64)
            mask = torch.zeros(len(chosen), longest, dtype=torch.int64)
            for number, row in enumerate(chosen):
                ids[number, : len(rows[row])] = torch.tensor(rows[row])
                mask[number, : len(rows[row])] = 1
            hidden = self._backbone(ids, attention_mask=mask)  # (B, T, D)
            means = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
            vectors[chosen] = means.double().numpy()
        return unit_length(vectors)


def unit_length(vectors: npt.NDArray[np.float64]) -> Vectors:
    """Vectors divided by their length; one without a length stays as it is.

    Args:
        vectors: (N, D).
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Vectors = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return scaled
