"""The kinds of features at a slot, which say what can be planted there.

In each, B stands for the samples and C for the channels; along T (tokens) no position is shown those after it.
"""

TOPOLOGIES = {"cnn": "BCHW", "transformer": "BTC", "mlp": "BC", "cnn1d": "BCL"}


def channel_dim(topology: str) -> int:
    """Which dimension of the features holds the channels."""
    return TOPOLOGIES[topology].index("C")


def is_by_token(topology: str) -> bool:
    """Whether each token stands for itself: what is computed over several would tell of those to come."""
    return "T" in TOPOLOGIES.get(topology, "")


def shape_spelled(topology: str) -> str:
    """As in "[B, C, H, W]"."""
    return f"[{', '.join(TOPOLOGIES[topology])}]"
