"""Growth in a plain loop: seeds join the network and the optimizer, and everything resumes bit for bit."""

import copy
import gc
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import esper
from esper.api.grower import Grower
from esper.errors import BlueprintError, CheckpointError, ConfigError, EsperError
from esper.leyline import GateConfig, SeedStage
from tests.api.loops import Network, X, Y, network, same, train

TIMETABLE = {
    "policy": "scheduled",
    "plant_epochs": [2, 3],
    "blend_epochs": [3, 5],
    "fossilize_epochs": [6, 9],
    "blend": "gated",
}
OPEN = GateConfig(min_training_improvement=-100, min_gradient_ratio=0, min_contribution=-100)
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01),
    "fused sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.05),
}


def accuracy(net: nn.Module) -> float:
    assert not net.training
    return 100 * (net(X[64:]).argmax(1) == Y[64:]).float().mean().item()


def make(optimizer: Callable[..., torch.optim.Optimizer] = OPTIMIZERS["adamw"], **options: Any) -> Grower:
    """On the timetable, with gates that let everything pass, unless another policy is asked for."""
    net = network()
    given = {"gates": OPEN, "blending_epochs": 1} | (options or TIMETABLE)
    return Grower(net, {"early": "stem", "mid": "body"}, X[:1], optimizer=optimizer(net.parameters()), **given)


def score(grower: Grower) -> float:
    grower.model.eval()
    with torch.no_grad():
        found = accuracy(grower.model)
    grower.model.train()
    return found


def run(grower: Grower, epochs: range) -> Iterator[int]:
    for epoch in epochs:
        train(grower, epoch)
        grower.end_epoch(score(grower), evaluate=accuracy)
        yield epoch


def test_a_seed_lives_its_whole_life_in_the_users_own_network_and_optimizer() -> None:
    grower = make()
    net, stages, parameters = grower.model, [], []
    before = sum(p.numel() for p in net.parameters())
    for _ in run(grower, range(8)):
        stages.append(grower.slots["early"].stage.name)
        parameters.append(sum(p.numel() for p in net.parameters()))
        held = [p for group in grower.optimizer.param_groups for p in group["params"]]
        assert {id(p) for p in held} == {id(p) for p in net.parameters()} and len(held) == len({id(p) for p in held})
    assert stages[:6] == ["TRAINING", "BLENDING", "PROBATIONARY", "PROBATIONARY", "FOSSILIZED", "FOSSILIZED"]
    assert parameters[-1] > parameters[0] > before
    assert [entry["slot"] for entry in grower.log] == ["early", "mid"]
    assert grower.report.epoch == 8 and grower.report.parameter_count == parameters[-1]
    fossil = grower.slots["early"].seed
    assert all(p in grower.optimizer.state for p in fossil.parameters())
    assert any(name.startswith("esper_slots.early.seed") for name, _ in net.named_parameters())


def test_the_network_that_runs_is_the_one_that_was_given() -> None:
    net = network()
    grower = Grower(net, {"mid": "body"}, X[:1], optimizer=OPTIMIZERS["sgd"](net.parameters()))
    assert grower.model is net and type(net) is Network and type(net.body) is nn.Sequential
    assert set(network().state_dict()) < set(net.state_dict())
    slot = grower.slots["mid"]
    slot.germinate("conv_light", "s", None)
    slot.state.transition(SeedStage.TRAINING)
    slot.start_blending(1)
    slot.step()
    before = net.eval()(X)
    for parameter in slot.parameters():
        nn.init.normal_(parameter)
    assert not torch.equal(net(X), before)
    assert not slot.training and not slot.seed.training
    assert net.double()(X.double()).dtype == torch.float64


