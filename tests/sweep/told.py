"""A program whose jobs tell what they see. A script, so that its task is not importable where jobs run."""

import os
import signal
import sys
import time
from pathlib import Path

from tests.sweep.app import sweep


def task(config):
    """Tell what there is, or wait: politely, or deaf to Ctrl-C."""
    from hydra.core.hydra_config import HydraConfig

    if config.y == "look":
        return look()
    if config.x == 2:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    (Path(HydraConfig.get().runtime.output_dir) / "here").touch()
    for _ in range(600):  # Ray's Ctrl-C does not end a sleep
        time.sleep(0.1)


def look():
    import ray
    from beside import VALUE  # of a folder that only the sweep's own process was told of

    return {
        "pid": os.getpid(),
        "folder": os.getcwd(),
        "threads": os.environ["OMP_NUM_THREADS"],
        "beside": VALUE,
        "copied": os.environ.get("COPIED"),
        "uploaded": str(ray.get_runtime_context().runtime_env),
    }


if __name__ == "__main__":
    sys.exit(sweep(*sys.argv[1:], task=task))
