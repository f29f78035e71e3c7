"""Contracts, section simic: gradient collector, curriculum, replay, snapshots and features."""

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from esper.leyline import EpochReport, SeedStage, SeedStateReport, SeedTelemetry
from esper.nissa import DiagnosticTracker
from esper.runner.records import EpochTimes, epoch_record
from esper.simic.comparison import snapshot_to_features
from esper.simic.curriculum import BlueprintCurriculum, BlueprintStats
from esper.simic.episodes import TrainingSnapshot
from esper.simic.features import obs_to_base_features
from esper.simic.gradient_collector import SeedGradientCollector, collect_seed_gradients
from esper.simic.prioritized_buffer import PrioritizedReplayBuffer
from esper.tamiyo import HeuristicPolicyConfig, HeuristicTamiyo, SignalTracker

# ---- gradients


def parameters(*gradients: list[float] | None) -> list[nn.Parameter]:
    made = []
    for gradient in gradients:
        made.append(nn.Parameter(torch.zeros(1 if gradient is None else len(gradient))))
        made[-1].grad = None if gradient is None else torch.tensor(gradient)
    return made


@pytest.mark.parametrize(
    ("gradients", "norm", "health", "has_vanishing", "has_exploding"),
    [
        ([], 0.0, 1.0, False, False),
        ([None, None], 0.0, 1.0, False, False),
        ([[3.0, 4.0]], 5.0, 1.0, False, False),
        ([[3.0, 4.0], [12.0]], 6.5, 1.0, False, False),  # sqrt(25 + 144) / 2
        ([[3.0, 4.0], [12.0], None], 6.5, 1.0, False, False),  # one without a gradient does not count
        ([[0.0], [6.0]], 3.0, 0.75, True, False),
        ([[300.0, 400.0], [0.0]], 250.0, 0.35, True, True),  # 1 - 0.5 / 2 - 0.8 / 2
        ([[200.0], [200.0]], math.sqrt(80_000) / 2, 0.2, False, True),
        ([[0.0], [0.0]], 0.0, 0.5, True, False),
    ],
)
def test_gradient_statistics(
    gradients: list, norm: float, health: float, has_vanishing: bool, has_exploding: bool
) -> None:
    expected = {
        "gradient_norm": pytest.approx(norm),
        "gradient_health": pytest.approx(health),
        "has_vanishing": has_vanishing,
        "has_exploding": has_exploding,
    }
    for found in (
        SeedGradientCollector().collect(parameters(*gradients)),
        SeedGradientCollector(vanishing_threshold=1e-7, exploding_threshold=100.0).collect(
            iter(parameters(*gradients))
        ),
        collect_seed_gradients(parameters(*gradients)),
    ):
        assert found == expected and list(found) == list(expected)
        assert {type(found[name]) for name in ("has_vanishing", "has_exploding")} == {bool}
        assert {type(found[name]) for name in ("gradient_norm", "gradient_health")} == {float}


def test_thresholds_of_gradients_can_be_set() -> None:
    given = parameters([0.5], [5.0])
    assert SeedGradientCollector(1.0, 2.0).collect(given) == collect_seed_gradients(given, 1.0, 2.0)
    found = collect_seed_gradients(given, vanishing_threshold=1.0, exploding_threshold=2.0)
    assert found["has_vanishing"] is True and found["has_exploding"] is True
    assert found["gradient_health"] == pytest.approx(0.35)


def test_collecting_is_one_wait_however_many_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(30)))
    model(torch.ones(1, 2)).sum().backward()
    waits = []
    for name in ("item", "tolist", "__float__", "__bool__"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, original=original: waits.append(1) or original(self))
    collect_seed_gradients(model.parameters())
    assert len(waits) <= 2


# ---- the diagnostic of the clamp


