import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from esper.errors import LearnerError
from esper.leyline import WAIT, Action, ActionLayout, EpochReport, SeedStage, SeedStateReport
from esper.simic.on_policy.controller import LearnedController
from esper.simic.ppo.agent import PPOAgent
from esper.simic.ppo.config import PPOPolicyConfig
from esper.tamiyo.masks import legal_actions
from esper.tamiyo.observation import ObservationEncoder

SLOTS = ("early", "late")
CATALOGUE = [("norm", 128), ("conv_light", 36_992)]
LAYOUT = ActionLayout(SLOTS, ("norm", "conv_light"), ("sigmoid", "gated"))


def controller(network: str = "mlp", deterministic: bool = False, seed: int = 0) -> LearnedController:
    encoder = ObservationEncoder(SLOTS, CATALOGUE)
    prior = dict.fromkeys(("wait", "germinate", "advance", "cull"), 1.0)
    settings = PPOPolicyConfig(network=network, hidden=[8, 8], operation_prior=prior)
    learner = PPOAgent.for_growth(encoder.names, LAYOUT, settings)
    return LearnedController(learner, encoder, LAYOUT, deterministic, seed)


def report(member: int, epoch: int, stage: SeedStage = SeedStage.DORMANT, **values: Any) -> EpochReport:
    accuracy = 40.0 + epoch + member
    slots = {
        "early": SeedStateReport("early", stage, can_advance=True),
        "late": SeedStateReport("late", SeedStage.FOSSILIZED),
    }
    figures = dict.fromkeys(("train_loss", "val_loss"), 2.0 - 0.1 * epoch)
    figures |= dict.fromkeys(("train_accuracy", "val_accuracy", "best_val_accuracy"), accuracy)
    plain = {"max_epochs": 25, "parameter_count": 1000, "flops_per_sample": 10_000, "slots": slots}
    return EpochReport(**{"member": member, "epoch": epoch} | figures | plain | values)  # type: ignore[arg-type]


def reports(epoch: int, members: Sequence[int] = range(6)) -> list[EpochReport]:
    stages = (SeedStage.DORMANT, SeedStage.TRAINING, SeedStage.BLENDING)
    return [report(member, epoch, stages[member % 3]) for member in members]


def test_only_what_is_legal_with_its_probability() -> None:
    one = controller()
    for epoch in range(8):
        given = reports(epoch)
        for action, seen in zip(one.act(given), given, strict=True):
            legal = legal_actions(seen, LAYOUT.blueprints, LAYOUT.blends)
            plain = replace(action, reason="")
            assert plain in legal
            chance = float(action.reason.removeprefix("chosen with probability "))
            operations = {known.operation for known in legal}
            among = sum(known.operation is plain.operation for known in legal)
            assert chance == pytest.approx(1 / len(operations) / among, abs=0.03)


def test_twins_and_the_retired_wait() -> None:
    given = [report(0, 3, is_twin=True), report(1, 3, SeedStage.TRAINING, retired=True)]
    assert controller().act(given) == [WAIT, WAIT]


def test_deterministic_means_the_same_each_time() -> None:
    def course(deterministic: bool, seed: int) -> list[list[Action]]:
        one = controller(deterministic=deterministic, seed=seed)
        return [one.act(reports(epoch)) for epoch in range(6)]

    assert course(True, 0) == course(True, 1)
    assert course(False, 0) == course(False, 0) != course(False, 1)


@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_it_goes_on_where_its_state_was_taken(network: str) -> None:
    straight, resumed = controller(network), controller(network, seed=9)
    for epoch in range(3):
        straight.act(reports(epoch))
    resumed.load_state_dict(json.loads(json.dumps(straight.state_dict())))
    for epoch in range(3, 8):
        assert straight.act(reports(epoch)) == resumed.act(reports(epoch))
    assert straight.state_dict() == resumed.state_dict()


def test_a_members_memory_is_its_own_and_ends_with_its_episode() -> None:
    together, alone = controller("lstm", deterministic=True), controller("lstm", deterministic=True)
    for epoch in range(4):
        together.act(reports(epoch))
        alone.act(reports(epoch, [4]))
    remembered = together.state_dict()["memory"]
    assert alone.state_dict()["memory"]["4"] == pytest.approx(remembered["4"], abs=1e-6)
    together.act([report(4, 0)])
    alone.load_state_dict(controller("lstm").state_dict())
    alone.act([report(4, 0)])
    assert together.state_dict()["memory"]["4"] == alone.state_dict()["memory"]["4"]
    assert together.state_dict()["memory"]["5"] == remembered["5"]


def test_a_policy_for_other_hosts_is_refused() -> None:
    one = controller()
    wider = ObservationEncoder((*SLOTS, "middle"), CATALOGUE)
    with pytest.raises(LearnerError, match="other features"):
        LearnedController(one.learner, wider, LAYOUT)
    with pytest.raises(LearnerError, match=r"other actions \(not here: GERMINATE early norm gated"):
        LearnedController(one.learner, one.encoder, replace(LAYOUT, blends=("sigmoid",)))
