import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.offline import evaluate, learn, mixed_dataset
from esper.checkpoint import Checkpoint, read_bundle, write_bundle
from esper.errors import CheckpointError, LearnerError
from esper.simic.iql.dataset import Transitions
from esper.simic.iql.model import IQL
from esper.simic.iql.offline import OfflineTraining
from esper.simic.iql.parts import advantage_weights, expectile_loss

SEVEN = ("state_dim", "action_dim", "gamma", "tau", "beta", "q_network", "v_network")


def model(**options):
    return IQL(**{"state_dim": 3, "action_dim": 4, "hidden": (8,), **options})


def transitions(count=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    actions = torch.randint(4, (count,), generator=generator)
    masks = torch.rand(count, 4, generator=generator) < 0.5
    masks[torch.arange(count), actions] = True
    return Transitions(
        states=torch.randn(count, 3, generator=generator) * torch.tensor([1.0, 10.0, 0.1]) + 5,
        actions=actions,
        rewards=torch.randn(count, generator=generator),
        next_states=torch.randn(count, 3, generator=generator),
        dones=torch.rand(count, generator=generator) < 0.2,
        masks=masks,
    )


def weights_of(iql):
    return [parameter.detach().clone() for parameter in iql._parameters().values()]


def assert_same(first, second):
    assert all(map(torch.equal, weights_of(first), weights_of(second)))


# ---- the formulas


def test_the_expectile_loss_by_hand():
    found = expectile_loss(torch.tensor([-2.0, 0.0, 1.0, 3.0]), 0.7)
    assert found.tolist() == pytest.approx([0.3 * 4, 0.0, 0.7 * 1, 0.7 * 9])


def test_at_one_half_it_is_half_the_square():
    differences = torch.linspace(-2, 2, 9)
    torch.testing.assert_close(expectile_loss(differences, 0.5), differences.square() / 2)


def test_its_minimum_is_the_expectile():
    # Of {0, 1}, equally often, at tau: tau (1 - v) = (1 - tau) v, so v = tau.
    outcomes = torch.tensor([0.0, 1.0])
    candidates = torch.linspace(0, 1, 101)
    losses = [float(expectile_loss(outcomes - v, 0.9).sum()) for v in candidates]
    assert float(candidates[np.argmin(losses)]) == pytest.approx(0.9)


def test_the_weights_of_imitation_by_hand():
    found = advantage_weights(torch.tensor([-1.0, 0.0, 0.5, 50.0]), beta=3.0)
    assert found.tolist() == pytest.approx([math.exp(-3), 1.0, math.exp(1.5), 100.0])
    assert advantage_weights(torch.tensor([-7.0, 7.0]), beta=0.0).tolist() == [1.0, 1.0]


def by_hand(iql, batch, weights):
    """The losses of `update`, one transition at a time."""
    totals = {"value_loss": 0.0, "q_loss": 0.0, "policy_loss": 0.0}
    count = len(batch["actions"])
    for i in range(count):
        state = iql._normalize(batch["states"][i : i + 1])
        following = iql._normalize(batch["next_states"][i : i + 1])
        action, legal = int(batch["actions"][i]), batch["masks"][i]
        value, next_value = iql.v_network(state).item(), iql.v_network(following).item()
        advantage = min(target(state)[0, action].item() for target in iql.targets) - value
        goal = float(batch["rewards"][i]) + (0.0 if batch["dones"][i] else iql.gamma * next_value)
        logits = iql.policy_network(state)[0].tolist()
        normalizer = math.log(sum(math.exp(x) for x, is_legal in zip(logits, legal, strict=True) if is_legal))
        imitation = min(100.0, math.exp(iql.beta * advantage))
        losses = {
            "value_loss": (iql.tau if advantage >= 0 else 1 - iql.tau) * advantage**2,
            "q_loss": sum((goal - q(state)[0, action].item()) ** 2 for q in (iql.q_network, iql.q_twin)),
            "policy_loss": -imitation * (logits[action] - normalizer),
        }
        for name, loss in losses.items():
            totals[name] += float(weights[i]) * loss / count
    return totals


@pytest.mark.parametrize("is_weighted", [False, True])
def test_an_updates_losses_by_hand(is_weighted):
    iql, data = model(gamma=0.9, tau=0.8, beta=2.0), transitions()
    iql.normalize_by(data.states)
    batch = data.take(torch.arange(20))
    weights = torch.linspace(0.1, 1, 20) if is_weighted else torch.ones(20)
    expected = by_hand(iql, batch, weights)
    found = iql.update(batch, weights if is_weighted else None)
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-4), name