def test_a_pegged_clamp_is_told_with_the_true_norm() -> None:
    tracker = DiagnosticTracker()
    for epoch in range(6):
        tracker.record(SeedTelemetry("seed-7", gradient_norm=42.5, epoch=epoch))
    (told,) = (line for line in tracker.diagnostics() if "clamp" in line)
    assert "seed-7" in told and "42.5" in told
    calm = DiagnosticTracker()
    for epoch in range(6):
        calm.record(SeedTelemetry("seed-7", gradient_norm=9.9, epoch=epoch))
    assert calm.diagnostics() == []


def test_the_norm_itself_is_logged_and_not_the_clamped_feature() -> None:
    seed = SeedStateReport("mid", SeedStage.TRAINING, "seed-7", "norm", gradient_norm=42.5)
    report = EpochReport(0, 1, 2, 0.5, 60.0, 0.5, 60.0, 60.0, 10, 20, slots={"mid": seed})
    record = epoch_record([report], EpochTimes(1.0, 1.0, 0.0, 0.0, 8, 1), {})
    assert record["members"][0]["slots"]["mid"]["gradient_norm"] == 42.5


def test_controllers_and_trackers_are_where_they_are_looked_for() -> None:
    assert all(isinstance(kind, type) for kind in (HeuristicTamiyo, HeuristicPolicyConfig, SignalTracker))


# ---- curriculum


@pytest.fixture
def curriculum() -> BlueprintCurriculum:
    return BlueprintCurriculum(blueprints=["heavy", "light", "norm"], complexity=[100.0, 50.0, 1.0])


def test_untried_simple_blueprints_come_first(curriculum: BlueprintCurriculum) -> None:
    order = []
    for _ in range(3):
        order.append(curriculum.select_blueprint())
        curriculum.record_outcome(order[-1], success=True, reward=1.0)
    assert order == ["norm", "light", "heavy"]


def test_scores_are_ucb1_less_the_penalty(curriculum: BlueprintCurriculum) -> None:
    rewards = {"heavy": [1.0, 3.0], "light": [0.5], "norm": [-1.0]}
    for name, values in rewards.items():
        for value in values:
            curriculum.record_outcome(name, success=value > 0, reward=value)
    scores = curriculum.get_ucb_scores()
    for name, complexity in {"heavy": 1.0, "light": 0.5, "norm": 0.01}.items():
        n, mean = len(rewards[name]), sum(rewards[name]) / len(rewards[name])
        assert scores[name] == pytest.approx(mean + 2.0 * math.sqrt(math.log(4 + 1) / n) - 0.1 * complexity)
    assert curriculum.select_blueprint() == max(scores, key=scores.get)


def test_the_weights_are_those_given() -> None:
    arms = BlueprintCurriculum(["a", "b"], [1.0, 2.0], exploration_weight=0.5, complexity_penalty=0.4)
    for name in ("a", "b"):
        arms.record_outcome(name, True, 1.0)
    assert arms.get_ucb_scores() == pytest.approx(
        {"a": 1 + 0.5 * math.sqrt(math.log(3)) - 0.2, "b": 1 + 0.5 * math.sqrt(math.log(3)) - 0.4}
    )


def test_an_untried_arm_outscores_a_tried_one(curriculum: BlueprintCurriculum) -> None:
    for _ in range(50):
        curriculum.record_outcome("norm", success=True, reward=5.0)
    scores = curriculum.get_ucb_scores()
    assert scores["light"] > scores["heavy"] > scores["norm"]
    assert all(math.isfinite(score) for score in scores.values())


def test_stats_are_counted(curriculum: BlueprintCurriculum) -> None:
    assert curriculum.get_stats("norm") == {"trials": 0, "successes": 0, "mean_reward": 0.0}
    curriculum.record_outcome("norm", success=True, reward=2.0)
    curriculum.record_outcome("norm", success=False, reward=-1.0)
    assert curriculum.get_stats("norm") == {"trials": 2, "successes": 1, "mean_reward": 0.5}
    assert BlueprintStats().trials == 0


