"""The body: one network that grows. Hosts, slots, seeds and their states, blueprints, blending, isolation, gates."""

from esper.kasmina.blueprints import BlueprintRegistry
from esper.kasmina.gates import GateConfig, QualityGates
from esper.kasmina.host import CNNHost, Decoder, MLPHost, MorphogeneticModel, ResNetHost, TransformerHost, ViTHost
from esper.kasmina.slot import SeedSlot, SlotConfig
from esper.kasmina.state import SeedState

__all__ = [
    "BlueprintRegistry",
    "CNNHost",
    "Decoder",
    "GateConfig",
    "MLPHost",
    "MorphogeneticModel",
    "QualityGates",
    "ResNetHost",
    "SeedSlot",
    "SeedState",
    "SlotConfig",
    "TransformerHost",
    "ViTHost",
]
