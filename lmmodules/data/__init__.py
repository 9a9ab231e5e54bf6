"""Text becomes tokens, and tokens become batches."""

from lmmodules.data.base import Baseline, DataModule
from lmmodules.data.byte_level_bpe import ByteLevelBPE
from lmmodules.data.causal import NextToken
from lmmodules.data.corpora import Corpus, HuggingFaceDataset, StandardLibrary
from lmmodules.data.datamodule import CorpusDataModule
from lmmodules.data.loader import ResumableLoader, ValidationLoader
from lmmodules.data.masking import Masking
from lmmodules.data.packing import DocumentPacking, Packing, SentencePacking, StreamPacking
from lmmodules.data.randomness import SampleKeys
from lmmodules.data.samples import Samples, SampleSource
from lmmodules.data.store import TokenStore
from lmmodules.data.text_files import TextFiles, text_corpus
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.data.transform import Blocks, Transform

__all__ = [
    "Baseline",
    "Blocks",
    "ByteLevelBPE",
    "Corpus",
    "CorpusDataModule",
    "DataModule",
    "DocumentPacking",
    "HuggingFaceDataset",
    "Masking",
    "NextToken",
    "Packing",
    "ResumableLoader",
    "SampleKeys",
    "SampleSource",
    "Samples",
    "SentencePacking",
    "StandardLibrary",
    "StreamPacking",
    "TextFiles",
    "TokenStore",
    "Tokenizer",
    "Transform",
    "ValidationLoader",
    "text_corpus",
]