def test_no_loss_moves_another_networks_weights():
    """Every network descends its own loss alone, although one backward pass serves all."""
    data = transitions().take(torch.arange(30))
    for name, loss in (("v_network", "value_loss"), ("policy_network", "policy_loss")):
        iql = model()
        before = copy.deepcopy(getattr(iql, name))
        value = iql.v_network(data["states"]).squeeze(1)
        index = data["actions"].unsqueeze(1)
        advantage = torch.minimum(*(q(data["states"]) for q in iql.targets)).gather(1, index).squeeze(1) - value
        if loss == "value_loss":
            own = expectile_loss(advantage, iql.tau).mean()
        else:
            logits = iql.policy_network(data["states"]).masked_fill(~data["masks"], -torch.inf)
            chosen = logits.log_softmax(1).gather(1, index).squeeze(1)
            own = -(advantage_weights(advantage.detach(), iql.beta) * chosen).mean()
        gradients = torch.autograd.grad(own, list(getattr(iql, name).parameters()))
        iql.update(data)
        for old, new, gradient in zip(before.parameters(), getattr(iql, name).parameters(), gradients, strict=True):
            moved = new.detach() - old.detach()
            clear = gradient.abs() > 1e-5
            assert torch.equal(moved[clear].sign(), -gradient[clear].sign())  # Adam's first step


def test_targets_follow_slowly():
    iql = model(polyak=0.1)
    before = [parameter.clone() for parameter in iql.targets.parameters()]
    iql.update(transitions().take(torch.arange(30)))
    online = [*iql.q_network.parameters(), *iql.q_twin.parameters()]
    for old, new, target in zip(before, online, iql.targets.parameters(), strict=True):
        torch.testing.assert_close(target, 0.9 * old + 0.1 * new.detach())


# ---- what it learns


@pytest.mark.slow
def test_it_finds_the_expectile_and_the_best_of_what_was_done():
    """One decision among three; the third, which would be best, is never tried in the records."""
    count = 2000
    actions = torch.arange(count) % 2
    data = Transitions(
        states=torch.ones(count, 1),
        actions=actions,
        rewards=actions.float(),
        next_states=torch.ones(count, 1),
        dones=torch.ones(count, dtype=torch.bool),
        masks=torch.ones(count, 3, dtype=torch.bool),
    )
    iql = IQL(1, 3, tau=0.9, beta=5.0, hidden=(16,), learning_rate=1e-2, polyak=0.1)
    training = OfflineTraining(iql, data, steps=600, batch_size=128)
    while not training.done:
        training.step()
    state = torch.ones(1, 1)
    assert iql.q_values(state)[0, :2].tolist() == pytest.approx([0.0, 1.0], abs=0.05)
    assert iql.v_network(iql._normalize(state)).item() == pytest.approx(0.9, abs=0.05)
    # Imitation weighs by exp(5 A): exp(5 * 0.1) / (exp(5 * 0.1) + exp(5 * -0.9)) of the time the better one.
    better = math.exp(0.5) / (math.exp(0.5) + math.exp(-4.5))
    assert iql.log_policy(state).exp()[0].tolist() == pytest.approx([1 - better, better, 0.0], abs=0.02)
    assert int(iql.act(state)[0]) == 1


@pytest.mark.slow
def test_values_reach_back_over_several_steps():
    """A corridor of four states, a reward at its end: V is the discounted distance to it."""
    states = torch.eye(4)
    data = Transitions(
        states=states,
        actions=torch.zeros(4, dtype=torch.int64),
        rewards=torch.tensor([0.0, 0.0, 0.0, 1.0]),
        next_states=torch.cat([states[1:], states[:1]]),
        dones=torch.tensor([False, False, False, True]),
        masks=torch.ones(4, 1, dtype=torch.bool),
    )
    iql = IQL(4, 1, gamma=0.9, tau=0.5, hidden=(32,), learning_rate=1e-2, polyak=0.2)
    training = OfflineTraining(iql, data, steps=400, batch_size=32)
    while not training.done:
        training.step()
    assert iql.q_values(states).squeeze(1).tolist() == pytest.approx([0.9**3, 0.9**2, 0.9, 1.0], abs=0.03)


@pytest.mark.slow
def test_it_beats_behaviour_cloning_on_mixed_cartpole_data():
    data, sources = mixed_dataset(6000, seed=0)
    cloned, learned = (evaluate([*learn(data, 1000, 0, beta)][-1], 30, seed=1) for beta in (0.0, 3.0))
    assert learned > 2 * cloned
    assert learned > 2 * max(sources.values())


# ---- acting


