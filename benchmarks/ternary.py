"""Tokens a second of a packed ternary decoder beside its float32 model, and of their layers alone.

    python -m benchmarks.ternary [--json FILE] [--rounds 7]

Both write on token by token, with what they have read kept: the float32 model by `Decoder.extend`, the packed one by
its native step. The ways take turns, round by round; a figure is the median. One thread.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from esper.engine.kernels import ternary
from esper.forge.bitnet.decoding import PackedDecoder
from esper.forge.bitnet.packing import pack_network, unpack_network
from esper.forge.bitnet.quantizer import quantize_layers
from esper.kasmina.decoder import Decoder
from esper.printing import say
from esper.tasks.task import named_generator

VOCAB = 264
SIZES: dict[str, dict[str, int]] = {
    "small": {"n_embd": 128, "n_head": 4, "n_layer": 4, "block_size": 128},
    "base": {"n_embd": 512, "n_head": 8, "n_layer": 8, "block_size": 256},
}
STEPS = 64  # tokens of a round


def packed_speed(sizes: Sequence[str] = ("small", "base"), sequences: Sequence[int] = (1, 16), rounds: int = 7) -> Any:
    """Rows of {size, sequences, what, float32, packed, ratio}: tokens a second, median over rounds.

    what: "decoder" (whole steps) or "layers" (the linear layers of one step alone).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            return [row for size in sizes for count in sequences for row in _rows(size, count, rounds)]
    finally:
        torch.set_num_threads(before)


def _rows(size: str, sequences: int, rounds: int) -> list[dict[str, Any]]:
    plain = Decoder(VOCAB, **SIZES[size], generator=named_generator(0, "benchmark"))
    quantized = quantize_layers(copy.deepcopy(plain))
    unpacked = unpack_network(copy.deepcopy(plain), pack_network(quantized, "int8"))
    packed = PackedDecoder.of(cast(Decoder, unpacked))
    tokens = torch.randint(256, (sequences, STEPS), generator=named_generator(0, "benchmark/tokens"))
    ways = {
        "decoder": (lambda: _write(plain, tokens), lambda: _write(packed, tokens)),
        "layers": (_through(plain, nn.Linear, sequences), _through(packed, None, sequences)),
    }
    rows = []
    for what, (float32, native) in ways.items():
        slow, fast = _take_turns(float32, native, rounds)
        rates = {"float32": sequences * STEPS / slow, "packed": sequences * STEPS / fast}
        rows.append({"size": size, "sequences": sequences, "what": what, **rates, "ratio": slow / fast})
    return rows


def _write(network: Any, tokens: Tensor) -> None:
    cache = network.new_cache()
    for step in range(STEPS):
        network.extend(tokens[:, step : step + 1], cache)


def _through(network: nn.Module, kind: type[nn.Module] | None, sequences: int) -> Callable[[], None]:
    """Every linear layer once a step, on features of its width."""
    modules = [module for name, module in network.named_modules() if name.startswith("layers.")]
    layers: list[Any] = [module for module in modules if hasattr(module, "in_features")]
    assert kind is None or all(isinstance(layer, kind) for layer in layers)
    widths = {layer.in_features for layer in layers}
    features = {width: torch.randn(sequences, width, generator=named_generator(width, "features")) for width in widths}

    def run() -> None:
        for _ in range(STEPS):
            for layer in layers:
                layer(features[layer.in_features])

    return run


def _take_turns(first: Callable[[], None], second: Callable[[], None], rounds: int) -> tuple[float, float]:
    """Median seconds of each; a round before them is not counted."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for way, times in zip((first, second), taken, strict=True):
            started = time.perf_counter()
            way()
            times.append(time.perf_counter() - started)
    return statistics.median(taken[0][1:]), statistics.median(taken[1][1:])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the rows there")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    rows = packed_speed(rounds=given.rounds)
    say(f"{ternary.load()[1]}; tokens a second, one thread")
    for row in rows:
        name = f"{row['size']:6} {row['sequences']:3} sequences  {row['what']:8}"
        say(f"{name} float32 {row['float32']:9,.0f}  packed {row['packed']:9,.0f}  x {row['ratio']:.1f}")
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
