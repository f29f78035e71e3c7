"""Networks by name: what a bundle says of its network is a name, plain arguments, and what has grown in it."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import nn

from esper.checks import in_range, is_number, is_whole, require
from esper.errors import CheckpointError, EsperError, first_line
from esper.kasmina import Decoder
from esper.kasmina.decoder import hidden_width
from esper.registry import Registry

_MEMORY_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # of this machine
_GROWN: dict[str, type | tuple[type, ...]] = {"slot": str, "blueprint": str, "max_ratio": (int, float)}


@dataclass(frozen=True, kw_only=True)
class DecoderArchitecture:
    """Arguments of `esper.kasmina.decoder.Decoder`, and the blueprints in its slots: see `Decoder.settle`."""

    vocab_size: int
    n_embd: int
    n_head: int
    n_layer: int
    block_size: int
    window: int | None = None
    growth: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        bounds = {"vocab_size": 1 << 24, "n_embd": 16_384, "n_head": 1024, "n_layer": 256, "block_size": 65_536}
        for name, most in bounds.items():
            value = getattr(self, name)
            require(is_whole(value), name, value, "a whole number")
            in_range(name, value, 1, most)
        layer = self.n_embd * (4 * self.n_embd + 3 * hidden_width(self.n_embd))
        weights_bytes = 4 * (self.vocab_size * self.n_embd + self.n_layer * layer)
        fits = weights_bytes <= _MEMORY_BYTES
        require(fits, "n_embd", self.n_embd, f"weights that fit into memory, and these are {weights_bytes:,} bytes")
        if self.window is not None:
            require(is_whole(self.window), "window", self.window, "a whole number, or null")
        for entry in self.growth:
            fits = isinstance(entry, Mapping) and entry.keys() == _GROWN.keys()
            fits = fits and all(isinstance(entry[key], kind) for key, kind in _GROWN.items())
            require(fits and is_number(entry["max_ratio"]), "growth", entry, f"entries with {', '.join(_GROWN)}")


ARCHITECTURES: "Registry[DecoderArchitecture, nn.Module]" = Registry("architecture", error=CheckpointError)


@ARCHITECTURES.register("decoder", DecoderArchitecture)
def build_decoder(config: DecoderArchitecture) -> nn.Module:
    """A decoder, with what has grown in it as plain modules; its weights are drawn, to be replaced."""
    arguments = asdict(config)
    growth = arguments.pop("growth")
    network = Decoder(**arguments)
    for entry in growth:
        network.settle(**entry)
    return network


def build_network(architecture: Mapping[str, Any]) -> nn.Module:
    """The network that a bundle describes.

    Args: architecture: {"name", "arguments", "growth" where there is any}, as `Decoder.architecture` says it. Raises:
    CheckpointError, in a line, on a name or argument that there is not, or a value out of its range.
    """
    name, arguments = architecture.get("name"), architecture.get("arguments")
    growth = architecture.get("growth", [])
    if not isinstance(name, str) or not isinstance(arguments, Mapping) or not isinstance(growth, list):
        raise CheckpointError("its architecture is no name with arguments")
    ARCHITECTURES.builder(name)
    known = [field.name for field in fields(ARCHITECTURES[name]) if field.name != "growth"]
    if unknown := [key for key in arguments if key not in known]:
        raise CheckpointError(f"architecture {name!r} has no argument {unknown[0]!r}; it has {', '.join(known)}")
    try:
        return ARCHITECTURES.build(ARCHITECTURES[name](**arguments, growth=tuple(growth)), name)
    except (EsperError, TypeError) as error:
        raise CheckpointError(f"architecture {name!r}: {first_line(error)}") from error


def plain_bytes(network: nn.Module) -> int:
    """Bytes of all parameters in float32, tied ones counted once: what ratios are taken of."""
    return 4 * sum(parameter.numel() for parameter in network.parameters())
