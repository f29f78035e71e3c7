"""Many members of one host architecture, trained as one program (or one after another, where that is faster)."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from esper.engine.arguments import check_rates, check_seeds, checked_epoch, checked_examples, checked_members
from esper.engine.backends.base import FUSED, KINDS, SEQUENTIAL, Engine, Gradients, Way
from esper.engine.backends.cuda_graph import GraphedStep
from esper.engine.backends.fused import FusedEngine
from esper.engine.backends.plain import check_classes, check_step, count_outputs
from esper.engine.backends.proof import EXAMPLES, Trial
from esper.engine.backends.selection import choose
from esper.engine.backends.sequential import SequentialEngine
from esper.engine.fusion.blueprint_groups import row_roles
from esper.engine.fusion.tracing import Captured
from esper.engine.optimizer import OptimizerConfig, StackedOptimizer
from esper.engine.scores import Scores, Totals
from esper.engine.stacks import HOST, ModuleStack
from esper.errors import EngineError
from esper.kasmina.base import like
from esper.kasmina.host import MorphogeneticModel
from esper.kasmina.python_state import read_state, structure, write_state
from esper.kasmina.seeding import undisturbed_streams
from esper.leyline import CROSS_ENTROPY, LOSSES

# Targets of one evaluation chunk: of each member, and of all together where they run as one program on a CPU. There
# fresh memory for larger activations costs more than computing them.
EVALUATION_TARGETS = 512
CACHED_TARGETS = 4096


class Population:
    """Members with one host architecture, each with its own weights and growth.

    Args: models: the members, all on one device and of one dtype; their weights move into this population's stacks.
    optimizer: of all of them, or each member's own (learning rate and weight decay may differ); kind: "fused",
    "sequential", or None: the faster one that trains these very networks, chosen on the first data it sees (see
    `esper.engine.backends.selection`); precision: float32, float64, or bfloat16 (CUDA autocast); is_channels_last: how
    images lie where members train one by one (None: contiguous, or chosen with the kind); is_proven: that the kind was
    compared with plain PyTorch before; loss: "cross_entropy" of labels, or "mse" or "huber" of numbers as targets,
    standardised, of which networks give one output each.

    Raises EngineError where a layer forbids the kind or an argument is not of this sort, and when its first step turns
    out not to be plain PyTorch's.
    """

    def __init__(
        self,
        models: Sequence[MorphogeneticModel],
        optimizer: OptimizerConfig | Sequence[OptimizerConfig],
        kind: str | None = None,
        precision: torch.dtype = torch.float32,
        is_channels_last: bool | None = None,
        is_proven: bool = False,
        loss: str = CROSS_ENTROPY,
    ) -> None:
        self.models, self.configs = checked_members(models, optimizer)
        if kind not in (None, *KINDS):
            raise EngineError(f"engine kind {kind!r}: must be one of {', '.join(KINDS)}")
        if loss not in LOSSES:
            raise EngineError(f"loss {loss!r}: must be one of {', '.join(LOSSES)}")
        self.loss = loss
        self.precision = precision
        self.version = 0
        self.halted: set[int] = set()
        self.initial_states = [read_state(model) for model in self.models]  # what networks keep in Python
        self.initial_structures = [structure(model) for model in self.models]
        self.last_gradients: Gradients = {}
        self._graph: GraphedStep | None = None
        self._asked = kind, is_channels_last if kind is None else bool(is_channels_last)
        self._is_settled = is_proven
        self._outputs: dict[object, int] = {}  # of each kind of minibatch that was met: how many a network gives
        self._fails_on_one: tuple[int, EngineError | None] = (-1, None)  # the version that was tried, and why
        example = like(self.models[0].host)
        self.device, self.dtype = example.device, example.dtype
        self.optimizer = StackedOptimizer(self.configs, self.device, self.dtype)
        self.stacks: dict[str, ModuleStack] = {}
        hosts = dict(enumerate(model.host for model in self.models))
        self._assemble(Way(kind or SEQUENTIAL, bool(is_channels_last)), {HOST: hosts})

    def _assemble(self, way: Way, modules: Mapping[str, Mapping[int, torch.nn.Module]]) -> None:
        """Lay these modules' weights side by side, as an engine wants them; the optimizer's state stays."""
        self.is_channels_last = way.is_channels_last
        slots = [f"slots.{position}" for position in self.models[0].slot_positions.values()]
        for name, members in modules.items():
            skip = slots if name == HOST else ()
            self.stacks[name] = ModuleStack(members, skip, way.is_channels_last)
            self.optimizer.track(name, self.stacks[name], set())
        self.engine: Engine = (
            FusedEngine(self.models, self.stacks, self.halted, self.precision, self.loss)
            if way.kind == FUSED
            else SequentialEngine(
                self.models, self.stacks, self.halted, self.precision, way.is_channels_last, self.loss
            )
        )
        self.version += 1
        self.sync_topology()

    def _settle(self, x: Tensor, y: Tensor) -> None:
        """Before the first step: see that the engine trains these networks, or choose one that does."""
        if self._is_settled:
            return
        kind, is_channels_last = self._asked
        trial = Trial(self.models, self.configs, x, y, build, self.loss)
        way = choose(trial, self.precision, kind, is_channels_last=is_channels_last).way
        if way != Way(self.engine.kind, self.is_channels_last):
            held = {name: dict(zip(s.members, s.modules, strict=True)) for name, s in self.stacks.items()}
            self._assemble(way, held)
        self._is_settled = True

    def _check_outputs(self, x: Tensor, y: Tensor, targets: Tensor) -> None:
        """Raises EngineError unless the networks make outputs of such minibatches that fit every target.

        A pass in evaluation mode shows it, the first time that a minibatch is of this kind.
        """
        met = x.dtype, x.shape[1:], y.shape[1:]
        if met not in self._outputs:
            self._outputs[met] = count_outputs(self.models[0], x, y, self.loss)
        if self.loss == CROSS_ENTROPY:
            check_classes(self._outputs[met], int(targets.max()) + 1)

    @property
    def parent(self) -> "Population":
        """Itself: no view of another."""
        return self

    @property
    def offset(self) -> int:
        """The number of its first member in the parent."""
        return 0

    def __len__(self) -> int:
        return len(self.models)

    # ---- topology

    def sync_topology(self) -> None:
        """Follow the members: seeds that were planted or removed, weights that were put in the place of others.

        Every epoch and evaluation begins with it.
        """
        self._adopt()
        wanted: dict[str, dict[int, torch.nn.Module]] = {}
        for member, model in enumerate(self.models):
            for name, slot in model.slots.items():
                if slot.seed is not None and slot.state is not None:
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
            self.stacks[name] = ModuleStack(modules, is_channels_last=self.is_channels_last)
            newborn = {member for member, module in modules.items() if known.get(member) is not module}
            self.optimizer.track(name, self.stacks[name], newborn)
            self.version += 1
        # In one order, whatever the order of planting: sums over stacks must not depend on a run's history.
        ordered = {name: self.stacks[name] for name in (HOST, *sorted(wanted))}
        self.stacks.clear()
        self.stacks.update(ordered)

    # ---- training

    def train_epoch(
        self,
        x: Tensor,
        y: Tensor,
        order: Tensor,
        batch_size: int,
        rate_factors: Sequence[float] | None = None,
        seeds: Sequence[int] | None = None,
        source: Tensor | None = None,
    ) -> Scores:
        """One epoch for every member. Inputs x [N, ...], targets y [N, ...] (a regression's [N] or [N, K]), order [N].

        x may lie in the host's memory, wherever the members are: minibatches are copied one by one.
        source [M]: which of J sets of examples a member sees, where there are several: x, y and order are then
        [J, N, ...]. rate_factors [M]: shares of the members' learning rates, 1 where they are not given. seeds [M]: of
        what layers such as Dropout draw (None: they draw from torch's own stream). The last gradients stay in
        `last_gradients`.
        """
        x, y, order = checked_epoch(x, y, order, batch_size, source, len(self), self.device, self.loss)
        check_rates(rate_factors, seeds, len(self))
        places_x = order.to(x.device)
        minibatch = x[0, places_x[0, :batch_size]].to(self.device), y[0, order[0, :batch_size]]
        self._check_outputs(*minibatch, y)
        self._settle(*minibatch)
        self.sync_topology()
        self.check_minibatches(minibatch[0][:1], minibatch[1][:1], order.shape[1], batch_size)
        steps = -(-order.shape[1] // batch_size)
        totals = Totals(len(self), y, self.dtype, source)
        with self.standing(), nullcontext() if seeds is None else undisturbed_streams(self.device):
            self.engine.prepare(steps, self.version, seeds)
            self.optimizer.scale_rates([1.0] * len(self) if rate_factors is None else rate_factors)
            self.optimizer.begin_epoch(*row_roles(self.stacks, self.models))
            rows = torch.arange(len(y), device=y.device) if source is None else source
            rows_x = rows.to(x.device)
            # Minibatch by minibatch: a whole epoch of several sets of examples would not fit into any cache.
            batches = zip(places_x.split(int(batch_size), 1), order.split(int(batch_size), 1), strict=True)
            for index, (picked_x, picked) in enumerate(batches):
                xb = x[rows_x.unsqueeze(1), picked_x[rows_x]].to(self.device, non_blocking=True)
                xb, yb = self.engine.to_layout(xb), y[rows.unsqueeze(1), picked[rows]]
                step = self._replayed if self.is_graphed else self._step
                totals.add(*step(xb, yb, index), yb)
            self.engine.finish(steps)
            if self.engine.kind == SEQUENTIAL:  # else no network has run itself
                self._adopt()
        return totals.scores()

    def check_minibatches(self, x: Tensor, y: Tensor, count: int, batch_size: int) -> None:
        """Raises EngineError where an epoch has a minibatch of one example and the networks do not train on one.

        x, y: one example [1, ...]; count: examples of an epoch.
        """
        if count % batch_size != 1 and batch_size != 1:
            return
        if self._fails_on_one[0] != self.version:
            model = max(self.models, key=lambda model: sum(1 for _ in model.modules()))  # the most grown
            try:
                check_step(model, x, y, self.loss)
                self._fails_on_one = self.version, None
            except EngineError as error:
                self._fails_on_one = self.version, error
        if self._fails_on_one[1] is not None:
            raise EngineError(
                f"batch_size={batch_size}: {count} examples leave a minibatch of one, which this network does not "
                f"train on; use another batch size\n  {self._fails_on_one[1]}"
            ) from self._fails_on_one[1]

    def _adopt(self) -> None:
        """Take over what networks, or who has them, have put in the place of their tensors."""
        for stack in self.stacks.values():
            stack.adopt()

    @contextmanager
    def standing(self) -> Iterator[None]:
        """At the end, running statistics of members that are halted and seeds that are passed by are as before.

        A program moves them with those of all others.
        """
        kept = [
            (buffer[row], buffer[row].clone())
            for name, stack in self.stacks.items()
            for row, member in enumerate(stack.members)
            if member in self.halted or self._is_passed_by(name, member)
            for buffer in stack.buffers.values()
        ]
        yield
        for row, before in kept:
            row.copy_(before)

    def _is_passed_by(self, stack: str, member: int) -> bool:
        return stack != HOST and not self.models[member].slots[stack.split(".")[1]].computes

    @property
    def is_graphed(self) -> bool:
        """Whether steps are recorded once and replayed."""
        return self.device.type == "cuda" and self.engine.kind == FUSED

    def _replayed(self, x: Tensor, y: Tensor, index: int) -> tuple[Tensor, Tensor]:
        if self._graph is None or self._graph.generation != self.engine.generation:
            self._graph = GraphedStep(self._step, self.engine.generation)
        return self._graph(x, y, index)

    def _step(self, x: Tensor, y: Tensor, index: int | Tensor) -> tuple[Tensor, Tensor]:
        found = self.engine.backward(x, y, index)
        self.last_gradients = found.gradients
        self.optimizer.step(self.stacks, found.gradients, found.absent)
        return found.losses, found.hits

    def halt(self, member: int) -> None:
        """Train a member no further: its weights, statistics and blends stay as they are."""
        self.halted.add(member)
        self.optimizer.halt(member)
        self._graph = None

    def release(self, member: int) -> None:
        """Train a halted member again."""
        self.halted.remove(member)
        self.optimizer.release(member)
        self._graph = None

    @torch.no_grad()
    def restart(self, hosts: Mapping[int, torch.nn.Module]) -> None:
        """Give members fresh hosts, of the same architecture: no seeds, no momentum, and none of them halted.

        The weights are copied in, between epochs.
        """
        for member in hosts:
            for slot in self.models[member].slots.values():
                slot.hold(None, None, None)
        self.sync_topology()
        fresh = {e: {**dict(host.named_parameters()), **dict(host.named_buffers())} for e, host in hosts.items()}
        for name, tensor in self.stacks[HOST].tensors().items():
            for member, tensors in fresh.items():
                tensor[member].copy_(tensors[name])  # every member has a host: its row is its number
        for member, host in hosts.items():
            state = {f"host.{path}": value for path, value in read_state(host).items()}
            write_state(self.models[member], state, self.initial_states[member])
        self.optimizer.restart(HOST, list(hosts))
        for member in self.halted & hosts.keys():
            self.release(member)

    # ---- evaluation

    def evaluate(
        self, x: Tensor, y: Tensor, without: Sequence[tuple[int, str]] = (), source: Tensor | None = None
    ) -> tuple[Scores, dict[tuple[int, str], tuple[float, float]], float]:
        """Scores of every member; inputs x [N, ...], targets y [N, ...], or several sets as in `train_epoch`.

        without: (member, slot) pairs whose seed's worth is asked for. Returns the scores, for each pair (loss, score
        in percent) of that member with that seed left out, and the seconds that the latter took. Fused, each pair costs
        the host behind its slot, once; one by one, it costs the member's whole pass.
        """
        x, y = checked_examples(x, y, source, len(self), self.device, self.loss)
        check_seeds(without, self.models)
        count = y[0].numel()
        size = max(1, self._chunk_targets() * y.shape[1] // count)
        self._check_outputs(x[0, :size].to(self.device), y[0, :size], y)
        if self._asked[0] is not None:  # the choice of a kind waits for a minibatch of training
            self._settle(x[0, :EXAMPLES].to(self.device), y[0, :EXAMPLES])
        self.sync_topology()
        slots: dict[str, list[int]] = {}
        for member, slot in sorted(without):
            slots.setdefault(slot, []).append(member)
        totals = Totals(len(self), y, self.dtype, source)
        ablated = {
            slot: Totals(len(members), y, self.dtype, None if source is None else source[members])
            for slot, members in slots.items()
        }
        seconds = 0.0
        with undisturbed_streams(self.device):
            self.engine.prepare(1, self.version, training=False)
            for x_plain, yb in zip(x.split(size, 1), y.split(size, 1), strict=True):
                xb = self.engine.to_layout(x_plain.to(self.device, non_blocking=True))
                if source is not None:
                    xb, yb = xb[source], yb[source]
                captured: Captured = {}
                totals.add(*self.engine.losses(self.engine.logits(xb, captured), yb), yb)
                started = self._now_s()
                for slot, members in slots.items():
                    targets = yb if len(yb) == 1 else yb[members]
                    outputs = self.engine.logits_without(slot, members, captured)
                    ablated[slot].add(*self.engine.losses(outputs, targets), targets)
                seconds += self._now_s() - started
        if self.engine.kind == SEQUENTIAL:
            self._adopt()
        results: dict[tuple[int, str], tuple[float, float]] = {}
        for slot, members in slots.items():
            left = ablated[slot].scores()
            for member, *figures in zip(members, left.loss.tolist(), left.score.tolist(), strict=True):
                results[member, slot] = (figures[0], figures[1])
        return totals.scores(), results, seconds

    def _chunk_targets(self) -> int:
        if self.engine.kind == FUSED and self.device.type == "cpu":
            return min(EVALUATION_TARGETS, CACHED_TARGETS // len(self))
        return EVALUATION_TARGETS

    def _now_s(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def build(
    models: Sequence[MorphogeneticModel],
    configs: Sequence[OptimizerConfig],
    way: Way,
    precision: torch.dtype,
    loss: str = CROSS_ENTROPY,
) -> Population:
    """A population that is trained in a way that is taken as it is."""
    return Population(models, configs, way.kind, precision, way.is_channels_last, is_proven=True, loss=loss)
