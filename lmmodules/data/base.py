"""What every data module shares: loaders that resume and divide, and what the rest of the house asks of data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import lightning as L
from typing_extensions import Self

from lmmodules.data.loader import ResumableLoader, ValidationLoader
from lmmodules.data.samples import SampleSource
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.errors import InputError, check_whole_number


@dataclass(frozen=True)
class Baseline:
    """The loss that takes no learning, beside which a model's loss means something.

    Attributes:
        key: Its name in `summary.json`.
        loss: In nats per target.
        label: What it goes without, for a table.
        meaning: What it is, for a table.
    """

    key: str
    loss: float
    label: str
    meaning: str


class DataModule(L.LightningDataModule, ABC):
    """Samples in, batches out, on any number of ranks and from any point on.

    A subclass makes its samples in `prepare` and says what they are. The position in the training stream is part of a
    checkpoint, so a resumed run sees the batches that an unbroken one would have seen, also on another number of
    devices. Use it with `Trainer(use_distributed_sampler=False)`, or with any trainer: its loaders divide themselves
    among the ranks.

    Args:
        max_length: Positions of a sample, T.
        batch_size: Samples per batch on each device.
        num_workers: Processes that prepare batches ahead; 0 prepares them in the training process.
        seed: Of the order of samples and of everything random about them.
        shuffle: False trains on the samples in their own order.
        pin_memory: Put batches where a GPU can copy them from while it computes.
        batch_tokens: Fill batches by tokens instead: so many on each device, padding not counted, and whole samples.
            Batches are then as long as their longest sample.

    Raises:
        InputError: When an argument is out of range.
    """

    max_length: int

    def __init__(
        self,
        *,
        max_length: int,
        batch_size: int,
        num_workers: int = 0,
        seed: int = 0,
        shuffle: bool = True,
        pin_memory: bool = False,
        batch_tokens: int | None = None,
    ) -> None:
        super().__init__()
        check_count("max_length", max_length, least=2)
        check_count("batch_size", batch_size, least=1)
        if batch_tokens is not None:
            check_count("batch_tokens", batch_tokens, least=max_length)
        check_count("num_workers", num_workers, least=0)
        self.max_length = max_length
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self.num_workers = num_workers
        self.seed = seed
        self.shuffle = shuffle
        self.pin_memory = pin_memory
        self._tokenizer: Tokenizer | None = None
        self._train: SampleSource | None = None
        self._validation: SampleSource | None = None
        self._train_loader: ResumableLoader | None = None
        self._validation_loader: ValidationLoader | None = None
        self._resumed_stream: dict[str, int] | None = None

    # What a subclass says

    @abstractmethod
    def prepare(self) -> Self:
        """Make the samples unless they exist. Any process may call it at any time, and again.

        Returns:
            The data module itself.
        """

    @property
    @abstractmethod
    def batch_type(self) -> type:
        """The contract of the batches, a `TypedDict` of `lmmodules.batch`."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """The data in a few facts, for a table."""

    @property
    def objective_settings(self) -> dict[str, Any]:
        """Arguments of the objective that only the data knows, such as its classes."""
        return {}

    def baseline(self) -> Baseline | None:
        """The loss on the validation samples that takes no learning; `None` where there is no such thing."""
        return None

    def validation_document(self, num_tokens: int) -> list[int]:
        """The beginning of a held-out document, for a model to go on from; empty where samples are not documents.

        Args:
            num_tokens: Tokens wanted.
        """
        return []

    # What Lightning asks

    def prepare_data(self) -> None:
        """Lightning's hook: called once per machine."""
        self.prepare()

    def setup(self, stage: str) -> None:
        """Lightning's hook: open what was prepared; a new run starts at the beginning of the stream."""
        self.prepare()
        if stage == "fit" and (self.trainer is None or self.trainer.global_step == 0):
            self._train_loader = None
            self._resumed_stream = None

    def train_dataloader(self) -> ResumableLoader:
        """The training stream, continued where it stands.

        Raises:
            InputError: When there are fewer samples than one batch takes, or none to train on.
        """
        if self._train_loader is None:
            self._train_loader = self.training_loader()
            if self._resumed_stream is not None:
                self._train_loader.load_state_dict(self._resumed_stream)
        self._train_loader.set_rank(*self._rank_and_world_size())
        len(self._train_loader)  # refuses samples that do not fill one batch
        return self._train_loader

    def training_loader(self) -> ResumableLoader:
        """A new training stream."""
        return ResumableLoader(
            self.train_samples,
            batch_size=self.batch_size,
            batch_tokens=self.batch_tokens,
            seed=self.seed,
            shuffle=self.shuffle,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
        )

    def val_dataloader(self) -> ValidationLoader | list[Any]:
        """The validation batches; nothing when nothing was held out."""
        if not self.holds_out:
            return []
        if self._validation_loader is None:
            self._validation_loader = ValidationLoader(
                self.validation_samples,
                batch_size=self.batch_size,
                batch_tokens=self.batch_tokens,
                num_workers=self.num_workers,
                pin_memory=self.pin_memory,
            )
        self._validation_loader.set_rank(*self._rank_and_world_size())
        return self._validation_loader

    def teardown(self, stage: str) -> None:
        """Lightning's hook: stop the workers. The training stream stays where it is."""
        for loader in (self._train_loader, self._validation_loader):
            if loader is not None:
                loader.close()

    def state_dict(self) -> dict[str, Any]:
        """Where the training stream stands, and the tokenizer's fingerprint."""
        stream = self._resumed_stream if self._train_loader is None else self._train_loader.state_dict()
        return {} if stream is None else {"tokenizer": self.tokenizer.fingerprint(), "stream": stream}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the training stream of a checkpoint.

        Raises:
            InputError: When the checkpoint was trained with another tokenizer or other data.
        """
        if state_dict["tokenizer"] != self.tokenizer.fingerprint():
            raise InputError(
                f"a resumed run must use the tokenizer of its checkpoint ({state_dict['tokenizer']}), but `tokenizer` "
                f"is {self.tokenizer.fingerprint()}; use the `data` and `tokenizer` settings it was started with"
            )
        self._resumed_stream = state_dict["stream"]
        if self._train_loader is not None:
            self._train_loader.load_state_dict(self._resumed_stream)

    # What the rest of the house asks

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the text.

        Raises:
            InputError: Before `prepare`.
        """
        if self._tokenizer is None:
            raise InputError("the tokenizer is trained by `prepare()`, which must be called before it is used")
        return self._tokenizer

    @property
    def vocab_size(self) -> int:
        """Ids of the tokenizer."""
        return self.tokenizer.vocab_size

    @property
    def train_samples(self) -> SampleSource:
        """The samples to train on.

        Raises:
            InputError: When all are kept for validation.
        """
        if self.prepare()._train is None:
            raise InputError(
                "training needs text, but `data.validation_fraction` is 1; use `data.validation_fraction=0.05`"
            )
        assert self._train is not None
        return self._train

    @property
    def validation_samples(self) -> SampleSource:
        """The samples to validate on.

        Raises:
            InputError: When nothing was held out.
        """
        if self.prepare()._validation is None:
            raise InputError(
                "this needs held-out text, but `data.validation_fraction` is 0; use `data.validation_fraction=0.05`"
            )
        assert self._validation is not None
        return self._validation

    @property
    def num_train_samples(self) -> int:
        """Samples in one epoch."""
        return len(self.train_samples)

    @property
    def holds_out(self) -> bool:
        """Whether there is something to validate on."""
        return self.prepare()._validation is not None

    def _rank_and_world_size(self) -> tuple[int, int]:
        # Strategies say which processes see different data: under tensor parallelism not all of them do.
        strategy = None if self.trainer is None else self.trainer.strategy
        kwargs = getattr(strategy, "distributed_sampler_kwargs", None) or {"rank": 0, "num_replicas": 1}
        return kwargs["rank"], kwargs["num_replicas"]


def check_count(name: str, value: object, *, least: int) -> None:
    """Refuse what is not a whole number of at least `least`.

    Args:
        name: Of the argument, without `data.`.
        value: As given.
        least: Smallest allowed.

    Raises:
        InputError: When it is not.
    """
    check_whole_number(f"data.{name}", value, least=least)
