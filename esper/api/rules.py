"""Policies by rule, for a loop that tells them scores."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from esper.builders.policy import build_curriculum
from esper.builders.population import parameters_of
from esper.checks import did_you_mean
from esper.config.policy import POLICIES as ALL_POLICIES
from esper.errors import BlueprintError, ConfigError
from esper.kasmina import BlueprintRegistry, SeedSlot
from esper.leyline import Controller
from esper.tamiyo.registry import POLICIES, build_controller
from esper.tamiyo.settings import PolicyConfig


def rule_settings(policy: str, options: Mapping[str, Any]) -> PolicyConfig:
    """The settings of a rule. Raises: ConfigError where there is no such rule, or no such option, or value, of it."""
    known = ", ".join(POLICIES)
    if policy in ALL_POLICIES and policy not in POLICIES:
        raise ConfigError(
            f"policy={policy!r}: it learned on whole runs, and a loop of one's own does not tell it all that it saw "
            f"there; use one of {known}"
        )
    if not isinstance(policy, str) or policy not in POLICIES:
        raise ConfigError(f"policy={policy!r}: expected one of {known}{did_you_mean(str(policy), POLICIES)}")
    kind = POLICIES[policy]
    names = [field.name for field in fields(kind) if field.name != "name"]
    for name in options:
        if name not in names:
            raise ConfigError(
                f"{name}: neither Grower nor policy={policy!r} has such an option{did_you_mean(name, names)}\n"
                f"  the policy has: {', '.join(names) or 'none'}"
            )
    try:
        return kind(name=policy, **options)
    except TypeError as error:  # of a value that is compared with a number, and is none
        raise ConfigError(f"policy={policy!r}, {dict(options)}: {error}") from error


def build_rule(
    settings: PolicyConfig,
    topology: str,
    slots: Mapping[str, SeedSlot],
    blueprint_names: Sequence[str] | None,
    seed: int,
) -> tuple[Controller, list[str]]:
    """The rule, and what may be planted by it.

    Args: slots: by depth; blueprint_names: None: all. Raises: BlueprintError on a name that the topology does not
    have, ConfigError where the settings do not fit the slots.
    """
    specs = BlueprintRegistry.list_specs(topology)
    if blueprint_names is not None:
        if isinstance(blueprint_names, str):
            raise BlueprintError(f"blueprint_names={blueprint_names}: expected a list, as in [{blueprint_names!r}]")
        if not blueprint_names:
            raise BlueprintError("blueprint_names=[]: expected at least one, or None for all")
        wanted = {BlueprintRegistry.spec(topology, name).name for name in blueprint_names}
        specs = [spec for spec in specs if spec.name in wanted]
    catalogue = [(spec.name, parameters_of(spec, list(slots.values()))) for spec in specs]
    chooser = build_curriculum(settings, catalogue)
    return build_controller(settings, catalogue, list(slots), seed, chooser), [name for name, _ in catalogue]