def test_a_curriculum_refuses_what_does_not_fit(curriculum: BlueprintCurriculum) -> None:
    with pytest.raises(ValueError):
        BlueprintCurriculum(blueprints=["a", "b"], complexity=[1.0])
    for call in (lambda: curriculum.record_outcome("x", success=True, reward=1.0), lambda: curriculum.get_stats("x")):
        with pytest.raises(ValueError, match="x"):
            call()


# ---- replay


def filled(count: int, capacity: int = 8, **options: float) -> PrioritizedReplayBuffer:
    buffer = PrioritizedReplayBuffer(capacity=capacity, **options)
    for i in range(count):
        state = np.full(3, float(i), dtype=np.float32)
        buffer.add(
            state=state, action=i % 4, reward=0.5 * i, next_state=state + 1, done=i % 2 == 1, priority=float(i + 1)
        )
    return buffer


def test_a_buffer_keeps_the_newest_up_to_its_capacity() -> None:
    buffer = PrioritizedReplayBuffer(capacity=8)
    assert (buffer.alpha, buffer.beta, buffer.beta_increment, buffer.epsilon) == (0.6, 0.4, 0.001, 1e-6)
    assert len(buffer) == 0 and len(filled(5)) == 5 and len(filled(20)) == 8
    states = filled(20).sample(256)[0]["states"]
    assert set(np.asarray(states)[:, 0].tolist()) <= set(range(12, 20))


def test_a_batch_has_its_five_parts_row_by_row() -> None:
    batch, indices, weights = filled(8).sample(16)
    assert set(batch) == {"states", "actions", "rewards", "next_states", "dones"}
    assert len(indices) == len(weights) == 16 and batch["states"].shape == batch["next_states"].shape == (16, 3)
    for row, index in enumerate(np.asarray(indices).tolist()):
        assert batch["states"][row].tolist() == [index] * 3 and batch["next_states"][row].tolist() == [index + 1] * 3
        assert (int(batch["actions"][row]), float(batch["rewards"][row])) == (index % 4, 0.5 * index)
        assert float(batch["dones"][row]) == index % 2


def test_stored_priorities_are_exponentiated() -> None:
    buffer = filled(4)
    for i in range(4):
        assert buffer._priorities[i] == pytest.approx((i + 1 + 1e-6) ** 0.6)
    buffer.update_priorities([0, 2], [9.0, 0.0])
    assert buffer._priorities[0] == pytest.approx((9 + 1e-6) ** 0.6)
    assert buffer._priorities[2] == pytest.approx(1e-6**0.6) and buffer._priorities[2] > 0
    for given in (np.array([5.0]), torch.tensor([5.0]), [5.0]):
        buffer.update_priorities(np.array([1]), given)
        assert buffer._priorities[1] == pytest.approx((5 + 1e-6) ** 0.6)


@pytest.mark.parametrize("updates", [0, 1, 500])
def test_sampling_is_proportional_after_any_number_of_updates(updates: int) -> None:
    buffer = filled(20, capacity=8, beta_increment=0.0)
    random = np.random.default_rng(0)
    for _ in range(updates):
        where = random.integers(8, size=5)
        buffer.update_priorities(where, random.random(5) * 10)
    counts = np.zeros(8)
    for _ in range(40):
        counts += np.bincount(buffer.sample(500)[1], minlength=8)
    priorities = np.asarray(buffer._priorities, dtype=float)[:8]
    np.testing.assert_allclose(counts / counts.sum(), priorities / priorities.sum(), atol=0.01)


def test_an_update_counts_at_once_in_a_large_buffer() -> None:
    buffer = PrioritizedReplayBuffer(capacity=5000, alpha=1.0)
    for _ in range(4000):
        buffer.add([0.0], 0, 0.0, [0.0], False, priority=1e-6)
    for chosen in ([7, 1500, 3999], [2048]):
        buffer.update_priorities(range(4000), [1e6 if i in chosen else 0.0 for i in range(4000)])
        assert set(np.asarray(buffer.sample(300)[1]).tolist()) == set(chosen)


