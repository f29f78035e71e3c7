import json
from collections.abc import Callable
from pathlib import Path

from esper.leyline import EpochReport, SeedStateReport, TelemetryEventType
from esper.nissa.metric_names import EVENT_MEANINGS, glossary, unknown_names
from esper.runner.records import EpochTimes, epoch_record

GLOSSARY_PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_glossary_page_is_in_step_with_the_code() -> None:
    assert GLOSSARY_PAGE.read_text() == glossary(), "python -m esper.nissa.metric_names > docs/metrics.md"


def test_what_a_run_records_is_in_the_glossary() -> None:
    slot = SeedStateReport("early", seed_id="s")
    report = EpochReport(0, 1, 5, 1.0, 50.0, 1.1, 49.0, 49.0, 1030, 118_000, {"early": slot})
    record = epoch_record([report], EpochTimes(1.0, 0.7, 0.2, 0.1, 64, 1), twin_of={})
    assert unknown_names(record) == []


def test_what_these_tests_make_up_is_what_a_run_records(make_run: Callable[..., Path]) -> None:
    lines = (make_run(members=2, epochs=12) / "metrics.jsonl").read_text().splitlines()
    assert [unknown_names(json.loads(line)) for line in lines] == [[]] * 13


def test_a_name_that_is_not_there_is_told_by_its_place() -> None:
    record = {"epoch": 1, "speed": 2, "members": [{"member": 0, "luck": 1, "slots": {"early": {"alfa": 0.1}}}] * 2}
    assert unknown_names(record) == ["speed", "members.luck", "members.slots.alfa"]


def test_every_event_type_has_a_meaning() -> None:
    assert set(EVENT_MEANINGS) == set(TelemetryEventType)
