"""Scores of bundles in a fresh process: whatever the one that compressed them still holds cannot be what is scored.

python -m esper.forge.compression.scoring TEXT.safetensors LENGTH THREADS SCORES.json BUNDLE [BUNDLE ...]
"""

import math
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from esper.checkpoint.plain import to_json
from esper.checkpoint.tensors import decode_tensors, encode_tensors
from esper.errors import ForgeError
from esper.files import read_bytes, read_object, write_atomic

_FIELDS = {"nats": float, "targets": float, "bytes": float, "hits": float, "load_s": float}


@dataclass(frozen=True, slots=True)
class BundleScore:
    """Sums over all domains' text: nats, tokens predicted, bytes that they stand for, hits. load_s: of reading it."""

    nats: float
    targets: float
    bytes: float
    hits: float
    load_s: float

    @property
    def bits_per_byte(self) -> float:
        """Cross-entropy in bits, by bytes of text."""
        return self.nats / self.bytes / math.log(2)

    @property
    def top1(self) -> float:
        """Share of tokens whose likeliest prediction was right."""
        return self.hits / self.targets

    def kept(self, before: "BundleScore") -> float:
        """exp(-ΔNLL) against what it was made of, in nats a token."""
        return math.exp(before.nats / before.targets - self.nats / self.targets)


def score_bundles(
    bundles: Sequence[Path], streams: Mapping[str, Tensor], length: int, folder: Path, threads: int, timeout_s: float
) -> list[BundleScore]:
    """Scores of bundles on text, from one process that is started for it.

    Args:
        streams: domain -> tokens [L].
        length: of a window.
        folder: for the files by which the processes talk; they are removed.

    Raises: ForgeError where the process fails, or takes longer.
    """
    text, answer = folder / "scored_text.safetensors", folder / "scores.json"
    write_atomic(text, *encode_tensors(streams)[0])
    arguments = [str(text), str(length), str(threads), str(answer), *map(str, bundles)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "esper.forge.compression.scoring", *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout_s,
        )  # fmt: skip
        if done.returncode:
            said = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            raise ForgeError(f"compression: the process that scores {bundles[0]} failed: {said[0][:300]}")
        found = read_object(answer, {"scores": list})["scores"]
        return [BundleScore(**{name: float(each[name]) for name in _FIELDS}) for each in found]
    except subprocess.TimeoutExpired:
        raise ForgeError(
            f"compression: scoring took longer than compression.score_timeout_s={timeout_s:g}; raise it"
        ) from None
    finally:
        text.unlink(missing_ok=True)
        answer.unlink(missing_ok=True)


def main(arguments: Sequence[str]) -> None:
    """See the module."""
    from esper.forge.bundles import load_language_model
    from esper.forge.evaluation import window_losses

    text, length, threads, answer, *bundles = arguments
    torch.set_num_threads(int(threads))
    streams = decode_tensors(read_bytes(text), {}, text)
    scores = []
    for bundle in bundles:
        started = time.perf_counter()
        model = load_language_model(bundle)
        load_s = time.perf_counter() - started
        found = [window_losses(model, stream, int(length)) for stream in streams.values()]
        sums = {name: sum(float(getattr(part, name).sum()) for part in found) for name in _FIELDS if name != "load_s"}
        scores.append(sums | {"load_s": load_s})
    write_atomic(Path(answer), to_json({"scores": scores}).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