def test_nothing_is_drawn_or_changed_where_nothing_grows() -> None:
    plain = network()
    optimizer = OPTIMIZERS["adamw"](plain.parameters())
    grower = make(policy="static")
    for epoch in range(2):
        train(grower, epoch)
        for rows in torch.randperm(64, generator=torch.Generator().manual_seed(epoch)).split(16):
            optimizer.zero_grad()
            cross_entropy(plain(X[rows]), Y[rows]).backward()
            optimizer.step()
        state = torch.get_rng_state()
        assert grower.end_epoch(score(grower), evaluate=accuracy) == []
        assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(plain.parameters(), grower.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_resumes_bit_for_bit_from_every_epoch(name: str) -> None:
    whole, kept = make(OPTIMIZERS[name]), []
    for _ in run(whole, range(7)):
        buffer = io.BytesIO()
        torch.save(whole.state_dict(), buffer)
        buffer.seek(0)
        kept.append(torch.load(buffer, weights_only=True))
    end = whole.state_dict()
    for epoch in (1, 2, 5):
        again = make(OPTIMIZERS[name])
        again.load_state_dict(kept[epoch - 1])
        list(run(again, range(epoch, 7)))
        assert same(end["model"], again.state_dict()["model"]) and same(end, again.state_dict())


def test_it_resumes_within_an_epoch_and_by_the_states_of_its_parts() -> None:
    whole = make()
    list(run(whole, range(3)))
    train(whole, 3)
    parts = copy.deepcopy((whole.growth_state(), whole.model.state_dict(), whole.optimizer.state_dict()))
    whole.end_epoch(score(whole), evaluate=accuracy)
    again = make()
    again.load_growth_state(parts[0])
    again.model.load_state_dict(parts[1])  # seeds join the optimizer by it
    again.optimizer.load_state_dict(parts[2])
    again.model.load_state_dict(parts[1])  # and are made anew, with the state they had
    again.end_epoch(score(again), evaluate=accuracy)
    assert same(whole.state_dict(), again.state_dict())


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    grower = make()
    list(run(grower, range(3)))
    before = grower.state_dict()
    other = Grower(network(), {"mid": "body"}, X[:1], optimizer=None)
    wrong = [{}, {"growth": {}}, before | {"growth": before["growth"] | {"epoch": "3"}}, other.state_dict()]
    for state in (*wrong, before | {"model": {}}, before | {"optimizer": {"state": {}, "param_groups": []}}):
        with pytest.raises(CheckpointError, match="load_state_dict"):
            grower.load_state_dict(state)
        assert same(grower.state_dict(), before)
    list(run(grower, range(3, 5)))


def test_seeds_join_the_group_of_their_layer_and_schedules_go_on() -> None:
    net = network()
    groups = [
        {"params": [*net.stem.parameters(), *net.head.parameters()], "lr": 0.1},
        {"params": [*net.body.parameters()], "lr": 0.01, "weight_decay": 0.3},
    ]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    grower = Grower(net, {"early": "stem", "mid": "body"}, X[:1], optimizer=optimizer, gates=OPEN, **TIMETABLE)
    for epoch in range(3):
        train(grower, epoch)
        schedule.step()
        grower.end_epoch(score(grower), evaluate=accuracy)
    assert len(optimizer.param_groups) == 2
    for group, slot in zip(optimizer.param_groups, ("early", "mid"), strict=True):
        seed = {id(p) for p in grower.slots[slot].parameters()}
        assert seed and seed <= {id(p) for p in group["params"]}
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.0125, 0.00125])


def test_named_parameters_keep_their_names_beside_them() -> None:
    net = network()
    optimizer = torch.optim.SGD(net.named_parameters(), 0.1)
    grower = Grower(net, {"mid": "body"}, X[:1], optimizer=optimizer, policy="random", act_probability=1.0)
    train(grower, 0)
    grower.end_epoch(20.0)
    (group,) = optimizer.param_groups
    held = dict(zip(group["param_names"], group["params"], strict=True))
    assert all(held[name] is parameter for name, parameter in net.named_parameters())
    assert any("esper_slots.mid.seed" in name for name in held)


def test_what_is_pruned_leaves_the_optimizer_and_others_keep_their_state() -> None:
    grower = make(policy="heuristic", first_plant_epoch=1, min_training_epochs=0, max_training_epochs=1, gates=None)
    train(grower, 0)
    grower.end_epoch(50.0, evaluate=accuracy)
    (planted,) = (slot for slot in grower.slots.values() if slot.state)
    seed = list(planted.seed.parameters())
    train(grower, 1)
    moments = {p: dict(grower.optimizer.state[p]) for p in network_parameters(grower)}
    assert all(p in grower.optimizer.state for p in seed)
    grower.end_epoch(40.0, evaluate=accuracy)
    assert planted.seed is None
    assert not any(p in grower.optimizer.state for p in seed)
    for parameter, state in moments.items():
        assert all(grower.optimizer.state[parameter][name] is value for name, value in state.items())


