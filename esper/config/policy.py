"""Group `policy`: who decides what is planted, advanced and culled. The policies' own settings are the schemas."""

from esper.tamiyo.registry import POLICIES
from esper.tamiyo.settings import PolicySettings

__all__ = ["POLICIES", "PolicySettings"]
