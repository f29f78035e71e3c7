"""A sweep whose jobs hang can be ended: by asking twice."""

import signal
import time
from pathlib import Path

import pytest

from esper.sweep.jobs import INTERRUPTED, KILLED
from tests.sweep.conftest import jobs_of, until

HUNG = str(Path(__file__).with_name("hung.py"))
LIMIT_S = 5.0


@pytest.mark.alone
@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
@pytest.mark.parametrize(
    ("launcher", "deaf"),
    [("hydra/launcher=local", "ignore"), ("hydra/launcher=basic", "swallow")],
)
def test_a_second_request_to_stop_ends_it_within_seconds(marked, launcher, deaf, signals):
    process = marked.start(HUNG, "sweep", launcher, f"y={deaf}", "x=1,2,3")
    sweep = marked.folder / "sweep"
    until(lambda: list(sweep.glob("*/here")), "a job hangs")
    process.send_signal(signals[0])
    time.sleep(1.0)
    assert process.poll() is None  # what runs may save first
    process.send_signal(signals[1])
    asked = time.monotonic()
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - asked < LIMIT_S
    assert process.returncode == 128 + signals[0]
    assert "Traceback" not in out + err
    until(lambda: not marked.alive(), "nothing is left of it", timeout_s=2)
    assert {job.status() for job in jobs_of(sweep)} <= {INTERRUPTED, KILLED}  # the same command goes on from here