def network_parameters(grower: Grower) -> list[nn.Parameter]:
    return [p for name, p in grower.model.named_parameters() if not name.startswith("esper_slots")]


def test_worth_is_asked_of_the_network_without_the_seed() -> None:
    grower, asked = make(), []
    list(run(grower, range(3)))
    slot = grower.slots["early"]
    assert slot.stage is SeedStage.PROBATIONARY
    train(grower, 3)

    def evaluate(net: nn.Module) -> Tensor:
        assert not net.training and not torch.is_grad_enabled()
        asked.append((net is grower.model, slot.bypass))
        return torch.tensor(30.0)

    grower.end_epoch(42.0, evaluate)
    assert asked == [(True, True)] and not slot.bypass and grower.model.training
    assert grower.report.slots["early"].contribution == 12.0
    assert slot.state.metrics.counterfactual_contribution == 12.0


def test_without_an_evaluation_nothing_stays_for_good() -> None:
    grower = make()
    for epoch in range(7):
        train(grower, epoch)
        grower.end_epoch(50.0)
    assert grower.slots["early"].stage is SeedStage.PROBATIONARY


def test_gates_see_the_gradients_of_the_last_step() -> None:
    grower = make(policy="random", act_probability=1.0)
    train(grower, 0)
    grower.end_epoch(20.0)
    (slot,) = (slot for slot in grower.slots.values() if slot.state)
    train(grower, 1)
    own = torch.cat([p.grad.flatten() for p in slot.seed.parameters()]).norm()
    host = torch.cat([p.grad.flatten() for p in network_parameters(grower)]).norm()
    metrics = slot.state.metrics
    grower.end_epoch(21.0)
    assert metrics.seed_gradient_norm_ratio == pytest.approx(float(own / host), rel=1e-5)


