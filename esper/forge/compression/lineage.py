"""Where a bundle comes from, and how large it was: read from model cards alone."""

from pathlib import Path

from esper.checkpoint.bundle import bundle_paths
from esper.checkpoint.sidecar import read_sidecar
from esper.forge.architectures import build_network, plain_bytes
from esper.forge.bundles import bundle_stem, parent_path
from esper.forge.card import check_parents

_MOST_GENERATIONS = 16


def is_packed(path: Path) -> bool:
    """Whether a bundle's tensors are packed: those of a ternary model, alone or with experts."""
    card = read_sidecar(bundle_paths(path)[1])["metadata"]
    return bool(card.get("format") != "plain" and card.get("quantizer") is not None)


def find_plain(path: Path) -> Path | None:
    """The bundle itself where it is a plain, unquantised model; else the nearest of its parents that is, unaltered."""
    for _ in range(_MOST_GENERATIONS):
        path = bundle_stem(path)
        card = read_sidecar(bundle_paths(path)[1])["metadata"]
        if card.get("format") == "plain" and card.get("quantizer") is None:
            return path
        check_parents(card)
        known = [found for each in card["parents"] if (found := parent_path(path, each))]
        if not known:
            return None
        path = known[0]
    return None


def bytes_before(path: Path) -> int:
    """`plain_bytes` of a bundle's network, whatever its format."""
    return plain_bytes(build_network(read_sidecar(bundle_paths(path)[1])["config"]))