@settings(max_examples=60, deadline=None)
@given(
    legal=st.lists(st.lists(st.booleans(), min_size=4, max_size=4).filter(any), min_size=1, max_size=6),
    has_policy=st.booleans(),
    scale=st.sampled_from([0.0, 1.0, 1e4]),
)
def test_what_is_forbidden_is_never_done(legal, has_policy, scale):
    iql = model()
    iql.has_policy = has_policy
    masks = torch.tensor(legal)
    states = scale * torch.randn(len(legal), 3, generator=torch.Generator().manual_seed(1))
    actions = iql.act(states, masks)
    assert masks.gather(1, actions.unsqueeze(1)).all()
    assert (iql.log_policy(states, masks)[~masks] == -torch.inf).all()


def test_a_single_state_gives_a_single_action():
    assert iql_act_shape((3,)) == () and iql_act_shape((5, 3)) == (5,)


def iql_act_shape(shape):
    return tuple(model().act(torch.zeros(shape)).shape)


@pytest.mark.parametrize("masks", [torch.zeros(2, 4, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)])
def test_masks_that_leave_nothing_or_do_not_fit_are_refused(masks):
    with pytest.raises(LearnerError, match=r"expected \[2, 4\] with a legal action"):
        model().act(torch.zeros(2, 3), masks)


def test_states_are_seen_on_their_own_scale():
    iql, data = model(), transitions()
    iql.normalize_by(data.states)
    seen = iql._normalize(data.states)
    assert seen.mean(0).abs().max() < 0.2 and (seen.std(0) - 1).abs().max() < 0.2


@pytest.mark.parametrize("options", [{"tau": 1.0}, {"gamma": 1.5}, {"beta": -1.0}, {"state_dim": 0}, {"hidden": (0,)}])
def test_impossible_settings_are_named(options):
    with pytest.raises(LearnerError, match=next(iter(options))):
        model(**options)


# ---- exact


def test_weights_are_named_by_the_seed_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = model(seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert_same(first, model(seed=5))
    assert not torch.equal(weights_of(first)[0], weights_of(model(seed=6))[0])


def training_of(prioritized, seed=0):
    return OfflineTraining(
        model(seed=seed), transitions(), 40, batch_size=16, prioritized=prioritized, seed=3, steps_per_update=10
    )


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("updates", [0, 2])
def test_training_goes_on_exactly_from_a_checkpoint(prioritized, updates, tmp_path):
    through, stopped = training_of(prioritized), training_of(prioritized)
    for _ in range(updates):
        through.step()
        stopped.step()
    tensors, plain = stopped.state()
    write_bundle(tmp_path / "kept", Checkpoint(tensors=tensors, state=plain))
    kept = read_bundle(tmp_path / "kept")
    resumed = training_of(prioritized, seed=9)
    resumed.load_state(kept.tensors, kept.state)
    while not through.done:
        assert through.step() == resumed.step()
    assert resumed.done
    assert_same(through.model, resumed.model)
    assert all(map(torch.equal, through.model.targets.parameters(), resumed.model.targets.parameters()))


def test_a_state_is_not_changed_by_what_follows():
    training = training_of(True)
    training.step()
    tensors, _ = training.state()
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    training.step()
    assert all(torch.equal(tensors[name], value) for name, value in kept.items())


def test_a_model_is_rebuilt_from_its_state():
    training = training_of(False)
    training.step()
    tensors, plain = training.state()
    again = IQL.from_state(tensors, plain["model"])
    assert_same(again, training.model)
    assert torch.equal(again.act(transitions().states), training.model.act(transitions().states))
    with pytest.raises(LearnerError, match="'ppo'"):
        IQL.from_state(tensors, {"kind": "ppo"})


def test_a_state_of_other_data_or_another_way_of_drawing_is_refused():
    tensors, plain = training_of(True).state()
    with pytest.raises(LearnerError, match="drawn alike"):
        training_of(False).load_state(tensors, plain)
    other = OfflineTraining(model(), transitions(30), 40, prioritized=True)
    with pytest.raises(LearnerError, match="60 transitions; expected 30"):
        other.load_state(tensors, plain)
    with pytest.raises(LearnerError, match="not of this IQL"):
        OfflineTraining(model(hidden=(5,)), transitions(), 40, prioritized=True).load_state(tensors, plain)


def test_updates_cover_all_steps_and_no_more():
    training = OfflineTraining(model(), transitions(), steps=25, batch_size=4, steps_per_update=10)
    calls = []
    training.model.update = lambda batch, weights=None, update=training.model.update: calls.append(1) or update(batch)
    while not training.done:
        assert set(training.step()) >= {"value_loss", "q_loss", "policy_loss"}
    assert len(calls) == 25 and training.update == training.total == 3


def test_a_loss_that_is_not_finite_stops_the_training():
    data = transitions()
    data.rewards[:] = math.inf
    with pytest.raises(LearnerError, match=r"q_loss.*update 1.*policy\.learning_rate"):
        OfflineTraining(model(), data, 10).step()


def test_surprising_transitions_are_drawn_more_often():
    data = transitions()
    data.rewards[7] = 100.0
    training = OfflineTraining(model(), data, 200, batch_size=16, prioritized=True, steps_per_update=50)
    drawn = []
    take = Transitions.take
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transitions, "take", lambda self, where: drawn.append(where) or take(self, where))
        training.step()
        training.step()
    counts = torch.cat(drawn).bincount(minlength=60)
    assert counts.argmax() == 7 and counts[7] > 2 * counts.float().mean()


