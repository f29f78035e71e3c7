from pathlib import Path
from typing import Any

from esper.leyline import SeedStage
from esper.nissa.report.history import RunHistory
from esper.nissa.report.timeline import seed_stories, segments

S = SeedStage


def history(stages: list[tuple[str, int]], events: list[dict[str, Any]], rolled_back: int | None = None) -> RunHistory:
    """One member with one slot; (stage, epochs in stage) at the end of epochs 0, 1, ..."""
    records = []
    for epoch, (stage, epochs_in_stage) in enumerate(stages):
        seed = "" if stage == "DORMANT" else "s1"
        slot = {"stage": stage, "seed": seed, "blueprint": "norm" if seed else "", "epochs_in_stage": epochs_in_stage}
        row = {"member": 0, "twin_of": None, "rolled_back": epoch == rolled_back, "slots": {"mid": slot}}
        records.append({"epoch": epoch, "members": [row]})
    return RunHistory(Path("run"), {}, "", records, events, [])


def move(epoch: int, to: str, seed: str = "s1", reason: str = "", member: int = 0) -> dict[str, Any]:
    data = {"to": to, "blueprint": "norm", "blend": "linear", "reason": reason}
    return {"type": "stage_changed", "epoch": epoch, "member": member, "slot": "mid", "seed": seed, "data": data}


def spans(run: RunHistory) -> list[tuple[SeedStage, int, int]]:
    return [(part.stage, part.start, part.end) for part in segments(run, 0, "mid")]


def test_each_epoch_belongs_to_the_stage_it_was_trained_in() -> None:
    # Planted at the start of epoch 1, it trains from the end of that epoch on: no record ever says GERMINATED. And it
    # blends all through epoch 3, at the end of which the record says PROBATIONARY already.
    run = history(
        [("DORMANT", 0), ("TRAINING", 0), ("TRAINING", 1), ("PROBATIONARY", 0), ("PROBATIONARY", 1), ("FOSSILIZED", 1)],
        [
            move(1, "GERMINATED"),
            move(1, "TRAINING"),
            move(3, "BLENDING"),
            move(3, "PROBATIONARY"),
            move(5, "FOSSILIZED"),
        ],
    )
    assert spans(run) == [
        (S.GERMINATED, 0, 1),
        (S.TRAINING, 1, 2),
        (S.BLENDING, 2, 3),
        (S.PROBATIONARY, 3, 4),
        (S.FOSSILIZED, 4, 5),
    ]


def test_without_events_the_records_alone_are_shown() -> None:
    run = history([("DORMANT", 0), ("TRAINING", 0), ("TRAINING", 1), ("DORMANT", 0), ("CULLED", 0)], [])
    assert spans(run) == [(S.TRAINING, 0, 2), (S.CULLED, 3, 4)]


def test_a_seed_culled_at_the_end_of_an_epoch_had_that_epoch() -> None:
    run = history([("TRAINING", 1), ("TRAINING", 2), ("CULLED", 0), ("EMBARGOED", 0)], [move(2, "CULLED")])
    assert spans(run) == [(S.TRAINING, 0, 2), (S.EMBARGOED, 2, 3)]


def test_a_cull_that_was_over_at_once_is_still_seen() -> None:
    run = history([("TRAINING", 1), ("EMBARGOED", 1)], [move(1, "CULLED"), move(1, "EMBARGOED")])
    assert spans(run) == [(S.CULLED, 0, 1)]


def test_the_epoch_of_a_rollback_was_trained_in_the_stage_before_it() -> None:
    run = history([("TRAINING", 1), ("TRAINING", 2), ("DORMANT", 0), ("DORMANT", 0)], [], rolled_back=2)
    assert spans(run) == [(S.TRAINING, 0, 2)]


def test_one_segment_of_each_seed_bears_its_name_and_it_is_none_after_its_cull() -> None:
    run = history(
        [("TRAINING", 1), ("TRAINING", 2), ("TRAINING", 3), *[("EMBARGOED", n) for n in range(6)]], [move(3, "CULLED")]
    )
    assert [part.stage for part in segments(run, 0, "mid") if part.names_seed] == [S.TRAINING]


def test_stories_tell_how_and_why() -> None:
    germinated = move(2, "GERMINATED", reason="plateau") | {"type": "germinated"}
    first, second = seed_stories(
        [
            move(2, "GERMINATED", reason="plateau"),
            germinated,
            move(5, "CULLED", reason="worth nothing"),
            move(9, "GERMINATED", seed="s2", reason="plateau again"),
            {"type": "gate_evaluated", "epoch": 12, "member": 0, "slot": "mid", "seed": "s2", "data": VERDICT},
            move(12, "FOSSILIZED", seed="s2"),
        ]
    )
    assert (first.planted, first.blueprint, first.blend, first.why_planted) == (2, "norm", "linear", "plateau")
    assert (first.outcome, first.ended, first.why_ended) == ("culled", 5, "worth nothing")
    assert (second.outcome, second.ended) == ("fossilised", 12)
    assert second.why_ended == "it is worth 1.20 points", "without a reason the last gate's checks are the reason"


VERDICT = {"gate": "G5", "passed": True, "checks_passed": ["contribution_1.20%"], "checks_failed": []}


def test_a_rollback_undoes_what_came_after_its_snapshot() -> None:
    rollback = {"type": "governor_rollback", "epoch": 8, "member": 0, "slot": "", "seed": "", "data": {"to_epoch": 5}}
    stories = seed_stories(
        [
            move(2, "GERMINATED", seed="old"),
            move(6, "GERMINATED", seed="young"),
            move(6, "GERMINATED", seed="elsewhere", member=1),
            move(7, "CULLED", seed="old"),
            rollback,
        ]
    )
    assert {story.seed: story.outcome for story in stories} == {
        "old": "growing",
        "young": "rolled back",
        "elsewhere": "growing",
    }


def test_a_live_seed_is_growing() -> None:
    (story,) = seed_stories([move(2, "GERMINATED"), move(2, "TRAINING"), move(4, "BLENDING")])
    assert (story.outcome, story.ended) == ("growing", None)
