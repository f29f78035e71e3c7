"""What a task can be told: plain dataclasses, free of torch, that check their own values; and which tasks there are."""

from typing import TYPE_CHECKING

from esper.registry import Registry
from esper.tasks.settings.base import KEEPS, LAYOUTS, BaseTaskConfig
from esper.tasks.settings.diabetes import DiabetesConfig
from esper.tasks.settings.digits import DIGITS_PIXELS, PRESETS, DigitsConfig, DistortionStrength
from esper.tasks.settings.own import ArraysConfig, CustomTaskConfig, ImagesConfig, TableConfig
from esper.tasks.settings.published import (
    Cifar10Config,
    Cifar100Config,
    FashionMnistConfig,
    MnistConfig,
    PublishedConfig,
)
from esper.tasks.settings.text import (
    BytesConfig,
    CorpusConfig,
    CorpusTaskConfig,
    PysourceConfig,
    TextConfig,
    check_paths,
)

if TYPE_CHECKING:
    from esper.tasks.data import Data
    from esper.tasks.task import Task

__all__ = [
    "DIGITS_PIXELS",
    "KEEPS",
    "LAYOUTS",
    "PRESETS",
    "TASKS",
    "ArraysConfig",
    "BaseTaskConfig",
    "BytesConfig",
    "Cifar10Config",
    "Cifar100Config",
    "CorpusConfig",
    "CorpusTaskConfig",
    "CustomTaskConfig",
    "DiabetesConfig",
    "DigitsConfig",
    "DistortionStrength",
    "FashionMnistConfig",
    "ImagesConfig",
    "MnistConfig",
    "PublishedConfig",
    "PysourceConfig",
    "TableConfig",
    "TextConfig",
    "check_paths",
]

TASKS: "Registry[BaseTaskConfig, Task | Data]" = Registry("task")
TASKS.declare("digits", DigitsConfig, "esper.tasks.digits:build_digits")
TASKS.declare("diabetes", DiabetesConfig, "esper.tasks.diabetes:build_diabetes")
TASKS.declare("images", ImagesConfig, "esper.tasks.own.images:build_images")
TASKS.declare("arrays", ArraysConfig, "esper.tasks.own.arrays:build_arrays")
TASKS.declare("table", TableConfig, "esper.tasks.own.table:build_table")
TASKS.declare("custom", CustomTaskConfig, "esper.tasks.own.custom:build_custom")
TASKS.declare("mnist", MnistConfig, "esper.tasks.published.idx:build_mnist")
TASKS.declare("fashion_mnist", FashionMnistConfig, "esper.tasks.published.idx:build_fashion_mnist")
TASKS.declare("cifar10", Cifar10Config, "esper.tasks.published.cifar:build_cifar10")
TASKS.declare("cifar100", Cifar100Config, "esper.tasks.published.cifar:build_cifar100")
TASKS.declare("pysource", PysourceConfig, "esper.tasks.text.pysource:build_pysource")
TASKS.declare("text", TextConfig, "esper.tasks.text.own_text:build_text")
TASKS.declare("corpus", CorpusTaskConfig, "esper.tasks.text.corpus_task:build_corpus_task")