def test_weights_are_importance_weights() -> None:
    buffer = filled(8, beta_increment=0.0, beta=0.5)
    _, indices, weights = buffer.sample(2000)
    priorities = np.asarray(buffer._priorities, dtype=float)[:8]
    expected = (8 * priorities[indices] / priorities.sum()) ** -0.5
    np.testing.assert_allclose(np.asarray(weights), expected / expected.max(), rtol=1e-5)
    assert float(np.max(np.asarray(weights))) == pytest.approx(1.0)


def test_beta_anneals_to_one() -> None:
    buffer = filled(4, beta=0.9, beta_increment=0.04)
    betas = []
    for _ in range(4):
        buffer.sample(2)
        betas.append(buffer.beta)
    assert betas == pytest.approx([0.94, 0.98, 1.0, 1.0])
    np.testing.assert_allclose(np.asarray(filled(4, alpha=0.0).sample(8)[2]), 1.0)


def test_an_empty_buffer_says_so() -> None:
    with pytest.raises(ValueError, match="empty"):
        PrioritizedReplayBuffer(capacity=4).sample(2)


# ---- snapshots as features

FIELDS = {
    "epoch": 3, "global_step": 120, "train_loss": 0.5, "val_loss": 0.6, "loss_delta": -0.1, "train_accuracy": 81.0,
    "val_accuracy": 79.5, "accuracy_delta": 1.5, "plateau_epochs": 2, "best_val_accuracy": 80.0, "best_val_loss": 0.55,
    "loss_history_5": [1.0, 0.9, 0.8, 0.7, 0.6], "accuracy_history_5": [60.0, 65.0, 70.0, 75.0, 79.5],
    "has_active_seed": True, "seed_stage": 3, "seed_epochs_in_stage": 4, "seed_alpha": 0.25, "seed_improvement": 2.5,
    "available_slots": 1,
}  # fmt: skip
FLAT = [
    3.0, 120.0, 0.5, 0.6, -0.1, 81.0, 79.5, 1.5, 2.0, 80.0, 0.55, 1.0, 0.9, 0.8, 0.7, 0.6, 60.0, 65.0, 70.0, 75.0, 79.5,
    1.0, 3.0, 4.0, 0.25, 2.5, 1.0,
]  # fmt: skip


def test_a_snapshot_has_these_fields_by_name() -> None:
    assert [field.name for field in dataclasses.fields(TrainingSnapshot)] == list(FIELDS)
    snapshot = TrainingSnapshot(**FIELDS)
    assert {name: getattr(snapshot, name) for name in FIELDS} == FIELDS
    assert len(TrainingSnapshot(epoch=1).loss_history_5) == 5


def test_base_features_are_the_fields_in_order() -> None:
    shuffled = dict(reversed(FIELDS.items()))
    for obs in (FIELDS, shuffled, FIELDS | {"loss_history_5": tuple(FIELDS["loss_history_5"]), "more": 1}):
        features = obs_to_base_features(obs)
        assert features == FLAT and len(features) == 27
        assert type(features) is list and {type(value) for value in features} == {float}


def test_an_observation_that_lacks_a_field_is_refused() -> None:
    with pytest.raises(ValueError, match="seed_alpha"):
        obs_to_base_features({name: value for name, value in FIELDS.items() if name != "seed_alpha"})


def test_snapshots_become_features_with_and_without_telemetry() -> None:
    snapshot, telemetry = TrainingSnapshot(**FIELDS), SeedTelemetry("s", gradient_norm=2.5, accuracy=79.5, stage=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert snapshot_to_features(snapshot) == FLAT
        assert snapshot_to_features(snapshot, seed_telemetry=telemetry) == FLAT
        assert snapshot_to_features(snapshot, True, telemetry) == FLAT + telemetry.to_features()
    with pytest.warns(UserWarning):
        features = snapshot_to_features(snapshot, use_telemetry=True)
    assert features == FLAT + [0.0] * 10 and type(features) is list and len(features) == 37
