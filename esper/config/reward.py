"""Group `reward`: what a policy that learns is to reach. The rewards' own settings are the schemas."""

from esper.simic.rewards.config import REWARDS, RewardSettings

__all__ = ["REWARDS", "RewardSettings"]
