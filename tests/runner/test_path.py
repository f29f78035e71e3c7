"""The way from the command line to the first update of weights is short."""

import traceback
from pathlib import Path

import pytest

import esper
from esper.engine.optimizer import StackedOptimizer
from esper.run import main

PACKAGE = Path(esper.__file__).parent


@pytest.mark.slow
def test_from_main_to_the_first_update_are_at_most_seven_files_and_twelve_frames(tmp_path, monkeypatch):
    def step(self, *args):
        stack = traceback.extract_stack()
        if any(frame.name == "fit" for frame in stack):
            ours = [frame for frame in stack if Path(frame.filename).is_relative_to(PACKAGE)]
            frames.extend((frame.filename, frame.name) for frame in ours)
            raise KeyboardInterrupt
        return update(self, *args)

    frames, update = [], StackedOptimizer.step
    monkeypatch.setattr(StackedOptimizer, "step", step)
    assert main(["debug=smoke", f"hydra.run.dir={tmp_path / 'run'}", "telemetry.console=off"]) == 130
    assert len(frames) + 1 <= 12, frames
    assert len({file for file, _ in frames}) + 1 <= 7, frames
