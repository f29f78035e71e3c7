"""A small program that Hydra runs, and that knows nothing of esper."""

import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig

from esper.sweep import SweepEnded, register


@dataclass
class Settings:
    """Its configuration."""

    x: int = 1
    y: str = "a"
    note: str = ""
    twice_x: str = "${x}${x}"
    does: str = "add"


def task(config):
    """Do as the configuration says."""
    print(f"x is {config.x}", flush=True)
    os.write(2, b"straight to the descriptor\n")
    folder = Path(HydraConfig.get().runtime.output_dir)
    with open(folder / "calls.txt", "a") as calls:
        calls.write(f"{os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\n")
    return DOES[config.does](config, folder)


@hydra.main(version_base="1.3", config_name="app", config_path=".")
def decorated(config):
    """As most programs have it."""
    return config.x


def add(config, folder):
    return {"sum": config.x + 0.5, "label": config.y, "nothing": float("nan"), "left out": [1]}


def fail_once(config, folder):
    """Fail in the first attempt, and in any whose x is 2."""
    if config.x == 2 and not (folder.parent / "mended").exists():
        raise ValueError("two is too many\nfor me")
    return config.x


def stop_at_two(config, folder):
    """Be interrupted while x is 2, the first time."""
    if config.x == 2 and not (folder / "stopped").exists():
        (folder / "stopped").touch()
        sys.exit(143)
    return config.x


def ctrl_c(config, folder):
    raise KeyboardInterrupt


def finish_at_ctrl_c(config, folder):
    """Be asked to stop when there is nothing left to stop."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
    signal.signal(signal.SIGINT, before)
    return config.x


def die(config, folder):
    """End without a word while x is 2."""
    if config.x == 2:
        os._exit(3)
    if config.x == 3:
        os.kill(os.getpid(), 9)
    return config.x


def remember(config, folder):
    """How many jobs this process has seen."""
    SEEN.append(config.x)
    return len(SEEN)


def wait(config, folder):
    """Take long enough to be met while under way."""
    (folder / "here").touch()
    time.sleep(30)


DOES = {f.__name__: f for f in (add, fail_once, stop_at_two, ctrl_c, finish_at_ctrl_c, die, remember, wait)}
SEEN: list[int] = []


def sweep(folder, *overrides, task=task):
    """Run the program with -m in this process; its exit code. What Hydra raises comes through."""
    register(volatile=["note"])
    ConfigStore.instance().store("app", Settings)
    fixed = ("hydra/sweeper=resumable", f"hydra.sweep.dir='{folder}'", "hydra.output_subdir=null")
    before = sys.argv
    sys.argv = ["app.py", "-m", *fixed, *overrides]
    environment = {"HYDRA_FULL_ERROR": "1"}
    os.environ.update(environment)
    try:
        with contextlib.ExitStack() as stack:
            stack.callback(setattr, sys, "argv", before)
            hydra.main(version_base="1.3", config_name="app", config_path=str(Path(__file__).parent))(task)()
    except SweepEnded as ended:
        return ended.code
    finally:
        del os.environ["HYDRA_FULL_ERROR"]
    return 0
