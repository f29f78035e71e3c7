"""No growth: what the hosts reach on their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from esper.leyline import WAIT, Action, EpochReport
from esper.tamiyo.settings import POLICIES, PolicyConfig


@dataclass(kw_only=True)
class StaticPolicyConfig(PolicyConfig):
    """Nothing to set."""

    name: str = "static"


class StaticController:
    """Always waits."""

    def act(self, reports: Sequence[EpochReport]) -> list[Action]:
        """One wait a report."""
        return [WAIT] * len(reports)

    def state_dict(self) -> dict[str, Any]:
        """Empty: nothing is remembered."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


@POLICIES.register("static", StaticPolicyConfig)
def build_static(config: StaticPolicyConfig) -> StaticController:
    """No growth."""
    return StaticController()
