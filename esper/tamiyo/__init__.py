"""Control by rule, and what a controller sees: it decides, once an epoch, what each host plants, advances and culls."""

from esper.tamiyo.heuristic import HeuristicTamiyo
from esper.tamiyo.heuristic_config import HeuristicPolicyConfig
from esper.tamiyo.masks import legal_actions
from esper.tamiyo.random import RandomController, RandomPolicyConfig
from esper.tamiyo.registry import POLICIES, build_controller
from esper.tamiyo.scheduled import FixedSchedule, ScheduledPolicyConfig
from esper.tamiyo.settings import BLENDS, Catalogue, PolicyConfig
from esper.tamiyo.signals import SignalTracker, TrainingSignals
from esper.tamiyo.static import StaticController, StaticPolicyConfig

__all__ = [
    "BLENDS",
    "POLICIES",
    "Catalogue",
    "FixedSchedule",
    "HeuristicPolicyConfig",
    "HeuristicTamiyo",
    "PolicyConfig",
    "RandomController",
    "RandomPolicyConfig",
    "ScheduledPolicyConfig",
    "SignalTracker",
    "StaticController",
    "StaticPolicyConfig",
    "TrainingSignals",
    "build_controller",
    "legal_actions",
]
