"""A bounded part of what docs/reliability.md counts: the same trials each time."""

import subprocess
import sys

import pytest

from tests.e2e.conftest import ROOT, environment


@pytest.mark.parametrize(("kinds", "trials"), [("kills,times,failures", 1), ("bytes,values,signed,replaced", 8)])
def test_what_is_tortured_survives(kinds, trials):
    options = ["--kinds", kinds, "--trials", str(trials), "--seed", "1000"]
    command = [sys.executable, "-m", "benchmarks.torture", *options]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == kinds.split(",")
