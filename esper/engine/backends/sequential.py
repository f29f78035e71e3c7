"""Training members one after another with their plain modules: the reference, and the choice where fusing loses."""

import random
from collections.abc import Mapping, Sequence, Set

import torch
from torch import Tensor

from esper.engine.backends.base import SEQUENTIAL, Backward
from esper.engine.fusion.blueprint_groups import trained_stacks
from esper.engine.fusion.losses import class_losses, target_losses
from esper.engine.fusion.tracing import Captured
from esper.engine.stacks import ModuleStack
from esper.kasmina.copying import copy_network
from esper.kasmina.host import MorphogeneticModel
from esper.kasmina.seeding import seed_streams
from esper.leyline import CROSS_ENTROPY

INPUT = "input"
EVALUATION_STREAM = 0


class SequentialEngine:
    """Fills gradient stacks like the fused engine's, one member at a time; minibatches are plain ([B, ...]).

    is_channels_last: how images and the weights of convolutions lie.
    """

    kind = SEQUENTIAL
    generation = 0

    def __init__(
        self,
        models: Sequence[MorphogeneticModel],
        stacks: Mapping[str, ModuleStack],
        halted: Set[int],
        precision: torch.dtype,
        is_channels_last: bool = False,
        loss: str = CROSS_ENTROPY,
    ) -> None:
        self.loss = loss
        self.is_channels_last = is_channels_last
        self.models = models
        self.stacks = stacks
        self.halted = halted
        self.precision = precision
        self.trained: list[str] = []
        self.seeds: Sequence[int] | None = None
        self.spares: dict[int, MorphogeneticModel] = {}

    def prepare(self, steps: int, version: int, seeds: Sequence[int] | None = None, training: bool = True) -> None:
        """See `Engine.prepare`."""
        self.seeds = seeds
        self.spares.clear()
        for model in self.models:
            model.train(training)
        if training:
            self.trained = trained_stacks(self.stacks, self.models)
            for name in self.trained:
                self.stacks[name].hold_gradients()

    def to_layout(self, x: Tensor) -> Tensor:
        """See `Engine.to_layout`."""
        if x.dim() < 5 or not self.is_channels_last:
            return x
        return x.flatten(0, 1).contiguous(memory_format=torch.channels_last).view(x.shape)

    def backward(self, x: Tensor, y: Tensor, step: int | Tensor) -> Backward:
        """See `Engine.backward`."""
        for name in self.trained:
            self.stacks[name].zero_gradients()
        losses, hits = [], []
        for member in range(len(self.models)):
            model = self._spare(member) if member in self.halted else self.models[member]
            if self.seeds is not None:
                seed_streams(stream_of(self.seeds[member], step), x.device)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision is torch.bfloat16):
                logits = _row(model(_input(model, _of(x, member))))
            loss, hit = self.losses(logits, _of(y, member).unsqueeze(0))
            if loss.requires_grad:  # a frozen network without seeds has nothing to learn
                loss.sum().backward()
            for slot in model.slots.values() if member not in self.halted else ():
                slot.step()
            losses.append(loss.detach())
            hits.append(hit)
        taken = {name: self.stacks[name].take_gradients() for name in self.trained}
        return Backward(
            gradients={name: gradients for name, (gradients, _) in taken.items()},
            losses=torch.cat(losses),
            hits=torch.cat(hits),
            absent={name: absent for name, (_, absent) in taken.items() if absent},
        )

    def finish(self, steps: int) -> None:
        """Nothing is left to do: the plain modules moved their blends on with every step."""

    def losses(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `Engine.losses`; outputs [M, K, targets]."""
        if self.loss == CROSS_ENTROPY:
            return class_losses(outputs, y.flatten(1))
        return target_losses(outputs.transpose(1, 2), y, self.loss)

    @torch.no_grad()
    def logits(self, x: Tensor, captured: Captured) -> Tensor:
        """See `Engine.logits`."""
        captured[INPUT] = {INPUT: x}
        return torch.cat([self._evaluated(model, _of(x, member)) for member, model in enumerate(self.models)])

    @torch.no_grad()
    def logits_without(self, slot: str, members: Sequence[int], captured: Captured) -> Tensor:
        """See `Engine.logits_without`."""
        outputs = []
        for member in members:
            model = self._spare(member)
            left_out = model.slots[slot]
            left_out.bypass = True
            try:
                outputs.append(self._evaluated(model, _of(captured[INPUT][INPUT], member)))
            finally:
                left_out.bypass = False
        return torch.cat(outputs)

    def _spare(self, member: int) -> MorphogeneticModel:
        """What to run a pass on that is no part of a member's life: a copy, if the network would note the pass."""
        model = self.models[member]
        if not model.is_users_own:
            return model
        if member not in self.spares:
            self.spares[member] = copy_network(model)
        return self.spares[member]

    def _evaluated(self, model: MorphogeneticModel, x: Tensor) -> Tensor:
        seed_streams(EVALUATION_STREAM, x.device)
        return _row(model(_input(model, x)))


def stream_of(seed: int, step: int | Tensor) -> int:
    """Names what a member of this seed draws in this step."""
    return random.Random(f"{seed}/{step}").getrandbits(63)


def _of(rows: Tensor, member: int) -> Tensor:
    """A member's own row, or the only one."""
    return rows[member if len(rows) > 1 else 0]


def _input(model: MorphogeneticModel, x: Tensor) -> Tensor:
    """Of its own, for a network that may work in place on it."""
    return x.clone() if model.is_users_own else x


def _row(logits: Tensor) -> Tensor:
    """[B, K] or [B, T, K] -> [1, K, targets]."""
    return logits.reshape(-1, logits.shape[-1]).t().unsqueeze(0)
