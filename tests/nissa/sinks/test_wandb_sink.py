"""The real client, in processes of their own without a terminal; what it wrote is read back with its own inspector."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.nissa.wandb_server import WandbServer

if (WANDB := find_spec("wandb")) is None:
    pytest.skip("pip install 'esper[wandb]'", allow_module_level=True)

ROOT = Path(__file__).parents[3]
KEY = "0" * 40
UID = "0123456789abcdef"
EPOCHS = 6
WITHOUT_NETWORK = ["unshare", "--net", "--map-root-user"]
if subprocess.run([*WITHOUT_NETWORK, "true"], capture_output=True).returncode:
    WITHOUT_NETWORK = []


class Lab:
    """A recorded run, and processes that live through it, each in an empty home and working folder."""

    def __init__(self, tmp_path: Path, recorded: Path) -> None:
        self.path, self.recorded = tmp_path, recorded
        self.home, self.cwd = tmp_path / "home", tmp_path / "cwd"
        self.home.mkdir()
        self.cwd.mkdir()
        record = json.loads((recorded / "run.json").read_text())
        record |= {"uid": UID, "sweep": "sweep-1a2b", "overrides": ["seed=0"], "options": {"policy": "heuristic"}}
        (recorded / "run.json").write_text(json.dumps(record | {"max_updates": 0}))

    def stretch(self, run: str = "run", first: int = 0, last: int = EPOCHS, **more: Any) -> dict[str, Any]:
        """What tests.nissa.live_through is told."""
        told = {"run": str(self.path / run), "recorded": str(self.recorded), "first": first, "last": last}
        overrides = ["telemetry=wandb", "telemetry.console=off", *more.pop("overrides", ())]
        return told | {"status": "finished" if last == EPOCHS else "interrupted", "overrides": overrides} | more

    def live(
        self, *stretches: dict[str, Any], prefix: Any = (), together: bool = False, code: int = 0, **environ: str
    ) -> list[str]:
        """Live through stretches in one process; what it said on standard error, which is all that it said."""
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(self.home), "OMP_NUM_THREADS": "1"}
        command = [*prefix, sys.executable, "-m", "tests.nissa.live_through", json.dumps(stretches)]
        done = subprocess.run(
            command + ["together"] * together,
            env=env | environ, cwd=self.cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert not done.stdout
        return done.stderr.splitlines()

    def parts(self, run: str = "run") -> list[Path]:
        """The folders that W&B made for a run, oldest first."""
        return sorted(path for path in (self.path / run / "wandb").glob("*run-*") if not path.is_symlink())


@pytest.fixture
def lab(tmp_path: Path, write_a_run: Callable[..., Path]) -> Lab:
    return Lab(tmp_path, write_a_run(tmp_path / "recorded", members=2, epochs=EPOCHS, rollback=None))


def client(*arguments: Any) -> str:
    """What a command of W&B says."""
    command = [sys.executable, "-m", "wandb", *map(str, arguments)]
    environ = os.environ | {"WANDB_ERROR_REPORTING": "false"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout + done.stderr


def inspect(part: Path) -> list[Any]:
    """The records of a part's transaction log, by W&B's own inspector."""
    from google.protobuf import text_format
    from wandb.proto.wandb_internal_pb2 import Record

    blocks = client("leet", "inspect", part).split("# record ")[1:]
    return [text_format.Parse(block.partition("\n")[2], Record()) for block in blocks]


def history(records: list[Any], axis: str = "epoch") -> list[dict[str, Any]]:
    """What was drawn over this axis."""
    lines = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    return [line for line in lines if axis in line]


def epochs(lines: list[dict[str, Any]]) -> list[int]:
    return [line["epoch"] for line in lines if "epoch" in line]


def test_offline_without_a_network_everything_is_on_disk(lab: Lab) -> None:
    dead = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    checkpoints = lab.path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "agent_epoch_6.json").write_text("{}")
    said = lab.live(
        lab.stretch(overrides=["telemetry.wandb.checkpoints=true"]),
        lab.stretch("second", record={"uid": "f" * 16}),
        together=True,  # as jobs of a sweep that train in one population
        prefix=WITHOUT_NETWORK,
        **dead,
    )
    (part,), (second,) = lab.parts(), lab.parts("second")
    assert said == [f"W&B is offline; to upload this run: wandb sync {path}" for path in (part, second)]
    assert not list(lab.cwd.iterdir()), "nothing in the working folder"
    assert not [path for path in lab.home.rglob("*") if path.is_file() and path.suffix != ".log"], "nothing at home"
    synced = client("sync", "--dry-run", part)
    assert "Would sync 1 run(s)" in synced and UID in synced

    assert epochs(history(inspect(second))) == list(range(EPOCHS + 1))
    records = inspect(part)
    (run,) = (record.run for record in records if record.HasField("run"))
    named = (run.run_id, run.project, run.run_group, run.job_type, run.display_name, run.notes)
    assert named == (UID, "esper", "sweep-1a2b", "heuristic", "digits/recorded", "seed=0")
    assert sorted(run.tags) == ["cnn", "digits", "heuristic"]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (config["epochs"], config["task"]["name"]) == (25, "digits")

    drawn = history(records)
    assert epochs(drawn) == list(range(EPOCHS + 1))
    recorded = [json.loads(line) for line in (lab.recorded / "metrics.jsonl").read_text().splitlines()]
    grown = [sum(row["val_accuracy"] for row in line["members"] if not row["is_twin"]) / 2 for line in recorded]
    assert [line["grown/val_accuracy"] for line in drawn] == pytest.approx(grown)
    axes = {record.metric.glob_name: record.metric.step_metric for record in records if record.HasField("metric")}
    assert (axes["grown/*"], axes["learning/*"]) == ("epoch", "update")

    table = json.loads(next(part.rglob("*.table.json")).read_text())
    events = [json.loads(line) for line in (lab.recorded / "events.jsonl").read_text().splitlines()]
    changes = [(event["epoch"], event["data"]["to"]) for event in events if event["type"] == "stage_changed"]
    column = table["columns"].index
    rows = [row for row in table["data"] if row[column("event")] == "stage_changed"]
    assert [(row[column("epoch")], row[column("to")]) for row in rows] == changes and changes
    assert not [row for row in table["data"] if row[column("event")] == "gate_evaluated"]

    print(records[-9:])
    artifacts = [record.artifact for record in records if record.HasField("artifact")]
    where = {artifact.name: Path(artifact.manifest.contents[0].local_path) for artifact in artifacts}
    assert where.pop(f"run-{UID}-events").is_relative_to(part)
    report, checkpoint = lab.path / "run" / "report.html", checkpoints / "agent_epoch_6.json"
    assert where == {f"report-{UID}": report, f"checkpoints-{UID}": checkpoint}, "uploaded from where they lie"
    summary = json.loads((lab.recorded / "run.json").read_text())["summary"]
    totals = {item.key or item.nested_key[0]: json.loads(item.value_json) for record in records
              for item in record.summary.update}  # fmt: skip
    assert totals["grown/test_accuracy"] == pytest.approx(sum(summary["grown"]["test_accuracy"]) / 2)


def test_offline_a_resumed_run_leaves_one_part_that_holds_every_epoch_once(lab: Lab) -> None:
    lab.live(lab.stretch(last=4, die="kill -9"), code=-9)
    (killed,) = lab.parts()
    site = lab.path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import logging; logging.disable(logging.INFO)")  # nobody set logging up
    told = "W&B is offline; to upload this run: wandb sync {}"
    said = lab.live(lab.stretch(first=3, last=5), PYTHONPATH=f"{site}:{ROOT}")  # from epoch 2: 3 and 4 come again
    (stopped,) = lab.parts()
    assert stopped != killed and said == [told.format(stopped)]
    said = lab.live(lab.stretch(first=6), PYTHONPATH=f"{site}:{ROOT}")
    (part,) = lab.parts()
    assert part != stopped and part.name.endswith(UID) and said == [told.format(part)]
    assert epochs(history(inspect(part))) == list(range(EPOCHS + 1))


def test_online_a_resumed_run_continues_where_the_server_is(lab: Lab) -> None:
    lab.live(lab.stretch(last=1))  # there was no login yet
    with WandbServer() as server:
        environ = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        (said,) = lab.live(lab.stretch(first=2, last=4), **environ)
        assert said == f"W&B: {server.url}/me/esper/runs/{UID}"
        (part,) = lab.parts()
        assert part.name.startswith("run-"), "the offline part would replace what the server has now"
        assert epochs(server.history[UID]) == [0, 1, 2, 3, 4]
        lab.live(lab.stretch(first=3), **environ)
        assert epochs(server.history[UID]) == list(range(EPOCHS + 1)), "3 and 4 are drawn once"
        assert list(server.runs) == [UID]
        assert {said["groupName"] for said in server.runs[UID] if said["jobType"]} == {"sweep-1a2b"}
        assert sorted(server.artifacts) == [f"report-{UID}", f"run-{UID}-events", f"run-{UID}-events"]
        server.history[UID] = server.history[UID][:3]  # it lost some; of these epochs the JSON lines know
        server.summaries[UID] |= {"epoch": 2}
        lab.live(lab.stretch(first=6), **environ)
        assert epochs(server.history[UID]) == list(range(EPOCHS + 1))


@pytest.mark.alone
def test_a_server_that_does_not_answer_costs_one_warning_a_process_and_the_run_is_offline(lab: Lab) -> None:
    with WandbServer() as server:
        server.is_silent = True
        environ = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "WANDB_HTTP_TIMEOUT": "1"}
        started = time.monotonic()
        said = lab.live(lab.stretch(), lab.stretch("second", record={"uid": "f" * 16}), **environ)
        assert time.monotonic() - started < 45
    assert [line.split(":")[0] for line in said] == ["W&B stays offline", *["W&B is offline; to upload this run"] * 2]
    assert [path.name.startswith("offline-run-") for path in (*lab.parts(), *lab.parts("second"))] == [True, True]


@pytest.mark.alone
def test_a_network_that_goes_down_costs_one_warning_and_not_the_run(lab: Lab) -> None:
    with WandbServer() as server:
        environ = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        server.falls_silent_once_opened = True
        started = time.monotonic()
        said = lab.live(lab.stretch(timeouts_s=[1, 1]), **environ)
        assert time.monotonic() - started < 45
    (part,) = lab.parts()
    assert len(said) == 2 and said[1].endswith(f"wandb sync {part}); nothing else is affected."), said
    assert len((lab.path / "run" / "metrics.jsonl").read_text().splitlines()) == EPOCHS + 1
    assert epochs(history(inspect(part))) == list(range(EPOCHS + 1)), "what was not sent is in the log that sync sends"


def test_a_service_that_dies_costs_one_warning_and_the_next_job_has_another(lab: Lab) -> None:
    said = lab.live(lab.stretch(die="core"), lab.stretch("second", record={"uid": "f" * 16}))
    (second,) = lab.parts("second")
    assert len(said) == 2, "no traceback, not even when the process ends"
    assert said[0].startswith("Sink WandbSink failed (ConnectionResetError: ")
    assert epochs(history(inspect(second))) == list(range(EPOCHS + 1))


def test_a_folder_that_cannot_be_written_costs_one_warning(lab: Lab) -> None:
    (lab.path / "run").mkdir()
    (lab.path / "run" / "wandb").write_text("in the way")
    (said,) = lab.live(lab.stretch())
    assert said.startswith("telemetry=wandb could not be opened (") and said.endswith("; the run goes on.")
    assert len((lab.path / "run" / "metrics.jsonl").read_text().splitlines()) == EPOCHS + 1


def test_a_service_that_cannot_start_costs_one_warning(lab: Lab) -> None:
    package = Path(WANDB.origin).parent
    copy = lab.path / "site" / "wandb"
    shutil.copytree(package, copy, symlinks=True, ignore=shutil.ignore_patterns("bin", "__pycache__"))
    (said,) = lab.live(lab.stretch(), PYTHONPATH=f"{copy.parent}:{ROOT}")
    assert said.startswith("telemetry=wandb could not be opened (WandbCoreNotAvailableError")


def test_disabled_is_disabled(lab: Lab) -> None:
    assert lab.live(lab.stretch(), WANDB_MODE="disabled") == []
    assert lab.parts() == []
