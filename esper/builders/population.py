"""From a configuration to the parts of a run: registries build by name, and nothing else chooses what code runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from esper.builders.host import build_host, build_model
from esper.config.blueprint import check_blueprints, is_offered
from esper.config.host import CustomHostConfig
from esper.config.root import RunConfig
from esper.engine.backends.base import Way
from esper.engine.backends.plain import count_outputs
from esper.engine.backends.proof import check_resumable
from esper.engine.choice import choose_engine
from esper.engine.environment import GrowthVectorEnv, Reward
from esper.engine.governor import Governor
from esper.engine.growth import Growth
from esper.engine.kernels import native
from esper.engine.population import Population, build
from esper.engine.sharded import ShardedGrowth
from esper.engine.state.view import Members, split
from esper.errors import ConfigError, EngineError
from esper.files import checked
from esper.files.records import ENGINE, RUN_FILE
from esper.kasmina import BlueprintRegistry, MorphogeneticModel, QualityGates
from esper.kasmina.blueprints.registry import REFERENCE_WIDTH
from esper.kasmina.slot import SeedSlot
from esper.leyline import ActionLayout
from esper.leyline.blueprints import BlueprintSpec
from esper.leyline.ranks import ALONE, Ranks, share
from esper.printing import say
from esper.simic.rewards.functions import build_reward
from esper.tamiyo.observation import ObservationEncoder, action_masks
from esper.tamiyo.settings import BLENDS
from esper.tasks import Task, build_task
from esper.tasks.task import named_generator

DEFAULT_THREADS = torch.get_num_threads()
PRECISIONS = {"float32": torch.float32, "float64": torch.float64, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Grown:
    """What grows. growth: all members, as seen from here; local_growth: those that this process trains; slots: by
    depth; catalogue: (blueprint, parameters) of what may be planted; engine: the choice that was made, for run.json;
    twin_of: twin -> the grown member it shadows; ranks: that share the members."""

    growth: Growth | ShardedGrowth
    local_growth: Growth
    slots: list[str]
    catalogue: list[tuple[str, int]]
    engine: dict[str, Any]
    twin_of: dict[int, int]
    ranks: Ranks = ALONE

    def layout(self, blends: Sequence[str] = BLENDS) -> ActionLayout:
        """Every action that a controller can ask of a member."""
        return ActionLayout(tuple(self.slots), tuple(name for name, _ in self.catalogue), tuple(blends))

    def encoder(self) -> ObservationEncoder:
        """A new one, for these slots and blueprints."""
        return ObservationEncoder(self.slots, self.catalogue)


def build_environment(
    config: RunConfig,
    engine: dict[str, Any] | None = None,
    task: Task | None = None,
    layout: ActionLayout | None = None,
    reward: Reward | None = None,
    ranks: Ranks = ALONE,
) -> tuple[GrowthVectorEnv, dict[str, Any]]:
    """The environment of a configuration's members, without twins, and the choice of its engine; see `build_growth`.

    task: data that is loaded already. layout, reward: in place of every action, and of the configuration's reward.
    """
    grown = build_growth(replace(config, controls=[]), engine, task, ranks)
    return GrowthVectorEnv(
        grown.growth,
        layout or grown.layout(),
        grown.encoder(),
        action_masks,
        reward or build_reward(config.reward),
    ), grown.engine


@dataclass(frozen=True, slots=True)
class Prepared:
    """What one configuration brings into a population: its members (this rank's: grown, then twins), their data, and
    what may be planted in them."""

    config: RunConfig
    task: Task
    models: list[MorphogeneticModel]
    catalogue: list[tuple[str, int]]
    ranks: Ranks = ALONE


def build_growth(
    config: RunConfig, engine: dict[str, Any] | None = None, task: Task | None = None, ranks: Ranks = ALONE
) -> Grown:
    """Load the data and make the population: grown members, then their twins.

    engine: the choice of an earlier part of the same run, which is then kept. task: data that is loaded already. ranks:
    that share the members. Raises EsperError where the parts do not fit: slots the host lacks, blueprints of another
    topology, data that is missing, no CUDA device, fewer members than ranks.
    """
    loaded = {} if task is None else {_data_key(config): task}
    return grow([prepare(config, engine, loaded, ranks)], engine)[0]


def build_growths(configs: Sequence[RunConfig], engine: dict[str, Any] | None = None) -> list[Grown]:
    """Several configurations' members in one population, for `esper.engine.epoch.EpochRunner`.

    They may differ in what a member can carry (see `esper.runner.spec.PER_MEMBER_KEYS`). engine, raises: as of
    `build_growth`.
    """
    loaded: dict[str, Task] = {}
    return grow([prepare(config, engine, loaded) for config in configs], engine)


def _data_key(config: RunConfig) -> str:
    """Equal where two configurations have the same data on the same device."""
    split_seed = getattr(config.task, "split_seed", 0)
    own = config.seed if split_seed is None else split_seed
    return f"{config.task} {own} {config.engine.device} {config.engine.precision}"


def prepare(
    config: RunConfig, engine: dict[str, Any] | None, loaded: dict[str, Task], ranks: Ranks = ALONE
) -> Prepared:
    """Load the data, where it is not among what is `loaded` already, and make the members; see `build_growth`."""
    check_enough("engine.members", config.engine.members, ranks)
    if config.finals and ranks.world > 1:
        raise ConfigError(
            f"controls=[{', '.join(config.controls)}]: final networks are trained by one process, and this run has "
            f"{ranks.world}\n  leave {' and '.join(config.finals)} out, or start it without torchrun"
        )
    config.check_fit()
    checked(engine, (ENGINE, None), f"{RUN_FILE}: engine")
    device = pick_device(engine["device"] if engine else config.engine.device)
    dtype = torch.float64 if config.engine.precision == "float64" else torch.float32
    check_precision(config.engine.precision, device)
    task = loaded.get(_data_key(config)) or build_task(config.task, device, dtype, config.seed)
    loaded[_data_key(config)] = task
    config.check_inputs(task.inputs)
    config.host.check_image(task.side_pixels)
    examples = task.train_y.numel()  # of text as many as tokens: a window may begin at each
    if config.batch_size > examples:
        raise ConfigError(
            f"batch_size={config.batch_size}: more than the {examples:,} training examples\n"
            f"  expected 1 to {examples:,}"
        )
    copies = 1 + config.has_twins
    models = [
        build_model(config, task, member, device, dtype)
        for _ in range(copies)
        for member in share(config.engine.members, ranks)
    ]
    catalogue = plantable(config, models[0].host.topology, list(models[0].slots.values()))
    if any(BlueprintRegistry.spec(models[0].host.topology, name).is_own for name, _ in catalogue):
        for model in models:  # whatever runs in it may be
            model.is_users_own = True
    if models[0].is_users_own:
        _check_outputs(config, models[0], task)
    return Prepared(config, task, models, catalogue, ranks)


def _check_outputs(config: RunConfig, model: MorphogeneticModel, task: Task) -> None:
    """Raises ConfigError where the user's network does not give what the task's targets are compared with."""
    host = config.host
    what = f"host.factory={host.factory}" if isinstance(host, CustomHostConfig) else f"host={host.name}"
    try:
        outputs = count_outputs(model, task.val_x[:1].to(model.device), task.val_y[:1], task.loss)
    except EngineError as error:
        raise ConfigError(f"{what}: {error}") from None
    if outputs < task.num_outputs:
        raise ConfigError(f"{what}: the network gives {outputs} outputs, the task has {task.num_outputs} classes")


def grow(prepared: Sequence[Prepared], engine: dict[str, Any] | None = None) -> list[Grown]:
    """The members of all in one population, on an engine that is chosen once; each part grows by itself."""
    population, measured = build_population(prepared, engine)
    chosen = prepared[0].ranks.broadcast(measured)
    if chosen != measured:  # every rank measures, so that each has the machine's load, and one decides
        population, _ = build_population(prepared, chosen)
    members = split(population, [len(part.models) for part in prepared])
    return [_grown(part, own, chosen) for part, own in zip(prepared, members, strict=True)]


def _grown(part: Prepared, members: Members, chosen: dict[str, Any]) -> Grown:
    config, task, grown = part.config, part.task, part.config.engine.members
    copies = 1 + config.has_twins
    growth = Growth(
        members,
        task,
        QualityGates(config.gates),
        Governor(config.engine.governor),
        grown=len(members) // copies,
        epochs=config.epochs,
        batch_size=config.batch_size,
        blueprints=[name for name, _ in part.catalogue],
        seed=config.seed,
        fresh_host=lambda seed: build_host(config, task, seed, 0, members.dtype),
        decay_share=config.optimizer.decay_share,
    )
    seen = growth if part.ranks.world == 1 else ShardedGrowth(growth, grown, part.ranks)
    twin_of = {member: member - grown for member in range(grown, copies * grown)}
    return Grown(seen, growth, slots_by_depth(part.models[0]), part.catalogue, dict(chosen), twin_of, part.ranks)


def build_population(prepared: Sequence[Prepared], engine: dict[str, Any] | None) -> tuple[Population, dict[str, Any]]:
    """All members on an engine, and what was chosen; a run under way keeps the choice it began with."""
    config, task = prepared[0].config, prepared[0].task
    models = [model for part in prepared for model in part.models]
    optimizers = [part.config.optimizer.settings() for part in prepared for _ in part.models]
    precision, reason = PRECISIONS[config.engine.precision], ""
    if engine:  # was proven and measured when the run began
        torch.set_num_threads(engine["threads"])
        way = Way(engine["kind"], engine["memory_format"] == "channels_last")
        population = build(models, optimizers, way, precision, task.loss)
    else:
        torch.set_num_threads(config.engine.threads or DEFAULT_THREADS)
        device = models[0].device
        drawn = task.epoch_data(1, named_generator(config.seed, "measure"))
        x, y = (part[: config.batch_size].to(device) for part in drawn)
        if models[0].is_users_own:
            check_resumable(models[0], x, y, task.loss)
        population, reason = choose_engine(
            models,
            optimizers,
            x,
            y,
            precision,
            config.engine.kind,
            config.engine.threads,
            config.engine.memory_format,
            sorted({name for part in prepared for name, _ in part.catalogue}),
            task.loss,
        )
        population.check_minibatches(x[:1], y[:1], task.epoch_size, config.batch_size)
    library, why_not = native.load()
    kernels = "native" if population.device.type == "cpu" and library is not None else "torch"
    if population.device.type == "cpu" and library is None:
        say(f"slower than it could be: {why_not}", is_error=True)
    if engine and engine["kernels"] != kernels:
        say(f"this run began on {engine['kernels']} kernels: it goes on, but not bit for bit", is_error=True)
    return population, engine or {
        "kind": population.engine.kind,
        "kernels": kernels,
        "reason": reason,
        "device": population.device.type,
        "threads": torch.get_num_threads(),
        "memory_format": "channels_last" if population.is_channels_last else "contiguous",
    }


def plantable(config: RunConfig, topology: str, slots: Sequence[SeedSlot] = ()) -> list[tuple[str, int]]:
    """(blueprint, parameters at the reference width) of what may be planted, smallest first.

    slots: of a member, in which blueprints of a user's own are tried. Raises BlueprintError on a name that the topology
    does not have, and on a blueprint that does not fit.
    """
    check_blueprints(config.blueprint, config.policy, topology, BlueprintRegistry.names())
    specs = [
        spec for spec in BlueprintRegistry.list_specs(topology) if is_offered(config.blueprint, config.plugins, spec)
    ]
    found = [(spec.name, parameters_of(spec, slots)) for spec in specs]
    return sorted(found, key=lambda entry: (entry[1], entry[0]))


def parameters_of(spec: BlueprintSpec, slots: Sequence[SeedSlot]) -> int:
    """As stated, or counted: in the last of the slots where the blueprint depends on what is before it."""
    tried = list(slots) if spec.is_own else []
    if spec.param_estimate is None and not spec.takes_upstream:
        tried.append(SeedSlot("reference", REFERENCE_WIDTH, topology=spec.topology))
    seeds = [slot.try_blueprint(spec.name, spec.topology) for slot in tried]
    if spec.param_estimate is not None:
        return spec.param_estimate
    return sum(parameter.numel() for parameter in seeds[-1].parameters()) if seeds else 0


def slots_by_depth(model: MorphogeneticModel) -> list[str]:
    """The slots' names in the order in which the data meets them."""
    depth = list(model.host.injection_points)
    return sorted(model.slots, key=lambda name: depth.index(model.slot_positions[name]))


def check_enough(key: str, members: int, ranks: Ranks) -> None:
    """Raises ConfigError where a rank would have no member."""
    if members < ranks.world:
        raise ConfigError(
            f"{key}={members}: fewer than the {ranks.world} processes of this run, and each trains at least one\n"
            f"  start fewer (torchrun --nproc-per-node), or set {key}={ranks.world}"
        )


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises ConfigError when CUDA is asked for and there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("engine.device=cuda: torch finds no CUDA device here; use engine.device=auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"engine.device={name}: torch knows no such device; use engine.device=auto") from error


def check_precision(name: str, device: torch.device) -> None:
    """Raises ConfigError for bf16 on a CPU, where it is several times slower than float32."""
    if name == "bf16" and device.type == "cpu":
        raise ConfigError("engine.precision=bf16: needs a CUDA device, and there is none; use engine.precision=float32")
