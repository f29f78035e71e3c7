"""`esper.launch`: a run as on the command line, in this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, RLock
from typing import Any

import torch

from esper.api.handle import RunHandle
from esper.api.overrides import as_overrides
from esper.config.composing import compose_with_hydra, explained
from esper.config.sources import check_sources
from esper.errors import ConfigError, EsperError, of_machine
from esper.kasmina.seeding import undisturbed_streams
from esper.runner.launch import launch as bring_to_end
from esper.runner.spec import run_spec
from esper.runner.task import check_folder, remove_empty

_COMPOSING = Lock()  # Hydra composes one configuration at a time
_RUNNING = RLock()  # torch's threads and the global random numbers are one run's at a time


def launch(*overrides: str, **keywords: Any) -> RunHandle:
    """Start a run and return when it has ended: `esper.launch("host=cnn", "policy=heuristic", epochs=10)`.

    It is what `python -m esper.run` with the same words is, with the same folder and figures, and shows the same
    (`telemetry={"console": "off"}`: nothing). Torch's threads, global random numbers, signal handlers and Hydra are
    left as they were, so it can be called again, from a notebook or from a thread; from several threads, one run waits
    for the other.

    Args:
        overrides: as on the command line: "policy=ppo", "engine.members=4", "hydra.run.dir=FOLDER".
        keywords: the same in Python's words: `epochs=10`, `policy="ppo"`, `engine={"members": 4}`; a dotted key is
            `**{"engine.members": 4}`. They come after the overrides.

    Returns: the run, finished.

    Raises:
        EsperError: what is asked for cannot be (nothing is left behind then), or the run failed; its folder says why.
        KeyboardInterrupt: Ctrl-C, after the run is saved; `esper resume RUN` goes on with it.
    """
    words = [*overrides, *as_overrides(keywords)]
    for word in words:
        if not isinstance(word, str) or word.startswith("-"):
            raise ConfigError(
                f"launch: {word}: expected overrides, such as 'host=cnn'; sweeps and flags are for python -m esper.run"
            )
    check_folder(words)
    with _COMPOSING:
        composed, hydra = compose_with_hydra(words)
        folder = Path(hydra.run.dir)
        with explained(words):
            spec = run_spec(composed, hydra, folder)
    check_folder([f"hydra.run.dir={folder}"])
    spec.config.check_names()
    check_sources(spec.config)
    place = folder.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _RUNNING, _surroundings_kept():
            bring_to_end(spec)
    except EsperError:
        remove_empty(folder)
        raise
    except (OSError, MemoryError) as error:
        raise of_machine(error) from error
    return RunHandle(place)


@contextmanager
def _surroundings_kept() -> Iterator[None]:
    """What a process of its own would lose with its end is here as it was before."""
    threads = torch.get_num_threads()
    device = torch.device("cuda") if torch.cuda.is_available() else None
    try:
        with undisturbed_streams(device):
            yield
    finally:
        torch.set_num_threads(threads)