def test_surprising_transitions_count_for_less_each():
    training = OfflineTraining(model(), transitions(), 30, batch_size=16, prioritized=True, steps_per_update=10)
    given, update = [], training.model.update
    training.model.update = lambda batch, weights=None: given.append(weights) or update(batch, weights)
    while not training.done:
        training.step()
    assert all(weights.max() == 1.0 for weights in given)
    assert given[-1].min() < 1.0 and given[-1].shape == (16,)
    assert training._buffer.beta == pytest.approx(1.0)  # exact at the end


# ---- files


def trained():
    training = training_of(False)
    training.step()
    return training.model


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
@pytest.mark.parametrize("has_policy", [True, False])
def test_a_file_gives_the_same_actions(name, has_policy, tmp_path):
    iql = trained()
    iql.has_policy = has_policy
    path = iql.save(tmp_path / name, {"runs": ["a"]})
    again = IQL.load(path)
    states, masks = transitions().states, transitions().masks
    assert torch.equal(again.act(states, masks), iql.act(states, masks))
    assert torch.equal(again.q_values(states), iql.q_values(states))
    assert (again.gamma, again.tau, again.beta, again.has_policy) == (iql.gamma, iql.tau, iql.beta, has_policy)
    again.update(transitions().take(torch.arange(9)))  # and it can learn on


def test_a_torch_file_holds_the_seven_keys_and_loads_weights_only(tmp_path):
    path = trained().save(tmp_path / "model.pt")
    assert set(torch.load(path, weights_only=True)) >= set(SEVEN)
    sidecar = read_bundle(trained().save(tmp_path / "other"))
    assert {*sidecar.state, *(name.split(".")[0] for name in sidecar.tensors)} >= set(SEVEN)


def seven_keys(iql):
    networks = {"q_network": iql.q_network.state_dict(), "v_network": iql.v_network.state_dict()}
    return {"state_dim": 3, "action_dim": 4, "gamma": 0.95, "tau": 0.6, "beta": 2.0, **networks}


def test_seven_keys_are_enough_to_act_greedily(tmp_path):
    iql = model(hidden=(8, 6))
    torch.save(seven_keys(iql), tmp_path / "old.pt")
    again = IQL.load(tmp_path / "old.pt")
    assert (again.q_network.net[0].in_features, again.gamma, again.tau, again.beta) == (3, 0.95, 0.6, 2.0)
    states, masks = 30 * torch.randn(50, 3), torch.rand(50, 4) < 0.5
    masks[:, 0] = True
    with torch.no_grad():
        best = iql.q_network(states).masked_fill(~masks, -torch.inf).argmax(1)
    assert torch.equal(again.act(states, masks), best)
    with torch.no_grad():
        assert torch.equal(again.v_network(states), iql.v_network(states))


@pytest.mark.parametrize("missing", SEVEN)
def test_a_missing_key_is_named(missing, tmp_path):
    held = seven_keys(model())
    del held[missing]
    torch.save(held, tmp_path / "old.pt")
    with pytest.raises(LearnerError, match=f"lacks {missing}"):
        IQL.load(tmp_path / "old.pt")


@pytest.mark.parametrize(
    "wrong", [{"state_dim": 5}, {"action_dim": 2}, {"q_network": {"w": torch.ones(2)}}, {"q_network": 3}, {"tau": "a"}]
)
def test_networks_that_do_not_fit_are_refused(wrong, tmp_path):
    torch.save(seven_keys(model()) | wrong, tmp_path / "old.pt")
    with pytest.raises(LearnerError, match=r"old\.pt holds no IQL model"):
        IQL.load(tmp_path / "old.pt")


def test_a_file_that_would_run_code_is_not_loaded(tmp_path):
    torch.save(seven_keys(model()) | {"extra": math.sqrt}, tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match="sqrt"):
        IQL.load(tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match="No such file"):
        IQL.load(tmp_path / "nothing.pt")
    with pytest.raises(CheckpointError, match="missing"):
        IQL.load(tmp_path / "nothing")
