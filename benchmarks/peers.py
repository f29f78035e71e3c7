"""Prioritised replay buffers of other libraries, filled and driven alike (`pip install -e '.[bench]'`)."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

Transitions = dict[str, NDArray]  # states, actions, rewards, next_states, dones, priorities; [T, ...]
ALPHA, BETA = 0.6, 0.4


def tianshou_step(data: Transitions, batch_size: int, priorities: NDArray) -> Callable[[], object]:
    """One sample and update of tianshou's buffer, as a call."""
    from tianshou.data import Batch, PrioritizedReplayBuffer

    count = len(data["rewards"])
    buffer = PrioritizedReplayBuffer(count, alpha=ALPHA, beta=BETA)
    never = np.zeros(count, bool)
    buffer.set_batch(
        Batch(
            obs=data["states"],
            act=data["actions"],
            rew=data["rewards"],
            obs_next=data["next_states"],
            done=data["dones"],
            terminated=data["dones"],
            truncated=never,
            info=Batch(),
            policy=Batch(),
        )
    )
    buffer._size = count
    buffer.update_weight(np.arange(count), data["priorities"])

    def step() -> None:
        _, indices = buffer.sample(batch_size)
        buffer.update_weight(indices, priorities)

    return step


def torchrl_step(data: Transitions, batch_size: int, priorities: NDArray) -> Callable[[], object]:
    """One sample and update of TorchRL's buffer (the plain one, faster than the one for TensorDicts), as a call."""
    _load_torchrl_extension()
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, PrioritizedReplayBuffer

    count = len(data["rewards"])
    storage = LazyTensorStorage(count)
    buffer = PrioritizedReplayBuffer(alpha=ALPHA, beta=BETA, storage=storage, batch_size=batch_size)
    fields = {name: torch.from_numpy(values) for name, values in data.items() if name != "priorities"}
    buffer.extend(TensorDict(fields, batch_size=[count]))
    buffer.update_priority(torch.arange(count), torch.from_numpy(data["priorities"]).float())
    new = torch.from_numpy(priorities).float()

    def step() -> None:
        _, info = buffer.sample(return_info=True)
        buffer.update_priority(info["index"], new)

    return step


def _load_torchrl_extension() -> None:
    """TorchRL's wheels are compiled for one version of torch each; for another, compile the sources they carry."""
    found = importlib.util.find_spec("torchrl")
    if found is None:
        raise ImportError("No module named 'torchrl'")
    package = Path(found.origin).parent
    try:
        return _load(next(package.glob("_torchrl*.so")))
    except (ImportError, StopIteration):
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "esper"
    library = cache / f"torchrl-{importlib.metadata.version('torchrl')}-torch-{torch.__version__}.so"
    if not library.exists():
        print("Compiling TorchRL's segment trees for this torch (a minute or two, once)", file=sys.stderr)
        _compile(package, library)
    _load(library)


def _load(library: Path) -> None:
    spec = importlib.util.spec_from_file_location("torchrl._torchrl", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[spec.name] = module


def _compile(package: Path, library: Path) -> None:
    from torch.utils.cpp_extension import include_paths

    library.parent.mkdir(parents=True, exist_ok=True)
    partial = library.with_suffix(f".{os.getpid()}.tmp")
    folders = [*include_paths(), sysconfig.get_paths()["include"]]
    subprocess.run(
        [
            *(os.environ.get("CXX", "g++"), "-O3", "-march=native", "-std=c++20", "-fPIC", "-shared"),
            *("-DTORCH_EXTENSION_NAME=_torchrl", f"-I{package.parent}", *(f"-isystem{path}" for path in folders)),
            *(str(package / "csrc" / "pybind.cpp"), str(package / "csrc" / "utils.cpp"), "-o", str(partial)),
            *(f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10", "-ltorch_python"),
        ],
        check=True,
    )
    partial.replace(library)
