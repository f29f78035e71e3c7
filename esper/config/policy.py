"""Group `policy`: who decides what is planted, advanced and culled. The policies' own settings are the schemas."""

from esper.simic.iql.config import IQLPolicyConfig
from esper.simic.ppo.config import PPOPolicyConfig
from esper.simic.reinforce.config import ReinforcePolicyConfig
from esper.tamiyo.registry import POLICIES as RULES
from esper.tamiyo.settings import PolicySettings

__all__ = ["POLICIES", "PolicySettings"]

POLICIES: dict[str, type[PolicySettings]] = {
    **RULES,
    "iql": IQLPolicyConfig,
    "ppo": PPOPolicyConfig,
    "reinforce": ReinforcePolicyConfig,
}
