import logging
import math
from typing import Any

import pytest

from esper.leyline import TelemetryEvent, TelemetryEventType
from esper.nissa import EventHub


class Recorder:
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def epoch(self, record: dict[str, Any]) -> None:
        self.heard.append(record)

    def event(self, event: TelemetryEvent) -> None:
        self.heard.append(event)

    def close(self, status: str) -> None:
        self.heard.append(status)


class Broken(Recorder):
    def epoch(self, record: dict[str, Any]) -> None:
        super().epoch(record)
        raise ConnectionError("no route")


class BrokenTruth(Broken):
    essential = True


def test_every_sink_hears_everything_in_order() -> None:
    sinks = [Recorder(), Recorder()]
    hub = EventHub(sinks)
    event = TelemetryEvent(TelemetryEventType.RUN_STARTED)
    hub.event(event)
    hub.epoch({"epoch": 0})
    hub.close("finished")
    assert [sink.heard for sink in sinks] == [[event, {"epoch": 0}, "finished"]] * 2


def test_a_failing_sink_is_one_warning_and_no_crash(caplog: pytest.LogCaptureFixture) -> None:
    broken, sound = Broken(), Recorder()
    hub = EventHub([broken, sound])
    with caplog.at_level(logging.WARNING):
        for epoch in range(3):
            hub.epoch({"epoch": epoch})
        hub.close("finished")
    assert len(caplog.records) == 1
    assert "Broken" in caplog.text and "no route" in caplog.text
    assert broken.heard == [{"epoch": 0}, "failed"], "it is closed when it is dropped, and hears no more"
    assert sound.heard == [{"epoch": 0}, {"epoch": 1}, {"epoch": 2}, "finished"]


def test_failure_of_an_essential_sink_propagates() -> None:
    with pytest.raises(ConnectionError):
        EventHub([BrokenTruth()]).epoch({"epoch": 0})


def test_every_sink_is_closed_even_when_an_essential_one_cannot_be() -> None:
    class CannotClose(Recorder):
        essential = True

        def close(self, status: str) -> None:
            raise OSError("disk is gone")

    last = Recorder()
    hub = EventHub([CannotClose(), last])
    with pytest.raises(OSError, match="disk is gone"):
        hub.close("failed")
    assert last.heard == ["failed"]
    hub.close("failed")
    assert last.heard == ["failed"], "closing twice does nothing"


def test_a_sink_that_cannot_close_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    class CannotClose(Recorder):
        def close(self, status: str) -> None:
            raise RuntimeError("stuck")

    EventHub([CannotClose()]).close("finished")
    assert "stuck" in caplog.text


def test_numbers_that_are_not_finite_reach_sinks_as_none() -> None:
    sink = Recorder()
    hub = EventHub([sink])
    hub.epoch({"members": [{"val_loss": math.nan, "slots": {"early": {"alpha": math.inf}}}], "epoch": 3, "name": "x"})
    hub.event(TelemetryEvent(TelemetryEventType.CULLED, data={"score": -math.inf, "checks": [1.0, math.nan]}))
    assert sink.heard[0] == {
        "members": [{"val_loss": None, "slots": {"early": {"alpha": None}}}],
        "epoch": 3,
        "name": "x",
    }
    assert sink.heard[1].data == {"score": None, "checks": [1.0, None]}
