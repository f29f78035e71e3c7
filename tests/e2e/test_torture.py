"""A bounded part of what docs/reliability.md counts."""

import subprocess
import sys

import pytest

from tests.e2e.conftest import ROOT, environment


@pytest.mark.parametrize("kind", ["kills", "failures", "bytes"])
def test_what_is_tortured_survives(kind):
    command = [sys.executable, "-m", "benchmarks.torture", "--kinds", kind, "--budget-s", "10", "--seed", "1000"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{kind}: ")
