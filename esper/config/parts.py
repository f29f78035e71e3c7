"""Decorators that register parts: what a plugin calls, `esper.policy` and its like.

They put a part into the registry in which the built-in ones of its kind are, and make of any dataclass a configuration
that can stand in a run's.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, field, fields, is_dataclass, make_dataclass
from inspect import signature
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from esper.checks import require, spelled, whole
from esper.config.host import HOSTS, HostConfig
from esper.config.options import shipped
from esper.config.policy import POLICIES, RULES
from esper.config.telemetry import SINKS, SinkConfig
from esper.errors import BlueprintError, ConfigError, first_line
from esper.leyline.blueprints import BLUEPRINTS, register_blueprint
from esper.registry import Registry, place
from esper.simic.rewards.config import REWARDS, RewardConfig
from esper.tamiyo.settings import PolicyConfig
from esper.tasks.settings import TASKS, BaseTaskConfig

_WORDS = ("true", "false", "null", "nan", "inf")  # which a command line does not read as text
Builder = TypeVar("Builder", bound=Callable[..., Any])
Decorator = Callable[[Builder], Builder]


def blueprint(
    name: str, topology: str, param_estimate: int | None = None, description: str = "", family: str | None = None
) -> Decorator[Any]:
    """Register a seed: a function `(dim, **options) -> nn.Module`.

    The module takes features of `dim` channels, keeps their shape, and starts as the identity; one that does not is
    refused, with the reason, before a run begins. Of the options the function gets those that it names: `max_ratio`
    (most of the seed's norm beside the host's) and `upstream` (the module whose output goes through the slot).

    Args:
        topology: of the features: "cnn" [B, C, H, W] or "transformer" [B, T, C], or another that esper has.
        param_estimate: parameters at 64 channels; None: they are counted.
        description: in a line.
        family: what planting it counts as for a policy that learns from records: "conv", "attention", "norm" or
            "depthwise"; None: "conv", or as the blueprint of this name in another topology.

    Raises:
        BlueprintError: the topology has a blueprint of this name, or there is no such topology or family.
    """
    _check_name("blueprint", name)
    if topology not in BLUEPRINTS:
        raise BlueprintError(f"blueprint {name!r}: topology={spelled(topology)}: expected {' or '.join(BLUEPRINTS)}")
    if param_estimate is not None:
        whole(f"blueprint {name!r}: param_estimate", param_estimate, 0)
    return register_blueprint(name, topology, param_estimate, description, family)


def task(name: str, config: type) -> Decorator[Any]:
    """Register data: a function `(config, ...) -> esper.Data`; further: device, dtype, split_seed, where it names them.

    Args: config: a dataclass, whose fields are the keys `task.*`. Raises: ConfigError where name or config will not do.
    """
    known = {} if hasattr(config, "inputs") else {"inputs": ""}  # what kind of data it is, the data will tell
    return _part("task", TASKS, TASKS, BaseTaskConfig, name, config, known)


def host(name: str, config: type) -> Decorator[Any]:
    """Register a network that grows: a function `(config, input_shape, num_outputs) -> nn.Module`.

    Slots are behind the layers that `config.positions` names, else behind each of its direct children that makes
    features. `input_shape` is that of one example; further: task, generator, where it names them.

    Args: config: a dataclass, whose fields are the keys `host.*`. Raises: ConfigError where name or config will not do.
    """
    return _part("host", HOSTS, HOSTS, HostConfig, name, config)


def policy(name: str, config: type) -> Decorator[Any]:
    """Register a rule: a function `(config, catalogue) -> Controller`, which decides once an epoch.

    `catalogue` is what can be planted, [(blueprint, parameters)]; further: slots (names by depth), seed, where it names
    them. The controller has `act(reports) -> actions`, one a report, and `state_dict` and `load_state_dict`, by which a
    run that was stopped goes on (see `esper.leyline.protocols.Controller`).

    Args: config: a dataclass, whose fields are the keys `policy.*`. Raises: ConfigError where name or config will not
    do.
    """
    return _part("policy", RULES, POLICIES, PolicyConfig, name, config)


def reward(name: str, config: type) -> Decorator[Any]:
    """Register a reward: a function `(config) -> (before, after) -> float` of a member's two last reports.

    The action that led from one to the other stands in `after.action`.

    Args: config: a dataclass, whose fields are the keys `reward.*`. Raises: ConfigError where name or config will not
    do.
    """
    return _part("reward", REWARDS, REWARDS, RewardConfig, name, config)


def sink(name: str, config: type) -> Decorator[Any]:
    """Register an output: a function `(config, folder) -> Sink`, called as a run begins, with the run's folder.

    The sink has `epoch(record)`, `update(record)`, `event(event)` and `close(status)` (see
    `esper.leyline.protocols.Sink`); it is opened under `telemetry.sinks.NAME.enabled=true`.

    Args: config: a dataclass, whose fields are the keys `telemetry.sinks.NAME.*`, each with a default. Raises:
    ConfigError where name, config or function will not do.
    """
    keep = _part("sink", SINKS, SINKS, SinkConfig, name, config)
    unset = [each.name for each in fields(config) if each.default is MISSING and each.default_factory is MISSING]
    if unset:
        raise ConfigError(f"sink {name!r}: {config.__name__}.{unset[0]} has no default, and runs without it have none")

    def checked(builder: Builder) -> Builder:
        try:
            signature(builder).bind(config, "folder")
        except TypeError as error:
            raise ConfigError(f"sink {name!r}: {place(builder)} is called with (config, folder): {error}") from None
        return keep(builder)  # type: ignore[no-any-return]

    return checked


def _part(
    group: str,
    registry: Registry[Any, Any],
    known: Mapping[str, type],
    base: type,
    name: str,
    config: type,
    namespace: Mapping[str, Any] | None = None,
) -> Decorator[Any]:
    """Registers a builder under a name that is free; known: names that are not."""
    _check_name(group, name)
    if name in shipped().get(group, ()) or (name in known and name not in registry):
        raise ConfigError(f"{group} {name!r}: one is built in; rename yours")
    return registry.register(name, _schema(f"{group} {name!r}", base, name, config, dict(namespace or {})))


def _check_name(group: str, name: str) -> None:
    is_plain = isinstance(name, str) and name.isidentifier() and name.isascii() and name.lower() not in _WORDS
    require(is_plain, f"name of a {group}", name, "letters, digits and underscores, such as my_part")


def _schema(what: str, base: type, name: str, config: type, namespace: dict[str, Any]) -> type:
    """The user's dataclass with the fields that a run's configuration asks for; itself where it has them."""
    if not (isinstance(config, type) and is_dataclass(config)):
        given = getattr(config, "__name__", spelled(config))
        raise ConfigError(f"{what}: its configuration {given} is no dataclass; expected a class under @dataclass")
    if issubclass(config, base) and any(each.name == "name" and each.default == name for each in fields(config)):
        return config
    bases = (config,) if issubclass(config, base) else (config, base)
    names = [] if base is SinkConfig else [("name", str, field(default=name))]
    try:
        schema = make_dataclass(f"{config.__name__}_{name}", names, bases=bases, namespace=namespace, kw_only=True)
        schema.__module__ = config.__module__
        OmegaConf.structured(schema)
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise ConfigError(f"{what}: {config.__name__} cannot be a configuration: {first_line(error)}") from error
    setattr(sys.modules[config.__module__], schema.__name__, schema)  # where another process finds it
    return schema
