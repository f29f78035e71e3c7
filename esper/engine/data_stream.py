"""A growth's training data, drawn epoch by epoch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from esper.tasks import Task
from esper.tasks.task import named_generator

STREAMS = ("order", "examples", "layers")


@dataclass(frozen=True, slots=True)
class Examples:
    """An epoch's: inputs x [N, ...] and targets y [N, ...], the order [N] in which they come, and the seed of what
    layers such as Dropout draw."""

    x: Tensor
    y: Tensor
    order: Tensor
    layers: int


class Stream:
    """Draws what all members of a growth share.

    `generators` draw the order of the examples, their distortions, and the seed of what layers such as Dropout draw.
    """

    def __init__(self, task: Task, seed: int) -> None:
        self.task = task
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Begin the streams of random numbers anew."""
        self.generators = {name: named_generator(seed, name) for name in STREAMS}

    def draw(self, epoch: int) -> Examples:
        """The next epoch's examples."""
        order = torch.randperm(self.task.epoch_size, generator=self.generators["order"])
        x, y = self.task.epoch_data(epoch, self.generators["examples"])
        layers = int(torch.randint(2**62, (), generator=self.generators["layers"]))
        return Examples(x, y, order.to(y.device), layers)

    def position(self) -> tuple[int, bytes]:
        """Equal where two streams would draw the same."""
        states = (generator.get_state().numpy().tobytes() for generator in self.generators.values())
        return id(self.task), b"".join(states)

    def follow(self, other: "Stream") -> None:
        """Stand where the other stands."""
        for name, generator in self.generators.items():
            generator.set_state(other.generators[name].get_state())
