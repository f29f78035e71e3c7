"""The catalogue of seeds: what can be planted into which kind of host."""

from esper.kasmina.blueprints import cnn, cnn1d, mlp, transformer  # each registers its own
from esper.kasmina.blueprints.registry import REFERENCE_WIDTH, BlueprintRegistry

__all__ = ["REFERENCE_WIDTH", "BlueprintRegistry", "cnn", "cnn1d", "mlp", "transformer"]
