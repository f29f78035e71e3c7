"""What must hold for every blueprint and blend: nothing freezes, nothing is born dead, gates learn, blueprints fit."""

import copy
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from esper.errors import BlueprintError
from esper.kasmina import BlueprintRegistry, CNNHost, QualityGates, SeedSlot
from esper.kasmina.blending import BLEND_ALGORITHMS
from esper.leyline import SeedStage

BLUEPRINTS = [spec.name for spec in BlueprintRegistry.list_specs("cnn")]
EVERY = pytest.mark.parametrize(("blueprint", "blend"), list(product(BLUEPRINTS, BLEND_ALGORITHMS)))
LIVE = (SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.PROBATIONARY, SeedStage.FOSSILIZED)


def images(seed: int = 3) -> torch.Tensor:
    return torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def perturb(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)


def pass_through(model: nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
    """Logits, and the gradient of every parameter of the host itself."""
    model.zero_grad()
    logits = model(images())
    F.cross_entropy(logits, torch.arange(6) % 5).backward()
    own = {name: p.grad for name, p in model.host.named_parameters() if not name.startswith("slots.")}
    return logits.detach(), {name: None if grad is None else grad.clone() for name, grad in own.items()}


def assert_untouched(model: nn.Module, bare: nn.Module) -> None:
    logits, gradients = pass_through(model)
    expected_logits, expected = pass_through(bare)
    assert torch.equal(logits, expected_logits)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.equal(gradients[name], gradient), name


# 1. Nothing freezes.


@EVERY
def test_a_training_seed_leaves_the_hosts_values_and_gradients_exactly_alone(make_model, blueprint, blend):
    model = make_model()
    for name in model.slots:
        model.germinate_seed(blueprint, name, name, blend)
        model.slots[name].state.transition(SeedStage.TRAINING)
        perturb(model.slots[name].seed)
    assert_untouched(model, make_model())
    assert all(parameter.grad.any() for slot in model.slots.values() for parameter in slot.seed.parameters())


@EVERY
def test_a_training_seeds_path_alone_sends_no_gradient_upstream(make_slot, features, blueprint, blend):
    slot, host_features = make_slot(blueprint, blend, perturb=True), features()
    cotangent = features(seed=9).detach()
    (gradient,) = torch.autograd.grad(slot(host_features), host_features, cotangent)
    assert torch.equal(gradient - cotangent, torch.zeros_like(gradient))


@EVERY
@pytest.mark.parametrize("stage", LIVE[1:], ids=lambda stage: stage.name)
def test_from_blending_on_the_gradient_reaches_the_host_through_both_paths(
    make_slot, features, blueprint, blend, stage
):
    slot, host_features = make_slot(blueprint, blend, stage, perturb=True), features()
    cotangent = features(seed=9).detach()
    alpha = slot.gate(host_features, 0.5) if stage is SeedStage.BLENDING and blend == "gated" else slot.alpha
    assert slot.alpha == pytest.approx(0.5 if stage is SeedStage.BLENDING else 1.0)
    plain = host_features + alpha * (slot.seed(host_features) - host_features)
    (expected,) = torch.autograd.grad(plain, host_features, cotangent)
    (gradient,) = torch.autograd.grad(slot(host_features), host_features, cotangent)
    torch.testing.assert_close(gradient, expected)


def test_a_fossil_blocks_nothing_that_lies_upstream_of_it(make_model):
    model = make_model()
    model.germinate_seed("conv_light", "s", "late")
    slot = model.slots["late"]
    for stage in (SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.PROBATIONARY, SeedStage.FOSSILIZED):
        slot.state.transition(stage)
    perturb(slot.seed)
    _, gradients = pass_through(model)
    assert all(gradient.any() for gradient in gradients.values())
    assert all(parameter.grad.any() for parameter in slot.seed.parameters())


@EVERY
def test_a_seed_cannot_grow_beyond_the_features_it_is_added_to(make_slot, features, blueprint, blend):
    slot, host_features = make_slot(blueprint, blend), features().detach()
    with torch.no_grad():
        for parameter in slot.seed.parameters():
            parameter += 1e4
        change = (slot.seed(host_features) - host_features).flatten(1).norm(dim=1)
    assert (change <= host_features.flatten(1).norm(dim=1) * 1.001).all()


BROKEN = [(name, float("nan")) for name in BLUEPRINTS] + [
    (name, float("inf"))
    for name in BLUEPRINTS
    if name != "attention"  # its sigmoids are finite even then
]


@pytest.mark.parametrize(("blueprint", "value"), BROKEN)
@pytest.mark.parametrize("stage", LIVE, ids=lambda stage: stage.name)
def test_a_seed_that_is_not_finite_never_touches_the_host(make_model, blueprint, stage, value):
    model = make_model()
    model.germinate_seed(blueprint, "s", "mid", "gated")
    slot = model.slots["mid"]
    slot.state.stage, slot.state.alpha = stage, 0.0 if stage is SeedStage.TRAINING else 0.5
    with torch.no_grad():
        for parameter in slot.seed.parameters():
            parameter.fill_(value)
    assert_untouched(model, make_model())
    assert not slot.seed_is_finite


class _FiniteForwardOnly(nn.Module):
    """A seed whose output is finite and whose gradient is not."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + (0.0 * x * self.weight).sqrt()


@pytest.mark.parametrize("stage", LIVE, ids=lambda stage: stage.name)
def test_a_gradient_that_is_not_finite_stays_within_the_seed(make_model, stage):
    model = make_model()
    model.germinate_seed("norm", "s", "mid")
    slot = model.slots["mid"]
    slot.seed = _FiniteForwardOnly(slot.channels)
    slot.state.stage, slot.state.alpha = stage, 0.0 if stage is SeedStage.TRAINING else 0.5
    _, gradients = pass_through(model)
    assert slot.seed.weight.grad.isnan().any()
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients.values())


def test_a_gate_that_is_not_finite_never_touches_the_host(make_model):
    model = make_model()
    model.germinate_seed("conv_light", "s", "mid", "gated")
    slot = model.slots["mid"]
    perturb(slot.seed)
    slot.start_blending(total_steps=4)
    slot.step(2)
    nn.init.constant_(slot.gate.linear.weight, float("nan"))
    assert_untouched(model, make_model())


@pytest.mark.parametrize("stage", LIVE[:3], ids=lambda stage: stage.name)
def test_a_seed_that_is_not_finite_is_culled_when_the_epoch_ends(make_slot, features, stage):
    slot = make_slot(stage=stage)
    nn.init.constant_(next(slot.seed.parameters()), float("nan"))
    slot(features())
    slot.end_epoch(50.0, QualityGates())
    assert slot.stage is SeedStage.EMBARGOED
    assert slot.seed is None
    assert not slot.state.is_healthy


# 2. Nothing is born dead.


@EVERY
@pytest.mark.parametrize("stage", LIVE, ids=lambda stage: stage.name)
def test_a_new_seed_is_the_identity(make_slot, features, blueprint, blend, stage):
    slot, host_features = make_slot(blueprint, blend, stage), features()
    for is_training in (True, False):
        slot.train(is_training)
        assert (slot(host_features) - host_features).abs().max() <= 1e-6


@EVERY
@pytest.mark.parametrize("stage", LIVE, ids=lambda stage: stage.name)
def test_every_parameter_has_a_gradient_within_two_steps(make_slot, features, blueprint, blend, stage):
    for channels, seed in product((4, 8), range(3)):
        slot = make_slot(blueprint, blend, stage, channels=channels, seed=seed)
        slot.prune()
        if stage is not SeedStage.BLENDING:
            slot.gate = None  # it has nothing to say yet
        optimizer = torch.optim.SGD(slot.parameters(), lr=0.1)
        moved = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in slot.named_parameters()}
        for step in range(2):
            optimizer.zero_grad()
            output = slot(features(channels, seed=step).relu())
            (output * features(channels, seed=7)).sum().backward()
            for name, parameter in slot.named_parameters():
                moved[name] |= parameter.grad != 0.0
            optimizer.step()
        assert all(mask.all() for mask in moved.values()), [name for name, mask in moved.items() if not mask.all()]


@EVERY
def test_a_blending_seed_learns_a_toy_problem(make_slot, features, blueprint, blend):
    slot = make_slot(blueprint, blend, SeedStage.BLENDING)
    inputs = features(batch=16).relu().detach()
    target = inputs.mean((2, 3)).detach() * torch.linspace(0.6, 1.4, 8)
    optimizer = torch.optim.SGD(slot.parameters(), lr=0.5, momentum=0.9)
    losses = []
    for _ in range(40):
        loss = F.mse_loss(slot(inputs).mean((2, 3)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


# 3. The gate of a gated blend learns.


@pytest.mark.parametrize("blueprint", BLUEPRINTS)
def test_a_gate_learns_in_an_optimizer_made_right_after_planting(make_model, features, blueprint):
    model = make_model()
    model.germinate_seed(blueprint, "s", "mid", "gated")
    slot = model.slots["mid"]
    gate = copy.deepcopy(slot.gate.state_dict())
    optimizer = torch.optim.SGD(model.get_seed_parameters(), lr=0.5)
    slot.start_blending(total_steps=10)
    slot.step(5)
    for _ in range(4):
        optimizer.zero_grad()
        pass_through(model)
        optimizer.step()
    assert all(not torch.equal(gate[name], value) for name, value in slot.gate.state_dict().items())
    alpha = slot.gate(features(), 0.5)
    assert alpha.unique().numel() == 4
    assert ((alpha > 0.25) & (alpha < 0.75)).all()


# 4. Blueprints fit the topology.


@pytest.fixture
def other_topology(monkeypatch):
    monkeypatch.setattr(BlueprintRegistry, "_specs", dict(BlueprintRegistry._specs))
    build = BlueprintRegistry.register("token_mix", "sequence", param_estimate=64)
    build(lambda dim, max_ratio=1.0: nn.Identity())


def test_a_topologys_catalogue_holds_no_other_topologys_blueprints(other_topology):
    assert [spec.name for spec in BlueprintRegistry.list_specs("sequence")] == ["token_mix"]
    assert [spec.name for spec in BlueprintRegistry.list_specs("cnn")] == BLUEPRINTS


def test_a_blueprint_of_another_topology_is_not_planted(other_topology, make_model):
    model = make_model()
    with pytest.raises(BlueprintError, match="no cnn blueprint 'token_mix'"):
        model.germinate_seed("token_mix", "s", "mid")
    assert model.slots["mid"].state is None


def test_a_slot_asks_for_blueprints_of_the_host_it_is_given(other_topology):
    slot = SeedSlot("mid", channels=8, topology="sequence")
    with pytest.raises(BlueprintError, match="no sequence blueprint 'norm'"):
        slot.germinate("norm", "s")
    slot.germinate("norm", "s", host_module=CNNHost())
    assert slot.stage is SeedStage.GERMINATED
