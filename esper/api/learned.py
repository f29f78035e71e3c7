"""Policies that were learned in runs, for a loop of one's own."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from esper.builders.loading import load_stored
from esper.builders.population import parameters_of
from esper.checks import did_you_mean
from esper.config.policy import POLICIES
from esper.errors import BlueprintError, ConfigError, EsperError, first_line
from esper.kasmina import BlueprintRegistry, SeedSlot
from esper.leyline import ActionLayout, Controller, Operation
from esper.simic.iql.config import IQLPolicyConfig
from esper.simic.iql.controller import IQLController
from esper.simic.iql.model import IQL
from esper.simic.on_policy.config import LEARNERS, LearnedPolicyConfig
from esper.simic.on_policy.controller import LearnedController
from esper.tamiyo.observation import ObservationEncoder
from esper.tamiyo.settings import PolicyConfig

_ACTING = ("deterministic", "act_by", "support", "blend")  # settings that count where nothing is learned
_FAMILIES = "_blueprints"  # and what IQL plants


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """What a run has learned. path: as it was given; settings: what it learned by, and how it is to act."""

    path: str
    settings: PolicyConfig
    tensors: Mapping[str, Tensor]
    plain: Mapping[str, Any]

    def build(
        self, topology: str, slots: Mapping[str, SeedSlot], blueprint_names: Sequence[str] | None, seed: int
    ) -> tuple[Controller, list[str]]:
        """The controller, and what may be planted by it. Args: slots: by depth; blueprint_names: None: what it knows.

        Raises: ConfigError where the policy has learned with other slots, or blueprints that are not here.
        """
        planted = [name.split() for name in self.plain.get("actions", ()) if name.startswith(Operation.GERMINATE.name)]
        known = list(dict.fromkeys(words[1] for words in planted))
        if planted and known != list(slots):
            raise ConfigError(
                f"policy={self.path}: it learned with the slots {', '.join(known)}, and here are {', '.join(slots)}\n"
                "  slots= has to name as many layers, by these names, from the input on"
            )
        own = list(dict.fromkeys(words[2] for words in planted)) or [
            spec.name for spec in BlueprintRegistry.list_specs(topology)
        ]
        wanted = own if blueprint_names is None else list(blueprint_names)
        try:
            catalogue = [
                (name, parameters_of(BlueprintRegistry.spec(topology, name), list(slots.values()))) for name in wanted
            ]
            return self._controller(catalogue, list(slots), seed), wanted
        except BlueprintError as error:
            raise ConfigError(f"policy={self.path}: it plants {', '.join(own)}; {first_line(error)}") from error
        except EsperError as error:
            raise ConfigError(f"policy={self.path}: {error}") from error

    def _controller(self, catalogue: list[tuple[str, int]], slots: list[str], seed: int) -> Controller:
        match self.settings:
            case LearnedPolicyConfig() as settings:
                encoder = ObservationEncoder(slots, catalogue)
                layout = ActionLayout(tuple(slots), tuple(name for name, _ in catalogue), tuple(settings.blends))
                learner = LEARNERS.build(settings, features=encoder.names, layout=layout, seed=seed)
                learner.load_state(self.tensors, self.plain, policy_only=True)
                return LearnedController(learner, encoder, layout, settings.deterministic, seed)
            case IQLPolicyConfig() as settings:
                return IQLController(IQL.from_state(self.tensors, self.plain), catalogue, settings)
        raise ConfigError(f"policy={self.path}: a policy of another kind")


def read_stored(path: str, options: Mapping[str, Any]) -> StoredPolicy:
    """The policy in a run's newest checkpoint, or in a file of its own.

    Args: options: of how it acts. Raises: ConfigError where there is none, or no such option of it.
    """
    tensors, plain = load_stored(path, "policy")
    kind = POLICIES.get(str(plain.get("kind")))
    if kind is None:
        raise ConfigError(f"policy={path}: holds a policy of the kind {plain.get('kind')!r}, which is not known here")
    names = [field.name for field in fields(kind) if field.name in _ACTING or field.name.endswith(_FAMILIES)]
    check_options(path, options, names)
    try:
        return StoredPolicy(path, replace(kind(**plain.get("settings", {})), **options), tensors, plain)
    except TypeError as error:
        raise ConfigError(f"policy={path}, {dict(options)}: {first_line(error)}") from error


def is_stored(policy: str) -> bool:
    """Whether it is a place where a policy may be, and not a name."""
    return Path(policy).exists() or "/" in policy or bool(Path(policy).suffix)


def check_options(policy: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Raise ConfigError where an option is given that the policy does not have."""
    for name in given:
        if name not in known:
            raise ConfigError(
                f"{name}: neither Grower nor policy={policy!r} has such an option{did_you_mean(name, known)}\n"
                f"  the policy has: {', '.join(known) or 'none'}"
            )
