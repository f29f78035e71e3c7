"""Many members of one host architecture, trained as one program (or one after another, where that is faster)."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from esper.engine.arguments import (
    check_names,
    check_rates,
    check_seeds,
    checked_epoch,
    checked_examples,
    checked_members,
)
from esper.engine.backends.base import FUSED, SEQUENTIAL, Engine, Gradients, Way
from esper.engine.backends.cuda_graph import GraphedStep
from esper.engine.backends.fused import FusedEngine
from esper.engine.backends.proof import EXAMPLES, Trial
from esper.engine.backends.selection import choose
from esper.engine.backends.sequential import SequentialEngine
from esper.engine.evaluation import chunk_targets, evaluate_members
from esper.engine.fusion.blueprint_groups import row_roles
from esper.engine.minibatches import MinibatchCheck, first_minibatch, minibatches
from esper.engine.optimizer import OptimizerConfig, StackedOptimizer
from esper.engine.scores import Scores, Totals
from esper.engine.stacks import HOST
from esper.engine.topology import Topology
from esper.kasmina.base import like
from esper.kasmina.host import MorphogeneticModel
from esper.kasmina.python_state import read_state, structure, write_state
from esper.kasmina.seeding import undisturbed_streams
from esper.leyline import CROSS_ENTROPY


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
        check_names(kind, loss)
        self.loss = loss
        self.precision = precision
        self.halted: set[int] = set()
        self.initial_states = [read_state(model) for model in self.models]  # what networks keep in Python
        self.initial_structures = [structure(model) for model in self.models]
        self.last_gradients: Gradients = {}
        self._graph: GraphedStep | None = None
        self._asked = kind, is_channels_last if kind is None else bool(is_channels_last)
        self._is_settled = is_proven
        self._check = MinibatchCheck(self.models, loss)
        example = like(self.models[0].host)
        self.device, self.dtype = example.device, example.dtype
        self.optimizer = StackedOptimizer(self.configs, self.device, self.dtype)
        self.topology = Topology(self.models, self.optimizer)
        self.stacks = self.topology.stacks
        hosts = dict(enumerate(model.host for model in self.models))
        self._assemble(Way(kind or SEQUENTIAL, bool(is_channels_last)), hosts)

    def _assemble(self, way: Way, hosts: Mapping[int, torch.nn.Module] | None = None) -> None:
        """Lay all weights side by side as an engine wants them, at first those of the hosts; moments stay."""
        self.topology.lay(way.is_channels_last, hosts)
        self.engine: Engine = (
            FusedEngine(self.models, self.stacks, self.halted, self.precision, self.loss)
            if way.kind == FUSED
            else SequentialEngine(
                self.models, self.stacks, self.halted, self.precision, way.is_channels_last, self.loss
            )
        )
        self.sync_topology()

    def _settle(self, x: Tensor, y: Tensor) -> None:
        """Before the first step: see that the engine trains these networks, or choose one that does."""
        if self._is_settled:
            return
        kind, is_channels_last = self._asked
        trial = Trial(self.models, self.configs, x, y, build, self.loss)
        way = choose(trial, self.precision, kind, is_channels_last=is_channels_last).way
        if way != Way(self.engine.kind, self.is_channels_last):
            self._assemble(way)
        self._is_settled = True

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

    @property
    def version(self) -> int:
        """Counts changes of the stacks."""
        return self.topology.version

    @property
    def is_channels_last(self) -> bool:
        """How images lie where members train one by one."""
        return self.topology.is_channels_last

    def sync_topology(self) -> None:
        """Follow the members: seeds that were planted or removed, weights that were put in the place of others.

        Every epoch and evaluation begins with it.
        """
        self.topology.sync()

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
        ends: Mapping[int, int] | None = None,
    ) -> Scores:
        """One epoch for every member. Inputs x [N, ...], targets y [N, ...] (a regression's [N] or [N, K]), order [N].

        x may lie in the host's memory, wherever the members are: minibatches are copied one by one.
        source [M]: which of J sets of examples a member sees, where there are several: x, y and order are then
        [J, N, ...]. rate_factors [M]: shares of the members' learning rates, 1 where they are not given. seeds [M]: of
        what layers such as Dropout draw (None: they draw from torch's own stream). ends: member -> minibatches
        after which it is halted. The last gradients stay in `last_gradients`.
        """
        x, y, order = checked_epoch(x, y, order, batch_size, source, len(self), self.device, self.loss)
        check_rates(rate_factors, seeds, len(self))
        minibatch = first_minibatch(x, y, order, batch_size, self.device)
        self._check.outputs(*minibatch, y)
        self._settle(*minibatch)
        self.sync_topology()
        self.check_minibatches(minibatch[0][:1], minibatch[1][:1], order.shape[1], batch_size)
        steps = -(-order.shape[1] // batch_size)
        totals = Totals(len(self), y, self.dtype, source)
        with self.standing() as kept, nullcontext() if seeds is None else undisturbed_streams(self.device):
            self.engine.prepare(steps, self.version, seeds)
            self.optimizer.scale_rates([1.0] * len(self) if rate_factors is None else rate_factors)
            self.optimizer.begin_epoch(*row_roles(self.stacks, self.models))
            finished = 0  # of the steps, those that the engine was told of
            for index, (xb, yb) in enumerate(minibatches(x, y, order, batch_size, source, self.device)):
                xb = self.engine.to_layout(xb)
                step = self._replayed if self.is_graphed else self._step
                totals.add(*step(xb, yb, index), yb)
                if ended := {member for member, last in (ends or {}).items() if last == index + 1}:
                    self.engine.finish(index + 1 - finished)
                    finished = index + 1
                    for member in ended:
                        self.halt(member)
                    kept += self.topology.statistics(ended)
            self.engine.finish(steps - finished)
            if self.engine.kind == SEQUENTIAL:  # else no network has run itself
                self.topology.adopt()
        return totals.scores()

    def check_minibatches(self, x: Tensor, y: Tensor, count: int, batch_size: int) -> None:
        """Raises EngineError where an epoch of `count` examples leaves a minibatch of one that nothing trains on.

        x, y: one example [1, ...].
        """
        self._check.of_one(self.version, x, y, count, batch_size)

    def standing(self) -> AbstractContextManager[list[tuple[Tensor, Tensor]]]:
        """See `Topology.standing`."""
        return self.topology.standing(self.halted)

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
        self.topology.copy_hosts(hosts)
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
        size = max(1, chunk_targets(self.engine.kind, self.device, len(self)) * y.shape[1] // count)
        self._check.outputs(x[0, :size].to(self.device), y[0, :size], y)
        if self._asked[0] is not None:  # the choice of a kind waits for a minibatch of training
            self._settle(x[0, :EXAMPLES].to(self.device), y[0, :EXAMPLES])
        self.sync_topology()
        with undisturbed_streams(self.device):
            self.engine.prepare(1, self.version, training=False)
            found = evaluate_members(self.engine, len(self), x, y, without, source, size, like(self.models[0].host))
        if self.engine.kind == SEQUENTIAL:
            self.topology.adopt()
        return found


def build(
    models: Sequence[MorphogeneticModel],
    configs: Sequence[OptimizerConfig],
    way: Way,
    precision: torch.dtype,
    loss: str = CROSS_ENTROPY,
) -> Population:
    """A population that is trained in a way that is taken as it is."""
    return Population(models, configs, way.kind, precision, way.is_channels_last, is_proven=True, loss=loss)
