"""One small run, for all that looks at runs from Python."""

import pytest

import esper
from esper.api.handle import RunHandle

TINY = (
    "debug=smoke",
    "task.image_size=8",
    "host.channels=[2,4]",
    "slots=early_late",
    "policy=random",
    "policy.act_probability=1",
    "engine=sequential",
    "engine.threads=1",
    "engine.memory_format=contiguous",  # nothing is measured
    "telemetry.console=off",
    "telemetry.report=false",
)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunHandle:
    """Two members that grow at random over three epochs, and their twins."""
    return esper.launch(*TINY, f"hydra.run.dir={tmp_path_factory.mktemp('runs')}/tiny", epochs=3)
