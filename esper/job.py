"""What Hydra calls, in whatever process: one run in the folder that it was given."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from esper.config.composing import finish
from esper.config.telemetry import require_packages
from esper.errors import EsperError, RunError, RunExistsError
from esper.files import read_object
from esper.files.marks import holds_run
from esper.files.records import RUN_FILE
from esper.planned import planned
from esper.printing import complain
from esper.study.rows import mean
from esper.sweep.terminal import shown

FIGURES = ("test_accuracy", "test_bits_per_byte", "parameters")


class Job:
    """The task function of `esper.run`; in a sweep it continues what lies in its folder."""

    def __call__(self, composed: DictConfig) -> dict[str, float] | None:
        """Start or continue the run; its figures. Leaves by SystemExit, with its exit code, where it did not finish."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        hydra = HydraConfig.get()
        folder = shown(Path(hydra.runtime.output_dir))
        is_taken, is_sweep = holds_run(folder), hydra.mode == RunMode.MULTIRUN
        try:
            plan = planned(composed, hydra, folder)
            if is_taken and not is_sweep:
                raise RunExistsError(folder)
            plan.config.check_names()
            from esper.drive import resume, start  # here, since it loads torch

            if is_taken:
                telemetry = plan.config.telemetry
                view = [f"telemetry.console={telemetry.console}", f"telemetry.report={str(telemetry.report).lower()}"]
                code = resume(folder, view)
            else:
                code = start(plan.config, folder, plan.overrides, plan.options, plan.sweep)
        except EsperError as error:
            raise SystemExit(complain(error)) from error
        record = read_object(folder / RUN_FILE)
        if code:
            raise SystemExit(code) from RunError(record.get("error") or f"stopped at epoch {record.get('epoch')}")
        return figures(record)

    @staticmethod
    def check(composed: DictConfig) -> None:
        """Refuse a configuration before anything is run. Raises ConfigError or OmegaConf's errors."""
        require_packages(finish(composed).telemetry)


def figures(record: Mapping[str, Any]) -> dict[str, float] | None:
    """What a sweep shows of a finished run's run.json: means over grown members, and what growing was worth."""
    summary = record.get("summary")
    if not summary or record.get("status") != "finished":
        return None
    grown, difference = summary["grown"], summary["difference"] or {}
    found = {name: mean(grown[name]) for name in FIGURES if name in grown}
    found["gain"] = (difference.get("test_accuracy") or {}).get("mean")
    return {name: value for name, value in found.items() if value is not None}
