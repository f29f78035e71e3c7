"""`RunHandle`: a run that is there, as an object."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from esper.api.tables import events_table, metrics_table
from esper.config.composing import read_values
from esper.errors import FormatError, RunError
from esper.files import fitting, read_object
from esper.files.records import CONFIG_FILE, REPORT_FILE, RUN, RUN_FILE
from esper.leyline import SCORE_KINDS
from esper.study.runs.index import settled_row

if TYPE_CHECKING:
    import pandas
    from torch import nn


class RunHandle:
    """A run in its folder. What is asked of it is read there when it is asked, so a run under way can be watched.

    `esper.launch`, `esper.open_run` and `esper.runs` give them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def status(self) -> str:
        """queued, running, finished, failed, interrupted, or killed."""
        return str(settled_row(self.folder)["status"])

    @property
    def summary(self) -> Mapping[str, Any]:
        """What a finished run came to: `["grown"]["test_accuracy"]`, a figure a member in percent; else empty.

        `["twin"]` has the same of the static twins, `["difference"]["test_accuracy"]` their mean difference with its
        95% interval (`mean`, `low`, `high`, in points); `["final"]` and `["final_difference"]` of the final networks,
        where there are any. `["seeds"]` says how many were planted, culled and fossilised.

        Raises: RunError where run.json is missing or damaged.
        """
        path = self.folder / RUN_FILE
        try:
            return fitting(read_object(path), RUN)[0].get("summary") or {}
        except (OSError, FormatError) as error:
            raise RunError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error

    @property
    def config(self) -> DictConfig:
        """The whole configuration, read only: `run.config.policy.name` or `run.config["policy"]["name"]`."""
        config = OmegaConf.create(read_values(self.folder / CONFIG_FILE))
        OmegaConf.set_readonly(config, True)
        return config

    def metrics(self) -> "pandas.DataFrame":
        """One row a member and epoch, grown members before their twins; epoch 0 is the untrained host.

        The columns are what metrics.jsonl has of a member (`val_accuracy`, `parameter_count`, `slots.mid.stage`, ...),
        then what it has of the epoch (`wall_s`, ...); docs/metrics.md says what each is.

        Raises: EsperError where pandas is not installed, RunError where the run writes no lines.
        """
        return metrics_table(self.folder)

    def events(self) -> "pandas.DataFrame":
        """One row a thing that happened: `type`, `epoch`, `member`, `slot`, `seed`, `message`, `data.*`. Raises: as of
        `metrics`.
        """
        return events_table(self.folder)

    def member(self, number: int = 0) -> "nn.Module":
        """A member as a plain module in evaluation mode, as the newest checkpoint has it: `esper.load_member`."""
        from esper.runner.checkpointing import load_member

        return load_member(self.folder, number)

    def report(self) -> Path:
        """report.html, which is drawn first where it is not there yet."""
        path = self.folder / REPORT_FILE
        if path.is_file():
            return path
        from esper.nissa import write_report

        return write_report(self.folder)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunHandle) and other.folder.resolve() == self.folder.resolve()

    def __hash__(self) -> int:
        return hash(self.folder.resolve())

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} {value}" for name, value in self._facts().items())
        return f"<run {self.folder}: {facts}>"

    def _repr_html_(self) -> str:
        """A small table, as notebooks show it."""
        facts = {"folder": str(self.folder), **self._facts()}
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items())
        return f"<table>{rows}</table>"

    def _facts(self) -> dict[str, str]:
        row = settled_row(self.folder)
        facts = {name: str(row[name]) for name in ("status", "task", "host", "policy") if row[name]}
        if row["max_epochs"]:
            facts["epoch"] = f"{row['epoch'] or 0} of {row['max_epochs']}"
        for kind in SCORE_KINDS:
            for name, label in ((f"test_{kind.name}", "grown"), (f"twin_test_{kind.name}", "static twin")):
                if row[name] is not None:
                    facts[label] = f"{kind.title} {row[name]:.1f}% on test"
        return facts
