"""Text becomes tokens, and tokens become batches."""

from lmmodules.data.base import Baseline, DataModule
from lmmodules.data.byte_level_bpe import ByteLevelBPE
from lmmodules.data.causal import NextToken
from lmmodules.data.cline import ReplacementViews
from lmmodules.data.coco_lm import CorrectionViews
from lmmodules.data.corpora import Corpus, HuggingFaceDataset, StandardLibrary
from lmmodules.data.datamodule import CorpusDataModule
from lmmodules.data.electra import DetectionMasking
from lmmodules.data.facts import LamaFiles, UnicodeFacts
from lmmodules.data.fim import FillInTheMiddle
from lmmodules.data.glue import glue
from lmmodules.data.knowledge_probes import KnowledgeProbes
from lmmodules.data.labelled import LabelledDataModule
from lmmodules.data.labelled_rows import LabelledDataset, LabelledFiles, LabelledSource
from lmmodules.data.loader import ResumableLoader, ValidationLoader
from lmmodules.data.masking import Masking
from lmmodules.data.multiple_choice import MultipleChoiceDataModule, RaceFolder
from lmmodules.data.packing import DocumentPacking, Packing, SentencePacking, StreamPacking
from lmmodules.data.randomness import SampleKeys
from lmmodules.data.recipe import TokenizerRecipe
from lmmodules.data.samples import Samples, SampleSource
from lmmodules.data.selection import BertRounding, IndependentSelection, ProbabilisticRounding, SelectionRule
from lmmodules.data.sentence_pairs import PairPacking, SegmentPairs, SentencePairs
from lmmodules.data.store import TokenStore
from lmmodules.data.super_glue import SuperGlue
from lmmodules.data.text_files import TextFiles, text_corpus
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.data.transform import Blocks, Transform
from lmmodules.data.wordpiece import WordPiece

__all__ = [
    "Baseline",
    "BertRounding",
    "Blocks",
    "ByteLevelBPE",
    "Corpus",
    "CorpusDataModule",
    "CorrectionViews",
    "DataModule",
    "DetectionMasking",
    "DocumentPacking",
    "FillInTheMiddle",
    "HuggingFaceDataset",
    "IndependentSelection",
    "KnowledgeProbes",
    "LabelledDataModule",
    "LabelledDataset",
    "LabelledFiles",
    "LabelledSource",
    "LamaFiles",
    "Masking",
    "MultipleChoiceDataModule",
    "NextToken",
    "Packing",
    "PairPacking",
    "ProbabilisticRounding",
    "RaceFolder",
    "ReplacementViews",
    "ResumableLoader",
    "SampleKeys",
    "SampleSource",
    "Samples",
    "SegmentPairs",
    "SelectionRule",
    "SentencePacking",
    "SentencePairs",
    "StandardLibrary",
    "StreamPacking",
    "SuperGlue",
    "TextFiles",
    "TokenStore",
    "Tokenizer",
    "TokenizerRecipe",
    "Transform",
    "UnicodeFacts",
    "ValidationLoader",
    "WordPiece",
    "glue",
    "text_corpus",
]
