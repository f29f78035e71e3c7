"""Many members of one host architecture, trained as one program (or one after another, where that is faster)."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from esper.engine.fused import HOST, FusedEngine
from esper.engine.graphs import GraphedStep
from esper.engine.losses import member_losses
from esper.engine.optimizer import OptimizerConfig, StackedOptimizer
from esper.engine.program import Values
from esper.engine.sequential import SequentialEngine
from esper.engine.stacks import ModuleStack
from esper.errors import EngineError
from esper.kasmina.host import MorphogeneticModel

EVALUATION_BATCH = 512


@dataclass(slots=True)
class Scores:
    """loss [M] in nats, accuracy [M] in percent."""

    loss: Tensor
    accuracy: Tensor


class Population:
    """Members with one host architecture, each with its own weights and growth.

    Args: models: the members, all on one device and of one dtype; optimizer; kind: "fused" or "sequential" (see
    `esper.engine.choice` for the measurement that decides); precision: float32, float64, or bfloat16 (CUDA autocast).
    """

    def __init__(
        self,
        models: Sequence[MorphogeneticModel],
        optimizer: OptimizerConfig,
        kind: str = "fused",
        precision: torch.dtype = torch.float32,
    ) -> None:
        self.models = list(models)
        self.kind = kind
        slots = [f"slots.{position}" for position in self.models[0].slot_positions.values()]
        self.stacks = {HOST: ModuleStack({e: model.host for e, model in enumerate(self.models)}, skip=slots)}
        like = next(iter(self.stacks[HOST].parameters.values()))
        self.device, self.dtype = like.device, like.dtype
        self.optimizer = StackedOptimizer(optimizer, len(self.models), self.device, self.dtype)
        self.optimizer.track(HOST, self.stacks[HOST], set())
        self.version = 0
        self.sequential = SequentialEngine(self.models, self.stacks)
        self.fused: FusedEngine | None = None
        self.last_gradients: dict[str, dict[str, Tensor]] = {}
        self._graph: GraphedStep | None = None
        if kind == "fused":
            self.fused = FusedEngine(self.models, self.stacks, precision)
        elif kind != "sequential":
            raise EngineError(f"engine kind {kind!r}: must be fused or sequential")
        self.sync_topology()

    def __len__(self) -> int:
        return len(self.models)

    # ---- topology

    def sync_topology(self) -> None:
        """Follow the members' slots: call after seeds were planted or removed, between epochs."""
        wanted: dict[str, dict[int, torch.nn.Module]] = {}
        for member, model in enumerate(self.models):
            for name, slot in model.slots.items():
                if slot.seed is not None:
                    wanted.setdefault(f"slots.{name}.{slot.state.blueprint_id}", {})[member] = slot.seed
                if slot.gate is not None:
                    wanted.setdefault(f"slots.{name}.gate", {})[member] = slot.gate
        for name in [name for name in self.stacks if name != HOST and name not in wanted]:
            del self.stacks[name]
            self.optimizer.forget(name)
            self.version += 1
        for name, modules in sorted(wanted.items()):
            old = self.stacks.get(name)
            known = {} if old is None else dict(zip(old.members, old.modules, strict=True))
            if known == modules:
                continue
            self.stacks[name] = ModuleStack(modules)
            newborn = {member for member, module in modules.items() if known.get(member) is not module}
            self.optimizer.track(name, self.stacks[name], newborn)
            self.version += 1

    # ---- training

    def train_epoch(self, x: Tensor, y: Tensor, order: Tensor, batch_size: int) -> Scores:
        """One epoch for every member. x [N, C, H, W], y [N]; order [N]: the permutation all members share.

        The last gradients stay in `last_gradients`.
        """
        count = len(order)
        x, y = x[order], y[order]
        loss = torch.zeros(len(self), dtype=self.dtype, device=self.device)
        correct = torch.zeros(len(self), dtype=torch.int64, device=self.device)
        steps = -(-count // batch_size)
        for index, (xb, yb) in enumerate(self._batches(x, y, batch_size, steps)):
            batch_loss, batch_correct = self.train_step(xb, yb, index)
            loss += batch_loss * len(yb)
            correct += batch_correct
        self._end_epoch(steps)
        return Scores(loss / count, 100.0 * correct / count)

    def _batches(self, x: Tensor, y: Tensor, batch_size: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        if self.fused is None:
            yield from zip(x.split(batch_size), y.split(batch_size), strict=True)
            return
        self.fused.prepare(steps, self.version)
        lanes = x.permute(1, 2, 3, 0).contiguous()  # [C, H, W, N]
        for xb, yb in zip(lanes.split(batch_size, -1), y.split(batch_size), strict=True):
            yield xb.contiguous(), yb

    def train_step(self, x: Tensor, y: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """One minibatch, in the layout of the engine; index: of the step in its epoch. Returns loss [M], correct [M]."""
        if self.device.type == "cuda" and self.fused is not None:
            if self._graph is None or self._graph.generation != self.fused.generation:
                self._graph = GraphedStep(self._fused_step, self.fused.generation)
            return self._graph(x, y, index)
        if self.fused is not None:
            return self._fused_step(x, y, index)
        self.last_gradients, loss, correct = self.sequential.gradients(x, y)
        self.optimizer.step(self.stacks, self.last_gradients)
        return loss, correct

    def _fused_step(self, x: Tensor, y: Tensor, index: int | Tensor) -> tuple[Tensor, Tensor]:
        self.last_gradients, loss, correct = self.fused.gradients(x, y, index)
        self.optimizer.step(self.stacks, self.last_gradients)
        return loss, correct

    def _end_epoch(self, steps: int) -> None:
        if self.fused is None:
            return
        for stack in self.stacks.values():
            for name, buffer in stack.buffers.items():
                if name.endswith("num_batches_tracked"):
                    buffer += steps
        for model in self.models:
            for slot in model.slots.values():
                slot.step(steps)
        for member, slot in self.fused.not_finite():
            self.models[member].slots[slot].seed_is_finite = False

    # ---- evaluation

    def evaluate(
        self, x: Tensor, y: Tensor, without: Sequence[tuple[int, str]] = ()
    ) -> tuple[Scores, dict[tuple[int, str], tuple[float, float]], float]:
        """Scores of every member; x [N, C, H, W], y [N].

        without: (member, slot) pairs whose seed's worth is asked for. Returns the scores, for each pair (loss, accuracy
        in percent) of that member with that seed left out, and the seconds that the latter took. Each pair costs the
        host behind its slot, once: what comes before is shared.
        """
        slots: dict[str, list[int]] = {}
        for member, slot in without:
            slots.setdefault(slot, []).append(member)
        everyone = list(range(len(self)))
        totals = {"": self._zeros(len(self))} | {slot: self._zeros(len(members)) for slot, members in slots.items()}
        seconds = 0.0
        if self.fused is not None:
            self.fused.prepare(self.fused.steps, self.version)
        for xb, yb in zip(x.split(EVALUATION_BATCH), y.split(EVALUATION_BATCH), strict=True):
            captured: dict[str, Values] = {}
            xb = xb if self.fused is None else xb.permute(1, 2, 3, 0).contiguous()
            logits = self.sequential.logits(xb, everyone) if self.fused is None else self.fused.logits(xb, captured)
            _add(totals[""], logits, yb)
            started = time.perf_counter()
            for slot, members in slots.items():
                if self.fused is None:
                    logits = self.sequential.logits(xb, members, without=slot)
                else:
                    logits = self.fused.logits_without(slot, members, captured)
                _add(totals[slot], logits, yb)
            seconds += time.perf_counter() - started
        results = {}
        for slot, members in slots.items():
            loss, correct = (total.tolist() for total in totals[slot])
            for member, member_loss, member_correct in zip(members, loss, correct, strict=True):
                results[member, slot] = (member_loss / len(y), 100.0 * member_correct / len(y))
        loss, correct = totals[""]
        return Scores(loss / len(y), 100.0 * correct / len(y)), results, seconds

    def halt(self, member: int) -> None:
        """Train a member no further; its weights stay as they are."""
        self.optimizer.halt(member)
        self._graph = None

    def _zeros(self, count: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(count, dtype=self.dtype, device=self.device), torch.zeros(
            count, dtype=torch.int64, device=self.device
        )


def _add(total: tuple[Tensor, Tensor], logits: Tensor, y: Tensor) -> None:
    loss, correct = member_losses(logits, y)
    total[0].add_(loss * len(y))
    total[1].add_(correct)
