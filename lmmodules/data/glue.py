"""The tasks of GLUE: their columns, classes and files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from lmmodules.data.labelled import LabelledDataModule
from lmmodules.data.labelled_rows import LabelledDataset, LabelledFiles, LabelledSource
from lmmodules.data.recipe import TokenizerRecipe
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.errors import InputError

ENTAILMENT = ("entailment", "not_entailment")


@dataclass(frozen=True)
class GlueTask:
    """One task, on the hub and in the files of the GLUE website.

    Attributes:
        columns: Text columns on the hub.
        classes: Names of the classes in the order of the hub; none for a task with scores.
        folder: Folder of the files.
        file_columns: Text columns of the files, by number where these have no header.
        file_label: Label column of the files.
        header: Whether the files begin with the names of their columns.
        validation: Name of the validation part, on the hub and of the file.
        label_scale: What scores are divided by.
    """

    columns: tuple[str, ...]
    classes: tuple[str, ...]
    folder: str
    file_columns: tuple[str, ...]
    file_label: str = "label"
    header: bool = True
    validation: tuple[str, str] = ("validation", "dev.tsv")
    label_scale: float = 1.0


PAIR = ("sentence1", "sentence2")

TASKS: Mapping[str, GlueTask] = MappingProxyType(
    {
        "cola": GlueTask(("sentence",), ("unacceptable", "acceptable"), "CoLA", ("3",), "1", header=False),
        "sst2": GlueTask(("sentence",), ("negative", "positive"), "SST-2", ("sentence",)),
        "mrpc": GlueTask(PAIR, ("not_equivalent", "equivalent"), "MRPC", ("#1 String", "#2 String"), "Quality"),
        "stsb": GlueTask(PAIR, (), "STS-B", PAIR, "score", label_scale=5.0),
        "qqp": GlueTask(
            ("question1", "question2"),
            ("not_duplicate", "duplicate"),
            "QQP",
            ("question1", "question2"),
            "is_duplicate",
        ),
        "mnli": GlueTask(
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            "MNLI",
            PAIR,
            "gold_label",
            validation=("validation_matched", "dev_matched.tsv"),
        ),
        "mnli_mismatched": GlueTask(
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            "MNLI",
            PAIR,
            "gold_label",
            validation=("validation_mismatched", "dev_mismatched.tsv"),
        ),
        "qnli": GlueTask(("question", "sentence"), ENTAILMENT, "QNLI", ("question", "sentence")),
        "rte": GlueTask(PAIR, ENTAILMENT, "RTE", PAIR),
        "wnli": GlueTask(PAIR, ENTAILMENT[::-1], "WNLI", PAIR),
    }
)
"""By the names they have on the hub.

Source:
    Wang et al. 2018, "GLUE"; columns of the files: fairseq, `examples/roberta/preprocess_GLUE_tasks.sh`, which also
    divides the scores of STS-B by 5.
"""


def glue(
    task: str,
    *,
    path: str | os.PathLike[str] | None = None,
    name: str = "nyu-mll/glue",
    tokenizer: Tokenizer | TokenizerRecipe | None = None,
    layout: str | None = None,
    max_length: int = 512,
    batch_size: int = 32,
    num_workers: int = 0,
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
    group_by_length: bool = True,
    shuffle: bool = True,
    pin_memory: bool = False,
) -> LabelledDataModule:
    """A task of GLUE, validated on its development set. Rows without text or label are left out and counted.

    Args:
        task: `cola`, `sst2`, `mrpc`, `stsb`, `qqp`, `mnli`, `mnli_mismatched`, `qnli`, `rte` or `wnli`.
        path: Folder with the files of the GLUE website, in a folder for each task (`CoLA`, `SST-2`, ...), or that
            folder itself; `None` takes the hub.
        name: Of the dataset on the hub.
        tokenizer: See `LabelledDataModule`.
        layout: See `LabelledDataModule`.
        max_length: See `LabelledDataModule`.
        batch_size: See `LabelledDataModule`.
        num_workers: See `LabelledDataModule`.
        seed: See `LabelledDataModule`.
        cache_dir: See `LabelledDataModule`.
        group_by_length: See `LabelledDataModule`.
        shuffle: See `LabelledDataModule`.
        pin_memory: See `LabelledDataModule`.

    Raises:
        InputError: When there is no such task, or its files are missing.
    """
    if task not in TASKS:
        raise InputError(f"`data.task` must be one of {', '.join(TASKS)}, but is {task}; use `data.task=sst2`")
    chosen = TASKS[task]
    source: LabelledSource
    if path is None:
        columns, label = chosen.columns, "label"
        config = task.removesuffix("_mismatched")
        source = LabelledDataset(name, config_name=config, validation_split=chosen.validation[0])
    else:
        columns, label = chosen.file_columns, chosen.file_label
        folder = Path(path).expanduser()
        folder = folder / chosen.folder if (folder / chosen.folder).is_dir() else folder
        for file in ("train.tsv", chosen.validation[1]):
            if not (folder / file).is_file():
                raise InputError(
                    f"`data.path` must be a folder with `{chosen.folder}/{file}`, as the GLUE website gives it, but "
                    f"`{folder / file}` does not exist"
                )
        source = LabelledFiles(
            folder / "train.tsv", folder / chosen.validation[1], header=chosen.header, skip_malformed=True
        )
    return LabelledDataModule(
        source,
        tokenizer,
        text_columns=columns,
        label_column=label,
        label_kind="classes" if chosen.classes else "scores",
        classes=chosen.classes or None,
        label_scale=chosen.label_scale,
        skip_incomplete=True,
        layout=layout,
        max_length=max_length,
        batch_size=batch_size,
        num_workers=num_workers,
        seed=seed,
        cache_dir=cache_dir,
        group_by_length=group_by_length,
        shuffle=shuffle,
        pin_memory=pin_memory,
    )
