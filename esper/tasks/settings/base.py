"""What every task can be told."""

from dataclasses import dataclass
from typing import ClassVar

KEEPS = ("auto", "device", "host", "disk")
LAYOUTS = ("auto", "nchw", "nhwc", "nhw", "ntf", "nf")  # axes of inputs: examples, channels, height, width, time, ...


@dataclass(kw_only=True)
class BaseTaskConfig:
    """What every task takes.

    name: chooses the builder. split_seed: fixes which example falls into which split; None follows the run's seed.
    keep: where inputs are kept; "auto": on the device where they take at most half of it, else in the host's memory.
    `inputs` is the kind of data that a host gets: "images" [C, H, W], "tokens" [T] int64, "vectors" [F], "sequences"
    [T, F]; empty where only the data tells it.
    """

    inputs: ClassVar[str] = "images"

    name: str = ""
    split_seed: int | None = 0
    keep: str = "auto"

    @property
    def sources(self) -> list[tuple[str, str]]:
        """Files and folders of the user's that it is read from, each with the key that names it."""
        return []

    @property
    def side_pixels(self) -> int | None:
        """Height and width of its images, as far as it has any and they are known beforehand."""
        return None