MISTAKES = [
    ({"policy": "heuristik"}, "did you mean heuristic?"),
    ({"policy": "ppo"}, "name the run that it has learned in"),
    ({"policy": "outputs/none"}, "there is no such run directory or file"),
    ({"first_plant_epok": 3}, "did you mean first_plant_epoch?"),
    ({"first_plant_epoch": 0}, "policy.first_plant_epoch=0: expected"),
    ({"first_plant_epoch": "x"}, "'<=' not supported"),
    ({"slots": {"mid": "bdy"}}, "the network has no such submodule"),
    ({"slots": {}}, "name at least one submodule"),
    ({"slots": "body"}, "expected names and submodules"),
    ({"example": [1]}, "example: expected an input as a tensor"),
    ({"model": 3}, "Grower: expected an nn.Module with parameters"),
    ({"blueprint_names": ["conv_lihgt"]}, "conv_light"),
    ({"blueprint_names": []}, "blueprint_names=[]"),
    ({"topology": "mpl"}, "topology="),
    ({"optimizer": 3}, "expected a torch.optim.Optimizer, and got int"),
    ({"optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1)}, "none of the network's parameters"),
    ({"epochs": 0}, "epochs=0: expected a whole number, 1 or more"),
    ({"epochs": 2.5}, "epochs=2.5: expected a whole number, 1 or more"),
    ({"blending_epochs": "x"}, "blending_epochs=x: expected a whole number, 1 or more"),
    ({"seed": "x"}, "seed=x: expected a whole number"),
    ({"gates": {"min_contribution": 0}}, "gates={'min_contribution': 0}: expected an esper.leyline.GateConfig"),
    ({"blueprint_names": "norm"}, "blueprint_names=norm: expected a list, as in ['norm']"),
    ({"slots": {1: "body"}}, "slots: names are plain words, not 1"),
    ({"slots": {"a.b": "body"}}, "slots: names are plain words, not 'a.b'"),
    ({"slots": {"forward": "body"}}, "slots: names are plain words, not 'forward'"),
    ({"slots": {"training": "body"}}, "slots: names are plain words, not 'training'"),
    ({"policy": "scheduled", "plant_epochs": [2, 3]}, "expected one entry a slot in each"),
]


@pytest.mark.parametrize(("given", "message"), MISTAKES, ids=lambda value: str(value)[:30])
def test_mistakes_are_answered_and_the_network_stays_as_it_was(given: dict, message: str) -> None:
    net = network()
    before = set(net.state_dict()), [len(part._forward_hooks) for part in net.modules()]
    arguments = {"model": net, "slots": {"mid": "body"}, "example": X[:1]} | given
    with pytest.raises((ConfigError, BlueprintError)) as raised:
        Grower(**arguments)
    assert message in str(raised.value) and len(str(raised.value).splitlines()) <= 2
    assert (set(net.state_dict()), [len(part._forward_hooks) for part in net.modules()]) == before


@pytest.mark.slow
def test_networks_that_are_trained_elsewhere_are_refused() -> None:
    for wrapped, message in (
        (nn.DataParallel(network()), "DataParallel: copies of it would grow apart"),
        (torch.compile(network()), "compiled"),
        (make(policy="static").model, "the network grows already"),
    ):
        with pytest.raises(ConfigError, match=message):
            Grower(wrapped, {"mid": "module.body" if hasattr(wrapped, "module") else "body"}, X[:1])
    net = network()
    with pytest.raises(ConfigError, match="LBFGS takes no parameters later on"):
        Grower(net, {"mid": "body"}, X[:1], optimizer=torch.optim.LBFGS(net.parameters()))
    matrices = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
    with pytest.raises(ConfigError, match="Muon takes matrices alone"):
        Grower(matrices, {"mid": "0"}, X[:1, 0, 0, :4], optimizer=torch.optim.Muon(matrices.parameters()))


def test_misuse_in_the_loop_is_said_and_changes_nothing() -> None:
    late = Grower(network(), {"mid": "body"}, X[:1])
    with pytest.raises(EsperError, match="there is no optimizer yet"):
        late.step()
    grower = make()
    with pytest.raises(EsperError, match="no step was counted in this epoch"):
        grower.end_epoch(50.0)
    list(run(grower, range(2)))
    train(grower, 2)
    before = grower.state_dict()
    for wrong, evaluate, message in (
        (float("nan"), None, "val_score=nan: expected"),
        ("90%", None, "val_score=90%: expected"),
        (10**400, None, r"val_score=10+\.\.\.: expected"),
        (50.0, lambda net: None, "evaluate=null: expected a function that returns a number"),
    ):
        with pytest.raises(ConfigError, match=message):
            grower.end_epoch(wrong, evaluate)
        assert same(grower.state_dict(), before)
    grower.optimizer.zero_grad()
    with pytest.raises(EsperError, match=r"has no gradient\n  call it after backward"):
        grower.step()


def test_a_copy_of_the_network_is_free_of_the_grower() -> None:
    grower = make()
    list(run(grower, range(2)))
    twin = copy.deepcopy(grower.model)
    held = [len(group["params"]) for group in grower.optimizer.param_groups]
    twin.load_state_dict(grower.model.state_dict())
    assert [len(group["params"]) for group in grower.optimizer.param_groups] == held
    assert torch.equal(twin.eval()(X), grower.model.eval()(X))
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in grower.model.parameters()}
    gc.collect()
    exported = torch.export.export(twin, (X[:2],), strict=False)
    assert torch.allclose(exported.module()(X[:2]), twin(X[:2]), atol=1e-6)


TOKENS = torch.randint(0, 9, (32, 5), generator=torch.Generator().manual_seed(0))
VECTORS = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
KINDS = {
    "transformer": (TOKENS, lambda: nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8), nn.LayerNorm(8))),
    "mlp": (VECTORS, lambda: nn.Sequential(nn.Identity(), nn.ReLU(), nn.Linear(6, 8))),
    "cnn1d": (VECTORS[:, None], lambda: nn.Sequential(nn.Identity(), nn.ReLU(), nn.Conv1d(1, 8, 3, padding=1))),
}


@pytest.mark.parametrize("topology", KINDS)
def test_networks_of_every_topology_grow_a_sequential_one_too(topology: str) -> None:
    given, build = KINDS[topology]
    torch.manual_seed(0)
    net = build()
    optimizer = torch.optim.AdamW(net.parameters(), 0.01)
    grower = esper.Grower(net, {"mid": "2"}, given[:1], "random", optimizer, act_probability=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        net(given).square().mean().backward()
        optimizer.step()
        grower.step()
        grower.end_epoch(10.0)
    assert grower.log and grower.slots["mid"].topology == topology
