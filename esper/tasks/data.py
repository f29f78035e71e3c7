"""Data of the user's own, and the task that it becomes: three disjoint splits, whatever was given."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esper.checks import is_whole, one_of, require, spelled
from esper.errors import ConfigError, TaskError
from esper.files.atomic import as_unicode
from esper.leyline import LOSSES
from esper.tasks.examples import class_names_of, read_examples
from esper.tasks.labels import NUMBERS_HINT, as_classes, as_numbers
from esper.tasks.layouts import to_inputs
from esper.tasks.settings import LAYOUTS
from esper.tasks.splits import SPLITS, split_note, split_off
from esper.tasks.standardizing import standard_of
from esper.tasks.task import Task

Array = NDArray[Any]
MOST_OUTPUTS = 1_000_000


@dataclass(kw_only=True)
class Data:
    """Data of one's own: what a task's builder gives, and what `task.factory` may give.

    Each split is a pair (x, y) of tensors or arrays, a torch Dataset of such pairs, or a Hugging Face dataset; Datasets
    are read once, in full. x: images [N, C, H, W], [N, H, W, C] or [N, H, W], sequences [N, T, F], vectors [N, F], or
    tokens [N, T] of whole numbers, whose y is [N, T]. y: of classes whole numbers or text, [N]; of numbers to predict
    [N] or [N, K].

    train: what is trained on. val: what decisions are made by; test: for the final figure alone; None: a part of train
    is kept for it. loss: "cross_entropy" of classes, "mse" or "huber" of numbers. num_outputs: classes, or numbers to
    predict; None: as the labels say. class_names: of all classes, in order; labels may be names, then. layout: which
    axis is what (`esper.tasks.layouts.to_inputs`). standardize: whether inputs become standardised by the training
    split, channel by channel or feature by feature; tokens never are. kept_apart: which of val and test were taken from
    the training examples by `split_seed` already. notes: what a run is to say at its start.

    Raises: ConfigError on wrong values; what is wrong with examples shows when a task is made of them.
    """

    train: Any
    val: Any = None
    test: Any = None
    loss: str = "cross_entropy"
    num_outputs: int | None = None
    class_names: tuple[str, ...] = ()
    layout: str = "auto"
    standardize: bool = True
    kept_apart: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        one_of("loss", self.loss, LOSSES)
        one_of("layout", self.layout, LAYOUTS)
        require(self.train is not None, "train", self.train, "examples to train on")
        for key in ("class_names", "notes"):
            given = getattr(self, key)
            require(not isinstance(given, str), key, given, f"a list, as in [{spelled(given)}]")
            setattr(self, key, tuple(as_unicode(str(one)) for one in given))
        self.class_names = self.class_names or class_names_of(self.train)
        require(len(set(self.class_names)) == len(self.class_names), "class_names", self.class_names, "each once")
        if self.num_outputs is not None:
            is_count = is_whole(self.num_outputs) and 1 <= self.num_outputs <= MOST_OUTPUTS
            require(is_count, "num_outputs", self.num_outputs, f"a whole number, 1 to {MOST_OUTPUTS}")
            self.num_outputs = int(self.num_outputs)
            fits = not self.class_names or len(self.class_names) == self.num_outputs
            require(fits, "num_outputs", self.num_outputs, f"{len(self.class_names)}, as many as class_names")


@dataclass(slots=True)
class _Split:
    """x [N, ...] as `to_inputs` gives them, y [N], [N, K] or [N, T]."""

    x: Tensor
    y: Tensor

    def part(self, index: Tensor) -> "_Split":
        return _Split(self.x[index], self.y[index])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Build:
    """How a task is built: see `build_from_data`."""

    name: str
    device: torch.device
    dtype: torch.dtype
    split_seed: int
    val_fraction: float
    test_fraction: float


def build_from_data(
    data: Data,
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    split_seed: int,
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
) -> Task:
    """The task that data of a user's own become.

    Args: name: of the task. val_fraction, test_fraction: of the training examples, kept where a split is not given.

    Raises: TaskError, ConfigError where they make none; each names the split.
    """
    how = _Build(
        name=name,
        device=device,
        dtype=dtype,
        split_seed=split_seed,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
    )
    try:
        return _build(data, how)
    except (TaskError, ConfigError) as error:
        raise type(error)(f"task={name}: {error}") from error


def _build(data: Data, how: _Build) -> Task:
    given = {key: getattr(data, key) for key in SPLITS if getattr(data, key) is not None}
    splits = {key: read_examples(source, key) for key, source in given.items()}
    layout, inputs = _inputs(splits, data)
    labels, outputs, names = _labels({key: y for key, (_, y) in splits.items()}, layout, inputs, data)
    found = {key: _Split(inputs[key], torch.from_numpy(labels[key])) for key in splits}
    digests = {key: [hashlib.sha256(example.numpy()).digest() for example in split.x] for key, split in found.items()}
    notes = [*data.notes, *_check_apart(digests, data.kept_apart, how.name)]
    sha256 = _fingerprint(digests, found)
    is_classes = data.loss == "cross_entropy" and layout != "tokens"
    kept_apart = _keep_apart(found, how, is_classes) or data.kept_apart
    if kept_apart:
        notes.append(split_note(how.name, {key: len(found[key].y) for key in SPLITS}, kept_apart, how.split_seed))
    if is_classes:
        _check_trained(found, names)
    x = _finished(found, layout, data.standardize, how)
    y = {key: split.y.to(how.device) for key, split in found.items()}
    return Task(
        name=how.name,
        num_outputs=outputs,
        input_shape=tuple(x["train"].shape[1:]),
        train_x=x["train"],
        train_y=y["train"],
        val_x=x["val"],
        val_y=y["val"],
        test_x=x["test"],
        test_y=y["test"],
        class_names=names,
        data_sha256=sha256,
        notes=tuple(notes),
        loss=data.loss,
    )


def _inputs(splits: dict[str, tuple[Array, Array]], data: Data) -> tuple[str, dict[str, Tensor]]:
    if data.layout == "auto" and data.loss == "cross_entropy" and all(_are_tokens(*pair) for pair in splits.values()):
        found = {key: (torch.from_numpy(tokens.astype(np.int64)), "tokens") for key, (tokens, _) in splits.items()}
    else:
        found = {key: to_inputs(inputs, data.layout, f"{key} x") for key, (inputs, _) in splits.items()}
    layouts = {layout for _, layout in found.values()}
    shapes = {key: list(inputs.shape[1:]) for key, (inputs, _) in found.items()}
    for key, shape in shapes.items():
        if shape != shapes["train"] or len(layouts) > 1:
            raise TaskError(f"{key} x: examples of {shape}, and of train {shapes['train']}; expected one size")
    return layouts.pop(), {key: inputs for key, (inputs, _) in found.items()}


def _are_tokens(x: Array, y: Array) -> bool:
    return x.ndim == 2 and x.shape == y.shape and all(part.dtype.kind in "iu" for part in (x, y))


def _labels(
    labels: dict[str, Array], layout: str, inputs: dict[str, Tensor], data: Data
) -> tuple[dict[str, Array], int, tuple[str, ...]]:
    if data.loss != "cross_entropy":
        return *as_numbers(labels, data.num_outputs), ()
    if layout != "tokens":
        return as_classes(labels, data.num_outputs, data.class_names)
    tokens = {key: y.astype(np.int64) for key, y in labels.items()}
    every = [*inputs.values(), *map(torch.from_numpy, tokens.values())]
    low, high = min(int(part.min()) for part in every), max(int(part.max()) for part in every)
    count = data.num_outputs or min(high + 1, MOST_OUTPUTS)
    if low < 0 or high >= count:
        raise TaskError(f"tokens: {low if low < 0 else high}: expected 0 to {count - 1}")
    return tokens, count, data.class_names


def _check_apart(digests: dict[str, list[bytes]], kept_apart: Sequence[str], name: str) -> list[str]:
    """Notes of splits of which some examples stand in another. Raises TaskError where most do, as given."""
    notes = []
    for first, second in itertools.combinations(digests, 2):
        others, own = Counter(digests[first]), digests[second]
        shared = sum(example in others for example in own)
        single = sum(count == 1 for count in others.values())
        # Where most examples of a split repeat in it, they do anywhere.
        if second not in kept_apart and 2 * shared > len(own) and 2 * single > len(digests[first]):
            raise TaskError(
                f"{second} x: {shared:,} of its {len(own):,} examples stand in {first}, too\n"
                "  a split that is not given is kept apart from the training examples"
            )
        if shared:
            notes.append(f"task={name}: {shared:,} of {len(own):,} {second} examples stand in {first}")
    return notes


def _fingerprint(digests: dict[str, list[bytes]], found: dict[str, _Split]) -> str:
    """The sha256 of all that was given: examples, labels, and which split they are of."""
    whole = hashlib.sha256()
    for key, split in found.items():
        whole.update(f"{key} {split.x.dtype} {list(split.x.shape)} {list(split.y.shape)} ".encode())
        whole.update(b"".join(digests[key]))
        whole.update(split.y.numpy().tobytes())
    return whole.hexdigest()


def _keep_apart(found: dict[str, _Split], how: _Build, is_classes: bool) -> Sequence[str]:
    """Add the splits that were not given; their names."""
    missing = [key for key in ("val", "test") if key not in found]
    if not missing:
        return []
    whole = found["train"]
    classes = whole.y if is_classes else torch.zeros(len(whole.y), dtype=torch.int64)
    fractions = (how.val_fraction if "val" in missing else 0.0, how.test_fraction if "test" in missing else 0.0)
    index = split_off(classes, *fractions, how.split_seed, how.name)
    found |= {key: whole.part(index[key]) for key in ("train", *missing)}
    return missing


def _check_trained(found: dict[str, _Split], names: tuple[str, ...]) -> None:
    known = found["train"].y.unique()
    for key in ("val", "test"):
        strange = found[key].y[~torch.isin(found[key].y, known)]
        if len(strange):
            label = names[int(strange[0])] if names else int(strange[0])
            raise TaskError(f"{key} y: class {label} has no training example\n{NUMBERS_HINT}")


def _finished(found: dict[str, _Split], layout: str, standardize: bool, how: _Build) -> dict[str, Tensor]:
    """Inputs of each split on the device, standardised by the training split's where that is asked for."""
    if layout == "tokens":
        return {key: split.x.to(how.device) for key, split in found.items()}
    if standardize:
        standard = standard_of(found["train"].x)
        if not (standard.mean.isfinite() & standard.spread.isfinite()).all():
            raise TaskError("train x: its numbers lie too far apart to be standardised")
        # Bytes are exact in any type; others may lie so far from 0 that their differences show in float64 alone.
        wide = how.dtype if found["train"].x.dtype == torch.uint8 else torch.float64
        for split in found.values():
            split.x = standard.apply(split.x.to(how.device, wide))
    finished = {key: split.x.to(how.device, how.dtype) for key, split in found.items()}
    for key, x in finished.items():
        if not x.isfinite().all():
            raise TaskError(f"{key} x: holds numbers that are too large for {str(how.dtype).removeprefix('torch.')}")
    return finished
