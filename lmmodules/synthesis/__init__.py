"""Mathematics by program synthesis (Drori et al. 2022): a model writes a program that prints the answer."""

from lmmodules.synthesis.causal_client import CausalClient, CheckpointClient
from lmmodules.synthesis.client import Client, Decoding
from lmmodules.synthesis.embedding import EncoderEmbedder, NgramEmbedder
from lmmodules.synthesis.endpoint_client import EndpointClient
from lmmodules.synthesis.hugging_face_client import HuggingFaceClient
from lmmodules.synthesis.journal import Journal
from lmmodules.synthesis.prompts import PromptForm
from lmmodules.synthesis.questions import Example, Question
from lmmodules.synthesis.solver import Solution, Solver

__all__ = [
    "CausalClient",
    "CheckpointClient",
    "Client",
    "Decoding",
    "EncoderEmbedder",
    "EndpointClient",
    "Example",
    "HuggingFaceClient",
    "Journal",
    "NgramEmbedder",
    "PromptForm",
    "Question",
    "Solution",
    "Solver",
]
