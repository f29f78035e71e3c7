"""Group `policy`: who decides what is planted, advanced and culled. The policies' own settings are the schemas."""

from collections import ChainMap
from collections.abc import Mapping
from typing import Any, cast

from esper.simic.iql.config import OFFLINE_LEARNERS
from esper.simic.on_policy.config import LEARNERS
from esper.simic.ppo.config import PPOPolicyConfig
from esper.simic.reinforce.config import ReinforcePolicyConfig
from esper.tamiyo.registry import POLICIES as RULES
from esper.tamiyo.settings import PolicyConfig

__all__ = [
    "POLICIES",
    "RULES",
    "PPOPolicyConfig",
    "PolicyConfig",
    "ReinforcePolicyConfig",
]  # each is declared by its module

# By rule, then what learns from runs, then what learns by acting: a chain lists its last map first.
POLICIES: Mapping[str, type[PolicyConfig]] = ChainMap(*cast(Any, (LEARNERS, OFFLINE_LEARNERS, RULES)))
