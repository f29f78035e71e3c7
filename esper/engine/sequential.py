"""Training members one after another with their plain modules: the reference, and the choice where fusing loses."""

import random
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager

import torch
from torch import Tensor

from esper.engine.engine import Captured, Gradients
from esper.engine.groups import trained_stacks
from esper.engine.losses import class_losses
from esper.engine.stacks import ModuleStack
from esper.kasmina.host import MorphogeneticModel

INPUT = "input"
EVALUATION_STREAM = 0


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
        self.seeds: Sequence[int] | None = None

    def prepare(self, steps: int, version: int, seeds: Sequence[int] | None = None) -> None:
        """See `Engine.prepare`."""
        self.trained = trained_stacks(self.stacks, self.models)
        self.seeds = seeds

    def lay(self, x: Tensor) -> Tensor:
        """See `Engine.lay`."""
        if x.dim() < 5:
            return x
        return x.flatten(0, 1).contiguous(memory_format=torch.channels_last).view(x.shape)

    def gradients(self, x: Tensor, y: Tensor, step: int | Tensor) -> tuple[Gradients, Tensor, Tensor]:
        """See `Engine.gradients`."""
        gradients = {name: self.stacks[name].gradients() for name in self.trained}
        torch._foreach_zero_([grad for named in gradients.values() for grad in named.values()])
        losses, correct = [], []
        for member, model in enumerate(self.models):
            stream = None if self.seeds is None else random.Random(f"{self.seeds[member]}/{step}").getrandbits(63)
            model.train()
            with (
                torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision is torch.bfloat16),
                _drawing_from(stream, x.device),
            ):
                logits = _row(model(_of(x, member)))
            loss, right = self.losses(logits, _of(y, member).unsqueeze(0))
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
        return class_losses(logits, y.flatten(1))

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
            left_out = self.models[member].slots[slot]
            left_out.bypass = True
            outputs.append(self._evaluated(self.models[member], _of(captured[INPUT][INPUT], member)))
            left_out.bypass = False
        return torch.cat(outputs)

    def _evaluated(self, model: MorphogeneticModel, x: Tensor) -> Tensor:
        with _drawing_from(EVALUATION_STREAM, x.device):
            return _row(model.eval()(x))


@contextmanager
def _drawing_from(stream: int | None, device: torch.device) -> Iterator[None]:
    """Inside, what layers such as Dropout draw follows from this number alone, so members and their twins draw alike.

    Such layers know no stream but torch's own, which is lent to them and then goes on as if nothing had been drawn.
    Without a number they draw from it as ever.
    """
    if stream is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(stream)
        if device.type == "cuda":
            torch.cuda.manual_seed(stream)
        yield


def _of(rows: Tensor, member: int) -> Tensor:
    """A member's own row, or the only one."""
    return rows[member if len(rows) > 1 else 0]


def _row(logits: Tensor) -> Tensor:
    """[B, K] or [B, T, K] -> [1, K, targets]."""
    return logits.reshape(-1, logits.shape[-1]).t().unsqueeze(0)
