"""The controllers that follow the policies by rule, each of which registers itself."""

from collections.abc import Sequence

from esper.leyline import Controller
from esper.leyline.protocols import BlueprintChooser
from esper.tamiyo import heuristic, random, scheduled, static
from esper.tamiyo.settings import POLICIES, Catalogue, PolicyConfig

__all__ = ["POLICIES", "build_controller", "heuristic", "random", "scheduled", "static"]


def build_controller(
    settings: PolicyConfig,
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
    return POLICIES.build(settings, catalogue=catalogue, slots=slots, seed=seed, chooser=chooser)
