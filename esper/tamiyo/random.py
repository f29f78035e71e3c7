"""Growth by chance, the baseline that any controller must beat."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from esper.errors import ConfigError
from esper.files import checked
from esper.leyline import WAIT, Action, EpochReport
from esper.tamiyo.masks import legal_actions
from esper.tamiyo.settings import BLENDS, POLICIES, Catalogue, PolicyConfig, check_blend, check_within


@dataclass(kw_only=True)
class RandomPolicyConfig(PolicyConfig):
    """act_probability: of doing anything in an epoch. blends: the blend algorithms to draw from."""

    name: str = "random"
    act_probability: float = 0.3
    blends: list[str] = field(default_factory=lambda: list(BLENDS))

    def __post_init__(self) -> None:
        check_within("act_probability", self.act_probability, 0.0, 1.0)
        if not self.blends:
            raise ConfigError(f"policy.blends=[]: expected at least one of {', '.join(BLENDS)}")
        for blend in self.blends:
            check_blend("blends", blend)


class RandomController:
    """Acts with a fixed probability, then evenly among the legal actions.

    Every decision has a stream of its own, made from the seed, the member and the epoch: a member's decisions do not
    depend on how many members there are, and there is no state but the seed.
    """

    def __init__(self, catalogue: Catalogue, config: RandomPolicyConfig | None = None, seed: int = 0) -> None:
        self.config = config or RandomPolicyConfig()
        self._blueprints = [name for name, _ in catalogue]
        self._seed = seed

    def act(self, reports: Sequence[EpochReport]) -> list[Action]:
        """One action a report, in the same order."""
        return [self._decide(report) for report in reports]

    def state_dict(self) -> dict[str, Any]:
        """The seed."""
        return {"seed": self._seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken."""
        self._seed = checked(state["seed"], int, "seed")

    def _decide(self, report: EpochReport) -> Action:
        draw = random.Random(f"{self._seed}/{report.member}/{report.epoch}")
        _, *deeds = legal_actions(report, self._blueprints, self.config.blends)
        if not deeds or draw.random() >= self.config.act_probability:
            return WAIT
        chosen = draw.choice(deeds)
        why = f"one of {len(deeds)} legal actions"
        return Action(chosen.operation, chosen.slot, chosen.blueprint, chosen.blend, why)


@POLICIES.register("random", RandomPolicyConfig)
def build_random(config: RandomPolicyConfig, catalogue: Catalogue, seed: int = 0) -> RandomController:
    """Chance, by the run's seed."""
    return RandomController(catalogue, config, seed)
