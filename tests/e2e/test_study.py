"""From a run to a verdict on it, through the command line alone."""

import contextlib
import json
import signal
import sqlite3

from esper.cli import main
from tests.e2e.conftest import TIMEOUT_S

SMOKE = ("debug=smoke", "epochs=1", "engine.kind=fused", "engine.threads=1", "telemetry=none")


SEEDS = 24


def command_here(esper, *arguments):
    """The same in this process; its exit code."""
    with contextlib.chdir(esper.folder):
        return main(arguments)


def evaluated(folder):
    with sqlite3.connect(folder / "outputs" / "evaluations.sqlite") as base:
        return base.execute("SELECT seed, status, wall_s, ended_at FROM evaluations ORDER BY seed").fetchall()


def test_train_evaluate_analyse_and_gate_on_it(esper, capsys):
    done = esper.run(*SMOKE, "name=study")
    assert done.code == 0, done.err
    run = esper.only_run()
    evaluation = ("evaluate", f"{run.name[-8:]}@latest", "--seeds", str(SEEDS))

    # Interrupted in the middle: what was measured is kept ...
    interrupted = esper.start(*evaluation, module="esper.cli")
    for line in interrupted.stdout:
        if line.startswith("  seed 9102"):
            break
    interrupted.send_signal(signal.SIGINT)
    _, err = interrupted.communicate(timeout=TIMEOUT_S)
    assert interrupted.returncode == 130 and "the same command does the rest" in err and "Traceback" not in err
    kept = evaluated(esper.folder)
    assert 2 <= len(kept) < SEEDS

    # ... and the same command does what is missing.
    assert command_here(esper, *evaluation) == 0
    assert f"{SEEDS - len(kept)} of {SEEDS} to do" in capsys.readouterr().out
    assert len(evaluated(esper.folder)) == SEEDS and evaluated(esper.folder)[: len(kept)] == kept

    gate = esper.start("analyze", run.name, "--require", "test_accuracy>0.02", module="esper.cli")
    out, err = gate.communicate(timeout=TIMEOUT_S)
    assert gate.returncode == 0, out + err
    assert "met: test_accuracy > 2" in out
    assert command_here(esper, "analyze", "--format", "json", "--require", "test_accuracy>0.99") == 1
    (version,) = json.loads(capsys.readouterr().out)["suites"][0]["versions"]
    assert version["metrics"]["test_accuracy"]["n"] == SEEDS
    assert version["checkpoints"] == [f"outputs/study/{run.name}@epoch-1"]
