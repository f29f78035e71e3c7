import json
import math

import pytest

from esper.simic.curriculum import BlueprintCurriculum


@pytest.fixture
def curriculum() -> BlueprintCurriculum:
    return BlueprintCurriculum(["heavy", "light", "medium"], [4000, 1000, 2000])


@pytest.mark.parametrize("reward", [-100.0, 0.0, 100.0])
def test_an_untried_blueprint_beats_any_tried_one(curriculum: BlueprintCurriculum, reward: float) -> None:
    for name in ("light", "medium"):
        for _ in range(20):
            curriculum.record_outcome(name, success=False, reward=reward)
    assert curriculum.select_blueprint() == "heavy"


def test_the_better_arm_is_found() -> None:
    curriculum = BlueprintCurriculum(["good", "bad"], [2, 1])
    for _ in range(300):
        name = curriculum.select_blueprint()
        curriculum.record_outcome(name, success=name == "good", reward=1.0 if name == "good" else 0.0)
    good, bad = curriculum.get_stats("good"), curriculum.get_stats("bad")
    assert good["trials"] > 3 * bad["trials"] > 0
    assert good == {"trials": good["trials"], "successes": good["trials"], "mean_reward": 1.0}
    assert bad["successes"] == 0


def test_its_state_goes_through_json(curriculum: BlueprintCurriculum) -> None:
    for name, reward in (("light", 0.1), ("light", 0.2), ("heavy", -1.0)):
        curriculum.record_outcome(name, success=reward > 0, reward=reward)
    state = json.loads(json.dumps(curriculum.state_dict()))
    other = BlueprintCurriculum(["heavy", "light", "medium"], [4000, 1000, 2000])
    other.load_state_dict(state)
    assert other.get_ucb_scores() == curriculum.get_ucb_scores()
    other.record_outcome("light", success=True, reward=1.0)
    assert state == curriculum.state_dict() != other.state_dict()
    with pytest.raises(ValueError, match=r"expected .*heavy.*light.*medium"):
        other.load_state_dict({"light": state["light"]})


@pytest.mark.parametrize(
    ("blueprints", "complexity", "message"),
    [
        (["a", "b"], [1], "2 blueprints and 1 complexities"),
        ([], [], "at least one name"),
        (["a", "a"], [1, 2], "each name once"),
        (["a"], [-1], "finite numbers from 0 on"),
        (["a"], [math.nan], "finite numbers from 0 on"),
    ],
)
def test_lists_that_do_not_fit(blueprints, complexity, message) -> None:
    with pytest.raises(ValueError, match=message):
        BlueprintCurriculum(blueprints=blueprints, complexity=complexity)


def test_unknown_names_and_bad_rewards(curriculum: BlueprintCurriculum) -> None:
    with pytest.raises(ValueError, match="'wide': the curriculum has heavy, light, medium"):
        curriculum.record_outcome("wide", success=True, reward=1.0)
    with pytest.raises(ValueError, match="'wide'"):
        curriculum.get_stats("wide")
    with pytest.raises(ValueError, match="'light' is nan"):
        curriculum.record_outcome("light", success=True, reward=math.nan)
    assert curriculum.get_stats("light")["trials"] == 0


def test_equal_complexities_of_zero() -> None:
    assert BlueprintCurriculum(["a", "b"], [0, 0]).select_blueprint() == "a"


def test_trials_under_way_count_as_trials_without_reward() -> None:
    curriculum = BlueprintCurriculum(["a", "b"], [1, 1], exploration_weight=1.0, complexity_penalty=0.0)
    curriculum.record_outcome("a", success=True, reward=0.5)
    curriculum.start_trial("a")
    curriculum.start_trial("b")
    width = math.sqrt(math.log(4))
    assert curriculum.get_ucb_scores() == pytest.approx({"a": 0.25 + width / math.sqrt(2), "b": width})
    assert curriculum.get_stats("a") == {"trials": 1, "successes": 1, "mean_reward": 0.5}
    curriculum.record_outcome("b", success=True, reward=0.8)
    assert curriculum.get_ucb_scores() == pytest.approx({"a": 0.25 + width / math.sqrt(2), "b": 0.8 + width})


def test_choosing_many_at_once_spreads_out(curriculum: BlueprintCurriculum) -> None:
    names = []
    for _ in range(6):
        names.append(curriculum.select_blueprint())
        curriculum.start_trial(names[-1])
    assert names == ["light", "medium", "heavy"] * 2


def test_an_abandoned_trial_leaves_no_trace(curriculum: BlueprintCurriculum) -> None:
    before = curriculum.state_dict()
    curriculum.start_trial("heavy")
    assert json.loads(json.dumps(curriculum.state_dict())) != before
    curriculum.abandon_trial("heavy")
    assert curriculum.state_dict() == before
    with pytest.raises(ValueError, match="'wide'"):
        curriculum.start_trial("wide")


def test_choosing_among_some(curriculum: BlueprintCurriculum) -> None:
    assert curriculum.select_blueprint(["heavy", "medium"]) == "medium"
    with pytest.raises(ValueError, match="'wide'"):
        curriculum.select_blueprint(["light", "wide"])
    with pytest.raises(ValueError, match="at least one"):
        curriculum.select_blueprint([])
