"""From a configuration to the parts of a run: registries build by name, and nothing else chooses what code runs."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

import torch
from torch import nn

from esper.config.host import HostSchema
from esper.config.root import RunSchema
from esper.engine import native
from esper.engine.choice import choose_engine
from esper.engine.governor import Governor, GovernorConfig
from esper.engine.growth import Growth
from esper.engine.optimizer import OptimizerConfig
from esper.engine.population import Population
from esper.errors import ConfigError
from esper.kasmina import (
    BlueprintRegistry,
    CNNHost,
    GateConfig,
    MorphogeneticModel,
    QualityGates,
    SlotConfig,
    TransformerHost,
)
from esper.kasmina.graft import GraftedHost
from esper.kasmina.host import Host
from esper.kasmina.seeding import weights_from
from esper.leyline import Controller, TaskConfig
from esper.tamiyo import build_controller
from esper.tasks import Task, build_task
from esper.tasks.task import named_generator

DEFAULT_THREADS = torch.get_num_threads()
PRECISIONS = {"float32": torch.float32, "float64": torch.float64, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run is made of; `engine` goes into run.json, `twin_of` is twin -> the grown member it shadows."""

    growth: Growth
    controller: Controller
    engine: dict[str, Any]
    twin_of: dict[int, int]


def build(config: RunSchema, engine: dict[str, Any] | None = None) -> Parts:
    """Load the data, make the population and its controller.

    engine: the choice of an earlier part of the same run, which is then kept. Raises EsperError where the parts do not
    fit: slots the host lacks, blueprints of another topology, data that is missing, no CUDA device.
    """
    device = pick_device(engine["device"] if engine else config.engine.device)
    precision = pick_precision(config.engine.precision, device)
    dtype = torch.float64 if precision is torch.float64 else torch.float32
    task = build_task(config.task, device, dtype, config.seed)
    grown = config.engine.members
    copies = 2 if config.engine.twins else 1
    models = [build_model(config, task, member, device, dtype) for _ in range(copies) for member in range(grown)]
    catalogue = plantable(config, models[0].host.topology)
    names = [name for name, _ in catalogue]
    population, chosen = build_population(config, task, models, precision, names, engine)
    growth = Growth(
        population,
        task,
        QualityGates(GateConfig(**asdict(config.gates))),
        Governor(GovernorConfig(**asdict(config.engine.governor))),
        grown=grown,
        epochs=config.epochs,
        batch_size=config.batch_size,
        blueprints=names,
        seed=config.seed,
    )
    controller = build_controller(config.policy, catalogue, slots_by_depth(models[0]), config.seed)
    return Parts(growth, controller, chosen, twin_of={member: member - grown for member in range(grown, len(models))})


def build_population(
    config: RunSchema,
    task: Task,
    models: Sequence[MorphogeneticModel],
    precision: torch.dtype,
    blueprints: Sequence[str],
    engine: dict[str, Any] | None,
) -> tuple[Population, dict[str, Any]]:
    """The members on an engine, and what was chosen; a run under way keeps the choice it began with."""
    wanted = engine or {"kind": config.engine.kind, "threads": config.engine.threads}
    torch.set_num_threads(wanted["threads"] or DEFAULT_THREADS)
    x, y = (part[: config.batch_size] for part in task.epoch_data(1, named_generator(config.seed, "measure")))
    optimizer = OptimizerConfig(**asdict(config.optimizer))
    population, reason = choose_engine(
        models, optimizer, x, y, precision, wanted["kind"], wanted["threads"], blueprints
    )
    library, why_not = native.load()
    kernels = "native" if population.device.type == "cpu" and library is not None else "torch"
    if population.device.type == "cpu" and library is None:
        print(f"slower than it could be: {why_not}", file=sys.stderr)
    if engine and engine["kernels"] != kernels:
        print(f"this run began on {engine['kernels']} kernels: it goes on, but not bit for bit", file=sys.stderr)
    return population, engine or {
        "kind": population.engine.kind,
        "kernels": kernels,
        "reason": reason,
        "device": population.device.type,
        "threads": torch.get_num_threads(),
    }


def build_model(
    config: RunSchema, task: Task, member: int, device: torch.device, dtype: torch.dtype
) -> MorphogeneticModel:
    """One member; two of the same number start from the same weights."""
    generator = named_generator(config.seed, f"host/{member}")
    steps = -(-task.epoch_size // config.batch_size)
    slots = config.slots
    host = HOSTS[config.host.name](config.host, task, generator).to(dtype)
    return MorphogeneticModel(
        host=host,
        device=device,
        slots=slots.names,
        task_config=TaskConfig(host.topology, slots.blending_epochs * steps, task.num_classes, config.epochs),
        slot_config=SlotConfig(
            blending_steps=slots.blending_epochs * steps,
            cull_steps=slots.cull_epochs * steps,
            embargo_epochs=slots.embargo_epochs,
            isolate_gradients=slots.isolate_gradients,
            max_ratio=slots.max_ratio,
        ),
    )


def plantable(config: RunSchema, topology: str) -> list[tuple[str, int]]:
    """(blueprint, parameters) of what may be planted, smallest first; parameters as the registry states them.

    Raises BlueprintError on a name that the topology does not have.
    """
    for name in getattr(config.policy, "preferred_blueprints", ()):
        if not BlueprintRegistry.has(name):  # one of another topology is merely passed over
            BlueprintRegistry.spec(topology, name)
    specs = BlueprintRegistry.list_specs(topology)
    names = config.blueprint.names
    wanted = specs if names is None else [BlueprintRegistry.spec(topology, name) for name in names]
    return [(spec.name, spec.param_estimate) for spec in specs if spec in wanted]


def slots_by_depth(model: MorphogeneticModel) -> list[str]:
    """The slots' names in the order in which the data meets them."""
    depth = list(model.host.injection_points)
    return sorted(model.slots, key=lambda name: depth.index(model.slot_positions[name]))


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises ConfigError when CUDA is asked for and there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("engine.device=cuda: torch finds no CUDA device here; use engine.device=auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """Raises ConfigError for bf16 on a CPU, where it is several times slower than float32."""
    if name == "bf16" and device.type == "cpu":
        raise ConfigError("engine.precision=bf16: needs a CUDA device, and there is none; use engine.precision=float32")
    return PRECISIONS[name]


def _cnn(host: Any, task: Task, generator: torch.Generator) -> Host:
    return CNNHost(
        num_classes=task.num_classes,
        n_blocks=len(host.channels),
        in_channels=task.input_shape[0],
        channels=host.channels,
        generator=generator,
    )


def _transformer(host: Any, task: Task, generator: torch.Generator) -> Host:
    (block_size,) = task.input_shape
    return TransformerHost(task.num_classes, host.n_embd, host.n_head, host.n_layer, block_size, generator)


def _custom(host: Any, task: Task, generator: torch.Generator) -> Host:
    module_name, _, function_name = host.factory.partition(":")
    try:
        factory = getattr(import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"host.factory={host.factory}: {error}; it is looked up from where the run starts") from error
    with weights_from(generator):
        network = factory(input_shape=task.input_shape, num_classes=task.num_classes)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"host.factory={host.factory}: expected an nn.Module, and it gave {type(network).__name__}")
    example = task.val_x[:1].cpu()
    network = network.to(example.dtype) if example.is_floating_point() else network
    return GraftedHost(network, {path.replace(".", "_"): path for path in host.positions}, example)


HOSTS: dict[str, Callable[[HostSchema, Task, torch.Generator], Host]] = {
    "cnn": _cnn,
    "custom": _custom,
    "transformer": _transformer,
}
