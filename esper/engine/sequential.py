"""Training members one after another with their plain modules: the reference, and the choice where fusing loses."""

from collections.abc import Iterator, Mapping, Sequence, Set

import torch
from torch import Tensor

from esper.engine.engine import Captured, Gradients
from esper.engine.groups import trained_stacks
from esper.engine.losses import class_losses
from esper.engine.stacks import ModuleStack
from esper.kasmina.host import MorphogeneticModel

INPUT = "input"


class SequentialEngine:
    """Fills gradient stacks like the fused engine's, one member at a time; minibatches are plain ([B, ...])."""

    kind = "sequential"
    generation = 0

    def __init__(
        self,
        models: Sequence[MorphogeneticModel],
        stacks: Mapping[str, ModuleStack],
        halted: Set[int],
        precision: torch.dtype,
    ) -> None:
        self.models = models
        self.stacks = stacks
        self.halted = halted
        self.precision = precision
        self.trained: list[str] = []

    def prepare(self, steps: int, version: int) -> None:
        """See `Engine.prepare`."""
        self.trained = trained_stacks(self.stacks, self.models)

    def batches(self, x: Tensor, y: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Engine.batches`."""
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        yield from zip(x.split(size), y.split(size), strict=True)

    def gradients(self, x: Tensor, y: Tensor, step: int | Tensor) -> tuple[Gradients, Tensor, Tensor]:
        """See `Engine.gradients`."""
        gradients = {name: self.stacks[name].gradients() for name in self.trained}
        torch._foreach_zero_([grad for named in gradients.values() for grad in named.values()])
        losses, correct = [], []
        for member, model in enumerate(self.models):
            model.train()
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision is torch.bfloat16):
                logits = _row(model(x))
            loss, right = self.losses(logits, y)
            loss.sum().backward()
            for slot in model.slots.values() if member not in self.halted else ():
                slot.step()
            losses.append(loss.detach())
            correct.append(right)
        return gradients, torch.cat(losses), torch.cat(correct)

    def finish(self, steps: int) -> None:
        """Nothing is left to do: the plain modules moved their blends on with every step."""

    def losses(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `Engine.losses`; logits [M, K, targets]."""
        return class_losses(logits, y.flatten())

    @torch.no_grad()
    def logits(self, x: Tensor, captured: Captured) -> Tensor:
        """See `Engine.logits`."""
        captured[INPUT] = {INPUT: x}
        return torch.cat([_row(model.eval()(x)) for model in self.models])

    @torch.no_grad()
    def logits_without(self, slot: str, members: Sequence[int], captured: Captured) -> Tensor:
        """See `Engine.logits_without`."""
        outputs = []
        for member in members:
            left_out = self.models[member].slots[slot]
            left_out.bypass = True
            outputs.append(_row(self.models[member].eval()(captured[INPUT][INPUT])))
            left_out.bypass = False
        return torch.cat(outputs)


def _row(logits: Tensor) -> Tensor:
    """[B, K] or [B, T, K] -> [1, K, targets]."""
    return logits.reshape(-1, logits.shape[-1]).t().unsqueeze(0)
