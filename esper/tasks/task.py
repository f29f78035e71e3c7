"""A task: data on the device, split three ways, with its training examples drawn anew each epoch."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from esper.errors import TaskError
from esper.leyline import CROSS_ENTROPY, ScoreKind, score_kind

Draw = Callable[[torch.Generator], tuple[Tensor, Tensor]]


@dataclass(slots=True)
class Task:
    """Inputs and targets of three disjoint splits, as tensors on one device; inputs may stay in the host's memory.

    Validation drives decisions, test is for the final figure alone. Images are standardised with the training split's
    mean and spread, [N, C, H, W] with labels [N] int64; where an evaluation split holds several distortions of each
    example they follow each other as whole sets. Text is windows of tokens [N, T] int64 with the token that follows
    each as its label [N, T]. Vectors are [N, F] and sequences [N, T, F], with labels [N].

    Under the losses "mse" and "huber" the targets are numbers: given as they are, [N] or [N, K], and held as [N, K],
    standardised by the training split's target_mean and target_std [K], as a network learns them.

    num_outputs: of a network, a class or a target each. input_shape: of one example, (C, H, W), (T,), (F,) or (T, F).
    train_x, train_y: the whole training split, images at their own size and range. draw: makes an epoch's examples of
    it, with targets as they are given (None: it is taken as it is); epoch_size: how many of them (default: as many as
    train_y). tokenizer_sha256: of what made a text's tokens, None where a token is a byte value. bytes_per_label: of
    text, on the test split, by which a loss becomes bits per byte. class_names: in order, where the data names them.
    data_sha256: of data of the user's own, which may change. notes: what a run says of them at its start.
    """

    name: str
    num_outputs: int
    input_shape: tuple[int, ...]
    train_x: Tensor
    train_y: Tensor
    val_x: Tensor
    val_y: Tensor
    test_x: Tensor
    test_y: Tensor
    draw: Draw | None = None
    epoch_size: int = 0
    tokenizer_sha256: str | None = None
    bytes_per_label: float = 1.0
    class_names: tuple[str, ...] = ()
    data_sha256: str | None = None
    notes: tuple[str, ...] = ()
    loss: str = CROSS_ENTROPY
    target_mean: Tensor = field(default_factory=lambda: torch.empty(0))
    target_std: Tensor = field(default_factory=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        self.epoch_size = self.epoch_size or len(self.train_y)
        if self.is_regression and not len(self.target_mean):
            self._standardise()

    def _standardise(self) -> None:
        targets = {split: self._targets(split) for split in ("train", "val", "test")}
        train = targets["train"]
        for split, y in targets.items():
            if y.shape[1] != self.num_outputs or not y.isfinite().all():
                wanted = f"finite numbers [N, {self.num_outputs}], one for each output"
                raise TaskError(f"the {split} split's targets are {list(y.shape)}; expected {wanted}")
            if (constant := (y == y[:1]).all(0)).any():
                same = f"target {int(constant.nonzero()[0])} is the same in all {len(y)} examples of the {split} split"
                raise TaskError(f"{same}, so nothing is to be learned; give more, or leave it out")
        self.target_mean, self.target_std = train.mean(0), train.std(0, correction=0)
        self.train_y, self.val_y, self.test_y = map(self._standardised, targets.values())
        for split in targets:
            if not (self.target_std.isfinite().all() and getattr(self, f"{split}_y").isfinite().all()):
                raise TaskError(f"the {split} split's targets cannot be standardised; give them in another unit")

    def _targets(self, split: str) -> Tensor:
        """As they were given, [N, K] in float64."""
        y: Tensor = getattr(self, f"{split}_y")
        return (y.unsqueeze(1) if y.dim() == 1 else y.flatten(1)).double()

    def _standardised(self, y: Tensor) -> Tensor:
        """[N] or [N, K] as given -> [N, K] as it is learned, in the inputs' precision."""
        y = y.unsqueeze(1) if y.dim() == 1 else y
        dtype = self.train_x.dtype if self.train_x.is_floating_point() else torch.float32
        return ((y.double() - self.target_mean) / self.target_std).to(dtype)

    @property
    def is_regression(self) -> bool:
        """Whether targets are numbers, not classes."""
        return self.loss != CROSS_ENTROPY

    @property
    def score(self) -> ScoreKind:
        """What members are judged by."""
        return score_kind(self.loss)

    @property
    def target_scale(self) -> dict[str, list[float]]:
        """By which outputs become numbers in the targets' own unit: output * std + mean, [K] each; empty of classes."""
        return {"mean": self.target_mean.tolist(), "std": self.target_std.tolist()} if self.is_regression else {}

    def target_errors(self, rmse: Tensor) -> list[float]:
        """Root mean squared errors in the targets' own unit, a mean over targets; NaN of classes.

        Args: rmse: [M, K], of standardised targets.
        """
        return (rmse.double() * self.target_std).mean(1).tolist()

    @property
    def inputs(self) -> str:
        """The kind of its data, as `BaseTaskConfig.inputs` has it; "other" where there is no word for it."""
        if not self.val_x.is_floating_point():
            return "tokens"
        return {1: "vectors", 2: "sequences", 3: "images"}.get(len(self.input_shape), "other")

    @property
    def side_pixels(self) -> int | None:
        """The shorter of its images' height and width; None where there are no images."""
        return min(self.input_shape[1:]) if self.inputs == "images" else None

    @property
    def is_text(self) -> bool:
        """Whether labels stand for bytes of text, so that a loss can be told in bits per byte."""
        return self.inputs == "tokens" and not self.is_regression

    def bits_per_byte(self, loss: Tensor) -> list[float]:
        """Of text. Args: loss: [M] on the test split, in nats a label."""
        return (loss / math.log(2) / self.bytes_per_label).tolist()

    def epoch_data(self, epoch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """This epoch's `epoch_size` training examples: inputs and their targets.

        They follow from the generator's state alone, whatever the epoch; without `draw` they are the same tensors each
        time, not to be written to.
        """
        if self.draw is None:
            return self.train_x, self.train_y
        x, y = self.draw(generator)
        y = y.to(self.val_y.device)
        return x, self._standardised(y) if self.is_regression else y


def named_generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator of its own for one purpose: different names never share a stream, whatever the seed."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
