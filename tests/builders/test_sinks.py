import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from esper.builders.sinks import open_sinks
from esper.config.composing import compose
from esper.config.telemetry import require_packages
from esper.errors import ConfigError
from esper.nissa import EventHub, JsonlSink
from esper.nissa.sinks.console import PlainConsole

RECORD = {"id": "x", "uid": "0" * 16, "name": "n", "sweep": None, "overrides": [], "options": {}, "max_updates": 0}


def folder(path: Path) -> Any:
    (path / "run.json").write_text(json.dumps({"summary": None}))
    return SimpleNamespace(path=path, record=RECORD)


def kinds(path: Path, *overrides: str, owns_terminal: bool = True) -> list[str]:
    hub = EventHub(sinks := open_sinks(compose(["telemetry.console=plain", *overrides]), folder(path), owns_terminal))
    hub.close("finished")
    return [type(sink).__name__ for sink in sinks]


def test_what_is_asked_for_is_opened_the_json_lines_first(tmp_path: Path) -> None:
    assert kinds(tmp_path) == [JsonlSink.__name__, PlainConsole.__name__]
    assert kinds(tmp_path, owns_terminal=False) == [JsonlSink.__name__]
    assert kinds(tmp_path, "telemetry=none", "telemetry.console=off") == []


def test_a_dashboard_is_told_first_what_a_resumed_run_has_lived_through(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = compose(["telemetry=tensorboard", "telemetry.console=off"])
    members = {"members": [], **dict.fromkeys(("wall_s", "train_s", "validation_s", "counterfactual_s"), 1.0)}
    members |= {"samples_per_s": None, "host_epochs_per_s": None}
    (tmp_path / "learning.jsonl").write_text('{"update":1,"entropy":0.5}\n')
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"epoch": 0, **members}) + "\n")
    hub = EventHub(open_sinks(config, folder(tmp_path)))
    hub.epoch({"epoch": 1, **members})
    hub.close("interrupted")
    reader = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    reader.Reload()
    assert [point.step for point in reader.Scalars("time/wall_s")] == [0, 1]
    assert [point.step for point in reader.Scalars("learning/entropy")] == [1]


@pytest.mark.slow
def test_a_dashboard_that_cannot_be_opened_is_left_out_with_a_warning(tmp_path: Path, caplog: Any) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").write_text("in the way")
    assert kinds(tmp_path, "telemetry=tensorboard") == ["JsonlSink", "PlainConsole"]
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        "telemetry=tensorboard could not be opened"
    ]


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_missing_package_is_named_with_what_installs_it(name: str, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, name, raising=False)
    said = f"telemetry={name}: the package {name} is not installed\n  pip install 'esper[{name}]'"
    config = compose([f"telemetry={name}"])
    (tmp_path / name / "run-1").mkdir(parents=True)  # what an old run left in the working folder is no package
    with pytest.raises(ConfigError) as error:
        require_packages(config.telemetry)
    assert str(error.value) == said
    require_packages(compose().telemetry)


@pytest.mark.slow
def test_nothing_of_a_dashboard_is_imported_unless_it_is_asked_for(tmp_path: Path) -> None:
    program = (
        "import sys, esper.runner.run, esper.nissa; from pathlib import Path\n"
        "from tests.builders.test_sinks import kinds\n"
        "kinds(Path(sys.argv[1])); print([name for name in ('wandb', 'tensorboard') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("telemetry.wandb.project=a/b", "telemetry.wandb.project=a/b: expected 1 to 128 characters"),
        ("telemetry.wandb.entity='my team'", "telemetry.wandb.entity=my team: expected"),
        ("telemetry.wandb.enabled=maybe", "telemetry.wandb.enabled=maybe: expected true or false"),
        ("telemetry.wandb.projct=a", "did you mean telemetry.wandb.project?"),
        ("telemetry=wandbb", "did you mean telemetry=wandb?"),
    ],
)
def test_bad_values_are_answered_with_what_is_allowed(override: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose([override])
    assert says in str(error.value) and len(str(error.value).splitlines()) <= 2


@pytest.mark.parametrize("dashboard", ["wandb", "tensorboard"])
def test_dashboards_are_made_of_the_json_lines(dashboard: str) -> None:
    with pytest.raises(ConfigError, match=r"it is made of the JSON lines; use telemetry\.jsonl=true"):
        compose([f"telemetry={dashboard}", "telemetry.report=false", "telemetry.jsonl=false"])


def test_both_dashboards_at_once() -> None:
    telemetry = compose(["telemetry=wandb", "telemetry.tensorboard=true"]).telemetry
    assert telemetry.wandb.enabled and telemetry.tensorboard and telemetry.jsonl
