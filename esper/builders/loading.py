"""Policies that were learned elsewhere: read from a run or a file, and told where they cannot act."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from esper.checkpoint import Checkpoint, CheckpointManager, restoring
from esper.config.composing import to_plain
from esper.config.root import RunConfig
from esper.errors import ConfigError, EsperError
from esper.files.records import RUN_FILE
from esper.leyline import ActionLayout, Operation
from esper.printing import say
from esper.simic.iql.model import IQL
from esper.simic.on_policy.base import PolicyLearner
from esper.simic.on_policy.policy_file import read_policy

_LOAD = "policy.load"
POLICY = "policy/"  # before the names of what a run's training keeps
_CHOICES = ("slots.names", "blueprint.names", "policy.blends")  # in the order in which actions name them
World = dict[str, str]  # where a policy learned: key of the configuration -> value, as on a command line


def load_learner(name: str, learner: PolicyLearner, config: RunConfig, layout: ActionLayout) -> None:
    """Let a learner decide as the policy of a run directory or a file does. layout: what can be asked for here.

    Raises ConfigError where it cannot: there is none, it is of another learner, or it learned where other actions are,
    and then says where.
    """
    learned_on: World = {}  # a file tells neither task nor host
    tensors: Mapping[str, Tensor]
    if _is_run(name):
        checkpoint = _newest(name, "learner")
        with restoring(checkpoint):
            tensors, plain = learned_part(checkpoint, "learner")
        learned_on = _world(checkpoint.config)
    else:
        with _of_load(name):
            tensors, plain, _ = read_policy(Path(name))
    with _of_load(name):
        theirs = _choices(plain.get("actions"))
        parts = (layout.slots, layout.blueprints, layout.blends)
        ours = {key: _listed(names) for key, names in zip(_CHOICES, parts, strict=True)}
        if theirs and theirs != ours:
            learned_on |= theirs
            here = _world(to_plain(config)) | ours
            others = {key: value for key, value in here.items() if learned_on.get(key, value) != value}
            raise ConfigError(
                f"it cannot act here: it learned with {_spelled(learned_on)}\n"
                f"  this run has {_spelled(others)}: choose what it learned with, or learn anew, without policy.load"
            )
        learner.load_state(tensors, plain, policy_only=True)


def load_model(name: str) -> IQL:
    """The IQL model of a run directory or a file. Raises ConfigError where there is none."""
    if not _is_run(name):
        with _of_load(name):
            return IQL.load(name)
    checkpoint = _newest(name, "model")
    with restoring(checkpoint):
        tensors, plain = learned_part(checkpoint, "model")
    with _of_load(name):
        return IQL.from_state(tensors, plain)


def load_stored(name: str, key: str) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
    """The state of whichever policy a run directory or a file holds. Raises ConfigError, of this key, where none is."""
    if _is_run(name, key):
        checkpoint = _newest(name, "learner", "model", key=key)
        with restoring(checkpoint):
            return learned_part(checkpoint, "learner" if "learner" in checkpoint.state["learning"] else "model")
    with _of_load(name, key):
        try:
            tensors, plain, _ = read_policy(Path(name))
            return tensors, plain
        except EsperError:
            with suppress(EsperError):  # a file of IQL's has a form of its own
                return IQL.load(name).state()
            raise


def learned_part(checkpoint: Checkpoint, part: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What a run has learned, as its training keeps it; part: "learner" of PPO and REINFORCE, "model" of IQL."""
    prefix = POLICY + ("learner/" if part == "learner" else "")
    held = checkpoint.tensors.items()
    tensors = {key.removeprefix(prefix): tensor for key, tensor in held if key.startswith(prefix)}
    return tensors, checkpoint.state["learning"][part]


def _is_run(name: str, key: str = _LOAD) -> bool:
    path = Path(name)
    if not path.exists():
        raise ConfigError(f"{key}={name}: there is no such run directory or file")
    return (path / RUN_FILE).is_file()


def _newest(name: str, *parts: str, key: str = _LOAD) -> Checkpoint:
    """The newest sound checkpoint of a run that has learned such a policy, or one of these."""
    checkpoint = CheckpointManager(Path(name)).load_latest_agent()
    for unsound in checkpoint.skipped:
        say(f"{key}={name}: skipped the checkpoint of epoch {unsound.epoch}: {unsound.reason}", is_error=True)
    if not set(parts) & set(checkpoint.state.get("learning") or {}):
        raise ConfigError(f"{key}={name}: that run has learned no such policy; expected one of the same policy=")
    return checkpoint


@contextmanager
def _of_load(name: str, key: str = _LOAD) -> Iterator[None]:
    """Inside, what is no policy for this run is bad input."""
    try:
        yield
    except EsperError as error:
        raise ConfigError(f"{key}={name}: {error}") from None


def _world(config: Mapping[str, Any]) -> World:
    """Task and host of a configuration, a host of one's own by its factory."""
    task, host = (dict(config.get(group) or {}) for group in ("task", "host"))
    own = {"host.factory": host["factory"]} if host.get("factory") else {"host": host.get("name")}
    return {key: str(value) for key, value in {"task": task.get("name"), **own}.items() if value}


def _choices(actions: Any) -> World:
    """The slots, blueprints and blends that these actions are about; nothing where they are not those of growth."""
    planting = [str(name).split(" ") for name in actions or () if str(name).startswith(Operation.GERMINATE.name)]
    if not planting or any(len(words) != 1 + len(_CHOICES) for words in planting):
        return {}
    _, *columns = zip(*planting, strict=True)
    return {key: _listed(dict.fromkeys(words)) for key, words in zip(_CHOICES, columns, strict=True)}


def _listed(names: Iterable[str]) -> str:
    return f"[{','.join(names)}]"


def _spelled(world: World) -> str:
    return " ".join(f"{key}={value}" for key, value in world.items())
