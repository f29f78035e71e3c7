"""Files that would create another file if what they hold were run."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch


class Touch:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.path}'",)


def evil_files(folder: Path) -> tuple[dict[str, Path], Path]:
    """Malicious files of every layout, and the file whose appearance proves that one of them was run."""
    proof = folder / "proof"
    files = {name: folder / f"{name}.pt" for name in ("zip", "legacy", "bare", "bare_text", "cut", "header", "weights")}
    payload = {"epoch": 1, "metadata": [{"hook": Touch(proof)}]}
    torch.save(payload, files["zip"])
    torch.save(payload, files["legacy"], _use_new_zipfile_serialization=False)
    files["bare"].write_bytes(pickle.dumps(payload, 4))
    files["bare_text"].write_bytes(pickle.dumps(payload, 0))
    files["cut"].write_bytes(pickle.dumps(payload, 2)[:-1])
    magic, version = (pickle.dumps(number, 2) for number in (0x1950A86A20F9469CFC6C, 1001))
    rest = pickle.dumps({}, 2) + pickle.dumps([], 2)
    files["header"].write_bytes(magic + version + pickle.dumps(Touch(proof), 2) + rest)
    torch.save({"model_state_dict": {"w": torch.ones(2)}, "note": Touch(proof)}, files["weights"])
    return files, proof
