"""Observations as feature vectors: plain lists of finite floats."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from esper.errors import LearnerError
from esper.leyline import TaskConfig
from esper.simic.episodes import TrainingSnapshot

__all__ = ["BASE_FEATURES", "TaskConfig", "features_with_flags", "obs_to_base_features"]

_HISTORY = 5
_LARGEST = 3.4028234663852886e38  # of float32: what exceeds it is infinite to a network

BASE_FEATURES: tuple[str, ...] = tuple(
    name
    for field in fields(TrainingSnapshot)
    for name in ([f"{field.name}[{i}]" for i in range(_HISTORY)] if field.name.endswith("_history_5") else [field.name])
)


def obs_to_base_features(obs: Mapping[str, Any]) -> list[float]:
    """The 27 base features of an observation: the fields of `TrainingSnapshot` in order, histories flattened.

    A value that is not finite (in float32) or not known (None) becomes 0, and a UserWarning names it.
    Raises LearnerError (a ValueError) for a missing field or a history that is not five long.
    """
    features, replaced = features_with_flags(obs)
    if replaced:
        warnings.warn(f"Not finite, 0 as features: {', '.join(replaced)}.", UserWarning, stacklevel=2)
    return features


def features_with_flags(obs: Mapping[str, Any]) -> tuple[list[float], list[str]]:
    """The 27 base features, and the names of those (see BASE_FEATURES) that stand for values that were not finite."""
    values: list[Any] = []
    for field in fields(TrainingSnapshot):
        if field.name not in obs:
            raise LearnerError(f"The observation has no {field.name!r}; expected every field of TrainingSnapshot.")
        value = obs[field.name]
        if not field.name.endswith("_history_5"):
            values.append(value)
        elif len(value) == _HISTORY:
            values += value
        else:
            raise LearnerError(f"The observation's {field.name!r} has {len(value)} values; expected {_HISTORY}.")
    numbers = [math.nan if value is None else float(value) for value in values]
    finite = [abs(number) <= _LARGEST for number in numbers]
    replaced = [name for name, kept in zip(BASE_FEATURES, finite, strict=True) if not kept]
    return [number if kept else 0.0 for number, kept in zip(numbers, finite, strict=True)], replaced
