"""Sweeps that survive: a Hydra sweeper, and launchers that go with it, of use to any program that Hydra runs.

Of esper they need files and errors alone. `register()` makes them known to Hydra; then `hydra/sweeper=resumable`. See
docs/sweeps.md.
"""

from collections.abc import Sequence

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.plugin import Plugin

from esper.sweep.errors import JobError, SweepEnded, SweepError
from esper.sweep.jobs import FAILED, FINISHED, INTERRUPTED, JobFile, composed_job, job_folder, job_return
from esper.sweep.local_launcher import LocalLauncher, LocalLauncherConfig
from esper.sweep.ray_launcher import RayLauncher, RayLauncherConfig
from esper.sweep.sweeper import ResumableSweeper, ResumableSweeperConfig
from esper.sweep.tracked import TrackedTask

__all__ = [
    "FAILED",
    "FINISHED",
    "INTERRUPTED",
    "JobError",
    "JobFile",
    "LocalLauncher",
    "RayLauncher",
    "ResumableSweeper",
    "SweepEnded",
    "SweepError",
    "TrackedTask",
    "composed_job",
    "job_folder",
    "job_return",
    "register",
    "register_plugin",
]


def register(volatile: Sequence[str] = (), preload: Sequence[str] = ()) -> None:
    """Make sweeper and launchers known to Hydra; safe to call again.

    volatile: keys and groups that do not tell jobs apart. preload: modules that hydra/launcher=local imports once, for
    all jobs.
    """
    register_plugin("hydra/sweeper", "resumable", ResumableSweeper, ResumableSweeperConfig(volatile=list(volatile)))
    register_plugin("hydra/launcher", "local", LocalLauncher, LocalLauncherConfig(preload=list(preload)))
    register_plugin("hydra/launcher", "ray", RayLauncher, RayLauncherConfig())


def register_plugin(group: str, name: str, plugin: type[Plugin], settings: object) -> None:
    """Make a plugin known to Hydra as `group=name`.

    settings: an instance of the dataclass that is the option's schema; its `_target_` is "hydra_plugins." and the full
    name of the class.
    """
    plugins = Plugins.instance()
    plugins.register(plugin)
    # Hydra makes plugins of packages below hydra_plugins only; this one need not be there.
    plugins.class_name_to_class[f"hydra_plugins.{plugin.__module__}.{plugin.__qualname__}"] = plugin
    ConfigStore.instance().store(group=group, name=name, node=settings, provider="esper.sweep")
