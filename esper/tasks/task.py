"""A task: data on the device, split three ways, with its training examples drawn anew each epoch."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Draw = Callable[[torch.Generator], tuple[Tensor, Tensor]]


@dataclass(slots=True)
class Task:
    """Inputs and labels of three disjoint splits, as tensors on one device.

    Validation drives decisions, test is for the final figure alone. Images are standardised with the training split's
    mean and spread, [N, C, H, W] with labels [N] int64; where an evaluation split holds several distortions of each
    example they follow each other as whole sets. Text is windows of tokens [N, T] int64 with the token that follows
    each as its label [N, T]. Vectors are [N, F] and sequences [N, T, F], with labels [N].

    input_shape: of one example, (C, H, W), (T,), (F,) or (T, F). train_x, train_y: the whole training split, images at
    their own size and range. draw: makes an epoch's examples of it (None: it is taken as it is); epoch_size: how many
    of them (default: as many as train_y). tokenizer_sha256: of what made a text's tokens, None where a token is a byte
    value. bytes_per_label: of text, on the test split, by which a loss becomes bits per byte.
    class_names: in order, where the data names them. data_sha256: of data of the user's own, which may change.
    notes: what a run says of them at its start.
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

    def __post_init__(self) -> None:
        self.epoch_size = self.epoch_size or len(self.train_y)

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
        return self.inputs == "tokens"

    def bits_per_byte(self, loss: Tensor) -> list[float]:
        """Of text. Args: loss: [M] on the test split, in nats a label."""
        return (loss / math.log(2) / self.bytes_per_label).tolist()

    def epoch_data(self, epoch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """This epoch's `epoch_size` training examples: inputs and their labels.

        They follow from the generator's state alone, whatever the epoch; without `draw` they are the same tensors each
        time, not to be written to.
        """
        return (self.train_x, self.train_y) if self.draw is None else self.draw(generator)


def named_generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator of its own for one purpose: different names never share a stream, whatever the seed."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
