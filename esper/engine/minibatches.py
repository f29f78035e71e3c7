"""Minibatches: drawn from an epoch's examples, and judged by what networks make of them before any is trained on."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from esper.engine.backends.plain import check_classes, check_step, count_outputs
from esper.errors import EngineError
from esper.kasmina.host import MorphogeneticModel
from esper.leyline import CROSS_ENTROPY


def first_minibatch(
    x: Tensor, y: Tensor, order: Tensor, batch_size: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Of the first set of examples: inputs [B, ...] and targets [B, ...]."""
    picked = order[0, :batch_size]
    return x[0, picked.to(x.device)].to(device), y[0, picked]


def minibatches(
    x: Tensor, y: Tensor, order: Tensor, batch_size: int, source: Tensor | None, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets of each step [J, B, ...], or [M, B, ...] where source [M] says which set a member sees.

    A whole epoch of several sets of examples would not fit into any cache: they are copied one by one.
    """
    rows = torch.arange(len(y), device=y.device) if source is None else source
    rows_x, places_x = rows.to(x.device), order.to(x.device)
    for picked_x, picked in zip(places_x.split(int(batch_size), 1), order.split(int(batch_size), 1), strict=True):
        xb = x[rows_x.unsqueeze(1), picked_x[rows_x]].to(device, non_blocking=True)
        yield xb, y[rows.unsqueeze(1), picked[rows]]


class MinibatchCheck:
    """Runs copies of networks on minibatches, each kind of which is tried once."""

    def __init__(self, models: Sequence[MorphogeneticModel], loss: str) -> None:
        self._models, self._loss = models, loss
        self._outputs: dict[object, int] = {}  # of each kind of minibatch that was met: how many a network gives
        self._fails_on_one: tuple[int, EngineError | None] = (-1, None)  # the version that was tried, and why

    def outputs(self, x: Tensor, y: Tensor, targets: Tensor) -> None:
        """Raises EngineError unless the networks make outputs of such minibatches that fit every target.

        A pass in evaluation mode shows it, the first time that a minibatch is of this kind.
        """
        met = x.dtype, x.shape[1:], y.shape[1:]
        if met not in self._outputs:
            self._outputs[met] = count_outputs(self._models[0], x, y, self._loss)
        if self._loss == CROSS_ENTROPY:
            check_classes(self._outputs[met], int(targets.max()) + 1)

    def of_one(self, version: int, x: Tensor, y: Tensor, count: int, batch_size: int) -> None:
        """Raises EngineError where an epoch has a minibatch of one example and the networks do not train on one.

        version: of the population's topology; x, y: one example [1, ...]; count: examples of an epoch.
        """
        if count % batch_size != 1 and batch_size != 1:
            return
        if self._fails_on_one[0] != version:
            model = max(self._models, key=lambda model: sum(1 for _ in model.modules()))  # the most grown
            try:
                check_step(model, x, y, self._loss)
                self._fails_on_one = version, None
            except EngineError as error:
                self._fails_on_one = version, error
        if self._fails_on_one[1] is not None:
            raise EngineError(
                f"batch_size={batch_size}: {count} examples leave a minibatch of one, which this network does not "
                f"train on; use another batch size\n  {self._fails_on_one[1]}"
            ) from self._fails_on_one[1]
