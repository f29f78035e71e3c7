import json
import warnings

import pytest
import torch

from esper.errors import EsperError, LearnerError
from esper.leyline import WAIT, SimicAction
from esper.simic.comparison import head_to_head_comparison, live_comparison, load_iql_model
from esper.simic.iql.model import IQL

TINY = [
    "host.channels=[2,2,2]",
    "task.distortion=none",
    "task.val_copies=1",
    "batch_size=256",
    "optimizer.learning_rate=0.1",
    "engine=sequential",
    "engine.threads=1",
]
EPOCHS = 9  # the fewest in which the heuristic still plants


@pytest.fixture
def saved(tmp_path):
    """Writes an untrained model whose Q of some actions, by name, is raised; returns its path."""

    def save(state_dim=37, name="model.safetensors", **raised):
        model = IQL(state_dim, 7, hidden=(8,), seed=1)
        for network in (model.q_network, model.q_twin):
            for action, value in raised.items():
                network.net[-1].bias.data[SimicAction[action].value] += value
        return model.save(tmp_path / name)

    return save


# ---- models


@pytest.mark.parametrize(("state_dim", "telemetry"), [(27, "none"), (37, "seed"), (54, "full")])
@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_telemetry_follows_from_the_number_of_features(saved, state_dim, telemetry, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, use_telemetry, kind = load_iql_model(saved(state_dim, name), "cpu")
    assert (model.q_network.net[0].in_features, use_telemetry, kind) == (state_dim, state_dim > 27, telemetry)


def test_another_number_of_features_is_unknown_with_a_warning(saved):
    with pytest.warns(UserWarning, match=r"sees 31 features; known are 27 \(none\), 37 \(seed\), 54 \(full\)"):
        model, use_telemetry, kind = load_iql_model(saved(31), device=torch.device("cpu"))
    assert (model.state_dim, use_telemetry, kind) == (31, False, "unknown")


def test_what_is_no_model_is_refused(tmp_path):
    torch.save({"state_dim": 27}, tmp_path / "other.pt")
    with pytest.raises(LearnerError, match=r"other\.pt holds no IQL model: it lacks action_dim"):
        load_iql_model(tmp_path / "other.pt")
    with pytest.raises(EsperError, match="missing"):
        load_iql_model(tmp_path / "nothing")


@pytest.mark.parametrize("compare", [live_comparison, head_to_head_comparison])
def test_a_model_of_other_features_cannot_be_compared(compare, saved):
    with pytest.raises(LearnerError, match="takes 54 features"):
        compare(saved(54), n_episodes=1, max_epochs=1, overrides=TINY)


# ---- a shadow


@pytest.mark.slow
def test_a_model_that_always_waits_agrees_in_waits_alone(saved, capsys):
    found = live_comparison(saved(WAIT=100.0), n_episodes=3, max_epochs=EPOCHS, device="cpu", overrides=TINY)
    assert (found["episodes"], found["decisions"]) == (3, 3 * EPOCHS)
    waits, others = found["by_action"]["WAIT"], [v for k, v in found["by_action"].items() if k != "WAIT"]
    assert waits["iql"] == found["decisions"] and waits["agreed"] == waits["heuristic"] == found["agreed"]
    assert waits["agreement"] == 1.0 and found["agreement"] == found["agreed"] / found["decisions"]
    assert sum(one["heuristic"] for one in others) == found["decisions"] - waits["heuristic"] > 0
    assert all(one["agreed"] == 0 and one["agreement"] in (0.0, None) for one in others)
    assert found["by_epoch"][:2] == [1.0, 0.0]  # the heuristic plants before the second
    assert found["model"]["telemetry"] == "seed" and found["model"]["state_dim"] == 37
    assert set(found["by_action"]) == {action.name for action in SimicAction}
    json.dumps(found, allow_nan=False)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_a_shadow_changes_nothing_and_is_the_same_again(saved, capsys):
    eager = live_comparison(saved(27, GERMINATE_CONV=100.0), 2, EPOCHS, overrides=TINY, verbose=True)
    assert f"of {2 * EPOCHS} decisions" in capsys.readouterr().out
    lazy = live_comparison(saved(27, "lazy", WAIT=100.0), 2, EPOCHS, overrides=TINY)
    done = [{name: one["heuristic"] for name, one in found["by_action"].items()} for found in (eager, lazy)]
    assert done[0] == done[1]
    assert eager["by_action"]["GERMINATE_CONV"]["agreement"] == 1.0
    assert live_comparison(saved(27, GERMINATE_CONV=100.0), 2, EPOCHS, overrides=TINY) == eager


# ---- head to head


@pytest.mark.slow
def test_both_grow_the_same_hosts(saved, capsys):
    found = head_to_head_comparison(saved(WAIT=100.0), n_episodes=3, max_epochs=EPOCHS, device="cpu", overrides=TINY)
    assert [episode["seed"] for episode in found["episodes"]] == [0, 1, 2]
    for episode in found["episodes"]:
        rule, iql = episode["heuristic"], episode["iql"]
        assert set(rule) == set(iql) == set(found["outcomes"])
        assert (iql["planted"], iql["fossilized"]) == (0, 0) and rule["planted"] == 1
        assert rule["parameters"] > iql["parameters"]
        margin = iql["test_accuracy"] - rule["test_accuracy"]
        assert episode["winner"] == ("tie" if margin == 0 else "iql" if margin > 0 else "heuristic")
    total = found["aggregate"]
    assert total["wins"] + total["ties"] + total["losses"] == 3
    for name in found["outcomes"]:
        differences = [episode["iql"][name] - episode["heuristic"][name] for episode in found["episodes"]]
        assert total["difference"][name]["mean"] == pytest.approx(sum(differences) / 3)
        assert total["difference"][name]["n"] == total["iql"][name]["n"] == 3
        assert total["difference"][name]["low"] <= total["difference"][name]["mean"]
    json.dumps(found, allow_nan=False)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_whoever_does_the_same_ends_at_the_same(saved, monkeypatch):
    """The same first weights, data and order: with two rules that wait there is nothing left to differ."""
    monkeypatch.setattr(
        "esper.study.evaluate.against_rule.HeuristicTamiyo.act", lambda self, reports: [WAIT] * len(reports)
    )
    found = head_to_head_comparison(saved(WAIT=100.0), 2, EPOCHS, overrides=TINY, seed=5)
    for episode in found["episodes"]:
        assert episode["heuristic"] == episode["iql"] and episode["winner"] == "tie"
    first, second = found["episodes"]
    assert first["iql"] != second["iql"]
    assert found["aggregate"]["ties"] == 2


@pytest.mark.slow
def test_each_side_sees_its_own_hosts(saved, monkeypatch):
    seen = {"HeuristicTamiyo": set(), "IQLController": set()}
    for name, members in seen.items():

        def act(self, reports, members=members):
            members.update(report.member for report in reports)
            return [WAIT] * len(reports)

        monkeypatch.setattr(f"esper.study.evaluate.against_rule.{name}.act", act)
    head_to_head_comparison(saved(), 2, 2, overrides=TINY)
    assert seen == {"HeuristicTamiyo": {0, 1}, "IQLController": {2, 3}}


@pytest.mark.slow
def test_an_episode_does_not_depend_on_the_others(saved):
    path = saved(GERMINATE_NORM=100.0)
    many = head_to_head_comparison(path, 2, 2, overrides=TINY)
    assert head_to_head_comparison(path, 2, 2, overrides=TINY) == many
    (alone,) = head_to_head_comparison(path, 1, 2, overrides=TINY)["episodes"]
    for side in ("heuristic", "iql"):
        assert alone[side] == pytest.approx(many["episodes"][0][side], rel=1e-3)


def test_more_than_one_slot_is_refused(saved):
    with pytest.raises(LearnerError, match="one slot, and overrides give early, late"):
        live_comparison(saved(), 1, 1, overrides=["slots=early_late"])
