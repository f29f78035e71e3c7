"""A program whose jobs hang, deaf to all that asks them to stop. A script, as processes start it."""

import contextlib
import signal
import sys
import time
from pathlib import Path

from tests.sweep.app import sweep


def task(config):
    """Never end: what signals are ignored in a process of its own, and what they raise everywhere."""
    from hydra.core.hydra_config import HydraConfig

    if config.y == "ignore":
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    (Path(HydraConfig.get().runtime.output_dir) / "here").touch()
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(60)


if __name__ == "__main__":
    sys.exit(sweep(*sys.argv[1:], task=task))
