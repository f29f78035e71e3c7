"""What a function of the user's own gives, as data."""

from dataclasses import replace
from typing import Any

from torch.utils.data import Dataset

from esper.errors import ConfigError
from esper.factories import call_factory
from esper.tasks.data import Data
from esper.tasks.examples import is_hugging_face
from esper.tasks.settings import TASKS, CustomTaskConfig

_NAMES = {"train": "train", "validation": "val", "valid": "val", "val": "val", "test": "test"}
_EXPECTED = "expected esper.Data, (x, y), datasets (train, test) or (train, val, test), or a dict of them"


@TASKS.register("custom", CustomTaskConfig)
def build_custom(settings: CustomTaskConfig) -> Data:
    """The data; `task.loss` and `task.num_outputs` replace what they say, where they are set."""
    given = call_factory("task.factory", settings.factory)
    data = given if isinstance(given, Data) else Data(**_splits(given, settings.factory))
    if settings.loss != "cross_entropy":
        data = replace(data, loss=settings.loss)
    return data if settings.num_outputs is None else replace(data, num_outputs=settings.num_outputs)


def _splits(given: Any, factory: str) -> dict[str, Any]:
    if isinstance(given, dict):
        given = {name: part for name, part in given.items() if part is not None}
        names = [_NAMES.get(str(name), "") for name in given]
        if "train" in names and all(names) and len(set(names)) == len(names):
            return dict(zip(names, given.values(), strict=True))
        raise ConfigError(f"task.factory={factory}: a dict of {', '.join(map(str, given))}; expected train, val, test")
    if _is_set(given):
        return {"train": given}
    if isinstance(given, tuple | list) and 2 <= len(given) <= 3:
        if all(_is_set(part) or isinstance(part, tuple | list) for part in given):
            return dict(zip(("train", "test") if len(given) == 2 else ("train", "val", "test"), given, strict=True))
        if len(given) == 2 and not any(_is_set(part) for part in given):
            return {"train": given}
    raise ConfigError(f"task.factory={factory}: {_EXPECTED}, and it gave {type(given).__name__}")


def _is_set(part: Any) -> bool:
    return isinstance(part, Dataset) or is_hugging_face(part)
