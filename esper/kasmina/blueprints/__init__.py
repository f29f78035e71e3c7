"""The catalogue of seeds: what can be planted into which kind of host."""

from esper.kasmina.blueprints import cnn  # registers the convolutional blueprints
from esper.kasmina.blueprints.registry import REFERENCE_WIDTH, BlueprintRegistry, BlueprintSpec

__all__ = ["REFERENCE_WIDTH", "BlueprintRegistry", "BlueprintSpec", "cnn"]
