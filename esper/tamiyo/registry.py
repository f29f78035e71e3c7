"""Policies by name, and the controllers that follow them."""

from collections.abc import Sequence

from esper.errors import ConfigError
from esper.leyline import Controller
from esper.leyline.protocols import BlueprintChooser
from esper.tamiyo.heuristic import HeuristicPolicyConfig, HeuristicTamiyo
from esper.tamiyo.random import RandomController, RandomPolicyConfig
from esper.tamiyo.scheduled import FixedSchedule, ScheduledPolicyConfig
from esper.tamiyo.settings import Catalogue, PolicySettings
from esper.tamiyo.static import StaticController, StaticPolicyConfig

POLICIES: dict[str, type[PolicySettings]] = {
    "heuristic": HeuristicPolicyConfig,
    "random": RandomPolicyConfig,
    "scheduled": ScheduledPolicyConfig,
    "static": StaticPolicyConfig,
}


def build_controller(
    settings: PolicySettings,
    catalogue: Catalogue,
    slots: Sequence[str],
    seed: int = 0,
    chooser: BlueprintChooser | None = None,
) -> Controller:
    """The controller for these settings.

    Args:
        catalogue: (blueprint, parameters) of everything that fits the host's topology.
        slots: slot names by depth.
        seed: the run's seed, for policies that draw.
        chooser: the curriculum, for a heuristic that asks for one.

    Raises:
        ConfigError: no policy has such settings, or they don't fit the slots. BlueprintError: one is named that does
        not fit the host.
    """
    match settings:
        case HeuristicPolicyConfig():
            return HeuristicTamiyo(catalogue, settings, chooser)
        case RandomPolicyConfig():
            return RandomController(catalogue, settings, seed)
        case ScheduledPolicyConfig():
            return FixedSchedule(catalogue, slots, settings)
        case StaticPolicyConfig():
            return StaticController()
    raise ConfigError(f"policy.name={settings.name!r}: expected one of {', '.join(POLICIES)}")
