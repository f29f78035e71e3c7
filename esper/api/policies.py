"""Who decides in a loop of one's own: a rule, or a policy that was learned."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from esper.api.learned import StoredPolicy, check_options, is_stored, read_stored
from esper.builders.policy import build_curriculum
from esper.builders.population import parameters_of
from esper.checks import did_you_mean
from esper.config.policy import POLICIES as ALL_POLICIES
from esper.errors import BlueprintError, ConfigError
from esper.kasmina import BlueprintRegistry, SeedSlot
from esper.leyline import Controller
from esper.tamiyo.registry import POLICIES, build_controller
from esper.tamiyo.settings import PolicyConfig


def policy_settings(policy: str, options: Mapping[str, Any]) -> PolicyConfig | StoredPolicy:
    """The settings of a rule, or a policy that was learned.

    Args: policy: the rule's name, or the run or file that the other is in. Raises: ConfigError where there is none, or
    no such option, or value, of it.
    """
    if isinstance(policy, str) and policy in POLICIES:
        return _rule_settings(policy, options)
    if policy in ALL_POLICIES:
        raise ConfigError(f"policy={policy!r}: name the run that it has learned in, as in policy='outputs/NAME/ID'")
    if isinstance(policy, str | Path) and is_stored(str(policy)):
        return read_stored(str(policy), options)
    known = ", ".join(POLICIES)
    raise ConfigError(
        f"policy={policy!r}: expected one of {known}, or the run in which one was learned"
        f"{did_you_mean(str(policy), POLICIES)}"
    )


def _rule_settings(policy: str, options: Mapping[str, Any]) -> PolicyConfig:
    kind = POLICIES[policy]
    check_options(policy, options, [field.name for field in fields(kind) if field.name != "name"])
    try:
        return kind(name=policy, **options)
    except TypeError as error:  # of a value that is compared with a number, and is none
        raise ConfigError(f"policy={policy!r}, {dict(options)}: {error}") from error


def build_policy(
    settings: PolicyConfig | StoredPolicy,
    topology: str,
    slots: Mapping[str, SeedSlot],
    blueprint_names: Sequence[str] | None,
    seed: int,
) -> tuple[Controller, list[str]]:
    """Who decides, and what may be planted.

    Args: slots: by depth; blueprint_names: None: all. Raises: BlueprintError on a name that the topology does not
    have, ConfigError where the policy does not fit the slots.
    """
    if blueprint_names is not None:
        if isinstance(blueprint_names, str):
            raise BlueprintError(f"blueprint_names={blueprint_names}: expected a list, as in [{blueprint_names!r}]")
        if not blueprint_names:
            raise BlueprintError("blueprint_names=[]: expected at least one, or None for all")
        blueprint_names = [BlueprintRegistry.spec(topology, name).name for name in blueprint_names]
    if isinstance(settings, StoredPolicy):
        return settings.build(topology, slots, blueprint_names, seed)
    specs = BlueprintRegistry.list_specs(topology)
    if blueprint_names is not None:
        specs = [spec for spec in specs if spec.name in blueprint_names]
    catalogue = [(spec.name, parameters_of(spec, list(slots.values()))) for spec in specs]
    chooser = build_curriculum(settings, catalogue)
    return build_controller(settings, catalogue, list(slots), seed, chooser), [name for name, _ in catalogue]
