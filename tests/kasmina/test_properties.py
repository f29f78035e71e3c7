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
from esper.leyline.topologies import TOPOLOGIES

KINDS = [(topology, spec.name) for topology in TOPOLOGIES for spec in BlueprintRegistry.list_specs(topology)]
EVERY = pytest.mark.parametrize(
    ("topology", "blueprint", "blend"), [(*kind, blend) for kind, blend in product(KINDS, BLEND_ALGORITHMS)]
)
EVERY_BLUEPRINT = pytest.mark.parametrize(("topology", "blueprint"), KINDS)
LIVE = (SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.PROBATIONARY, SeedStage.FOSSILIZED)


def inputs(topology: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    if topology == "transformer":
        return torch.randint(5, (6, 6), generator=generator)
    return torch.randn({"cnn": (6, 1, 8, 8), "mlp": (6, 6), "cnn1d": (6, 1, 8)}[topology], generator=generator)


def norms(x: torch.Tensor, topology: str) -> torch.Tensor:
    """Of each token, or of each sample."""
    return x.norm(dim=-1) if topology == "transformer" else x.flatten(1).norm(dim=1)


def mean(x: torch.Tensor, topology: str) -> torch.Tensor:
    """Of each sample's channels, [B, C]."""
    return x.mean(1) if topology == "transformer" else x.flatten(2).mean(2) if x.dim() > 2 else x


def perturb(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)


def pass_through(model: nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
    """Logits, and the gradient of every parameter of the host itself."""
    model.zero_grad()
    logits = model(inputs(model.host.topology)).flatten(0, -2)
    F.cross_entropy(logits, torch.arange(len(logits)) % 5).backward()
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


@pytest.mark.sampled(10)
@EVERY
def test_a_training_seed_leaves_the_hosts_values_and_gradients_exactly_alone(make_model, topology, blueprint, blend):
    model = make_model(topology=topology)
    for name in model.slots:
        model.germinate_seed(blueprint, name, name, blend)
        model.slots[name].state.transition(SeedStage.TRAINING)
        perturb(model.slots[name].seed)
    assert_untouched(model, make_model(topology=topology))
    assert all(parameter.grad.any() for slot in model.slots.values() for parameter in slot.seed.parameters())


@EVERY
def test_a_training_seeds_path_alone_sends_no_gradient_upstream(make_slot, features, topology, blueprint, blend):
    slot, host_features = make_slot(blueprint, blend, perturb=True, topology=topology), features(topology=topology)
    cotangent = features(seed=9, topology=topology).detach()
    (gradient,) = torch.autograd.grad(slot(host_features), host_features, cotangent)
    assert torch.equal(gradient - cotangent, torch.zeros_like(gradient))


@pytest.mark.sampled(31)
@EVERY
@pytest.mark.parametrize("stage", LIVE[1:], ids=lambda stage: stage.name)
def test_from_blending_on_the_gradient_reaches_the_host_through_both_paths(
    make_slot, features, topology, blueprint, blend, stage
):
    slot = make_slot(blueprint, blend, stage, perturb=True, topology=topology)
    host_features, cotangent = features(topology=topology), features(seed=9, topology=topology).detach()
    alpha = slot.gate(host_features, 0.5) if stage is SeedStage.BLENDING and blend == "gated" else slot.alpha
    assert slot.alpha == pytest.approx(0.5 if stage is SeedStage.BLENDING else 1.0)
    plain = host_features + alpha * (slot.seed(host_features) - host_features)
    (expected,) = torch.autograd.grad(plain, host_features, cotangent)
    (gradient,) = torch.autograd.grad(slot(host_features), host_features, cotangent)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(("topology", "blueprint"), [("cnn", "conv_light"), ("transformer", "attention")])
def test_a_fossil_blocks_nothing_that_lies_upstream_of_it(make_model, topology, blueprint):
    model = make_model(topology=topology)
    model.germinate_seed(blueprint, "s", "late")
    slot = model.slots["late"]
    for stage in (SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.PROBATIONARY, SeedStage.FOSSILIZED):
        slot.state.transition(stage)
    perturb(slot.seed)
    _, gradients = pass_through(model)
    assert all(gradient.any() for gradient in gradients.values())
    assert all(parameter.grad.any() for parameter in slot.seed.parameters())


@EVERY
def test_a_seed_cannot_grow_beyond_the_features_it_is_added_to(make_slot, features, topology, blueprint, blend):
    slot, host_features = make_slot(blueprint, blend, topology=topology), features(topology=topology).detach()
    with torch.no_grad():
        for parameter in slot.seed.parameters():
            parameter += 1e4
        change = norms(slot.seed(host_features) - host_features, topology)
    assert (change <= norms(host_features, topology) * 1.001).all()


BROKEN = [(*kind, float("nan")) for kind in KINDS] + [
    (*kind, float("inf"))
    for kind in KINDS
    if kind not in (("cnn", "attention"), ("cnn1d", "attention"))  # their sigmoids are finite even then
]


@pytest.mark.sampled(18)
@pytest.mark.parametrize(("topology", "blueprint", "value"), BROKEN)
@pytest.mark.parametrize("stage", LIVE, ids=lambda stage: stage.name)
def test_a_seed_that_is_not_finite_never_touches_the_host(make_model, topology, blueprint, stage, value):
    model = make_model(topology=topology)
    model.germinate_seed(blueprint, "s", "mid", "gated")
    slot = model.slots["mid"]
    slot.state.stage, slot.state.alpha = stage, 0.0 if stage is SeedStage.TRAINING else 0.5
    with torch.no_grad():
        for parameter in slot.seed.parameters():
            parameter.fill_(value)
    assert_untouched(model, make_model(topology=topology))
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


@pytest.mark.sampled(42)
@EVERY
@pytest.mark.parametrize("stage", LIVE, ids=lambda stage: stage.name)
def test_a_new_seed_is_the_identity(make_slot, features, topology, blueprint, blend, stage):
    slot, host_features = make_slot(blueprint, blend, stage, topology=topology), features(topology=topology)
    for is_training in (True, False):
        slot.train(is_training)
        assert (slot(host_features) - host_features).abs().max() <= 1e-6


@pytest.mark.sampled(18)
@EVERY
@pytest.mark.parametrize("stage", LIVE, ids=lambda stage: stage.name)
def test_every_parameter_has_a_gradient_within_two_steps(make_slot, features, topology, blueprint, blend, stage):
    for channels, seed in product((4, 8), range(3)):
        slot = make_slot(blueprint, blend, stage, channels=channels, seed=seed, topology=topology)
        slot.prune()
        if stage is not SeedStage.BLENDING:
            slot.gate = None  # it has nothing to say yet
        optimizer = torch.optim.SGD(slot.parameters(), lr=0.1)
        moved = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in slot.named_parameters()}
        for step in range(2):
            optimizer.zero_grad()
            output = slot(features(channels, batch=16, seed=step, topology=topology).relu())
            (output * features(channels, batch=16, seed=7, topology=topology)).sum().backward()
            for name, parameter in slot.named_parameters():
                moved[name] |= parameter.grad != 0.0
                if name.endswith("qkv.bias"):
                    moved[name][channels : 2 * channels] = True  # softmax does not see what all keys share
            optimizer.step()
        assert all(mask.all() for mask in moved.values()), [name for name, mask in moved.items() if not mask.all()]


@pytest.mark.sampled(8)
@EVERY
def test_a_blending_seed_learns_a_toy_problem(make_slot, features, topology, blueprint, blend):
    slot = make_slot(blueprint, blend, SeedStage.BLENDING, topology=topology)
    host_features = features(batch=16, topology=topology).relu().detach()
    target = mean(host_features, topology) * torch.linspace(0.6, 1.4, 8)
    optimizer = torch.optim.SGD(slot.parameters(), lr=0.5, momentum=0.9)
    losses = []
    for _ in range(40):
        loss = F.mse_loss(mean(slot(host_features), topology), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


# In a sequence, nothing sees what is to come.


@pytest.mark.parametrize(
    ("blueprint", "blend"),
    list(product([name for topology, name in KINDS if topology == "transformer"], BLEND_ALGORITHMS)),
)
@pytest.mark.parametrize("stage", LIVE, ids=lambda stage: stage.name)
def test_no_token_is_shown_those_after_it(make_slot, features, blueprint, blend, stage):
    topology = "transformer"
    slot, before = make_slot(blueprint, blend, stage, perturb=True, topology=topology), features(topology=topology)
    if slot.gate is not None:
        perturb(slot.gate)
    after = before.detach().clone()
    after[:, 4:] += features(seed=5, size=2, topology=topology).detach()
    for is_training in (True, False):
        slot.train(is_training)
        torch.testing.assert_close(slot(after)[:, :4], slot(before)[:, :4], rtol=0, atol=1e-6)
    (gradient,) = torch.autograd.grad(slot(before)[:, :4].square().sum(), before)
    assert not gradient[:, 4:].any()
    assert gradient[:, :4].all()
    with torch.no_grad():  # where flex attention runs its own kernel
        torch.testing.assert_close(slot(after)[:, :4], slot(before)[:, :4], rtol=0, atol=1e-6)
        if stage is not SeedStage.TRAINING:
            assert (slot(after)[:, 4:] != slot(before)[:, 4:]).any()


# 3. The gate of a gated blend learns.


@EVERY_BLUEPRINT
def test_a_gate_learns_in_an_optimizer_made_right_after_planting(make_model, features, topology, blueprint):
    model = make_model(topology=topology)
    perturb(model)
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
    alpha = slot.gate(features(topology=topology), 0.5)
    assert alpha.unique().numel() == (4 * 6 if topology == "transformer" else 4)  # one a sample, one a token
    assert ((alpha > 0.25) & (alpha < 0.75)).all()


# 4. Blueprints fit the topology.


@pytest.fixture
def other_topology(monkeypatch):
    monkeypatch.setattr(BlueprintRegistry, "_specs", dict(BlueprintRegistry._specs))
    build = BlueprintRegistry.register("token_mix", "sequence", param_estimate=64)
    build(lambda dim, max_ratio=1.0: nn.Identity())


def test_a_topologys_catalogue_holds_no_other_topologys_blueprints(other_topology):
    assert [spec.name for spec in BlueprintRegistry.list_specs("sequence")] == ["token_mix"]
    for topology in TOPOLOGIES:
        names = [(topology, spec.name) for spec in BlueprintRegistry.list_specs(topology)]
        assert names == [kind for kind in KINDS if kind[0] == topology]


def test_a_blueprint_of_another_topology_is_not_planted(other_topology, make_model):
    model = make_model()
    with pytest.raises(BlueprintError, match="'token_mix' is for sequence hosts: cnn hosts take norm, "):
        model.germinate_seed("token_mix", "s", "mid")
    assert model.slots["mid"].state is None


def test_an_image_blueprint_in_a_language_host_is_refused_with_what_would_fit(make_model):
    model = make_model(topology="transformer")
    wanted = "'conv_light' is for cnn and cnn1d hosts: transformer hosts take norm, lora, "
    with pytest.raises(BlueprintError, match=wanted):
        model.germinate_seed("conv_light", "s", "mid")
    assert model.slots["mid"].state is None


def test_a_slot_asks_for_blueprints_of_the_host_it_is_given(other_topology):
    slot = SeedSlot("mid", channels=8, topology="sequence")
    with pytest.raises(BlueprintError, match=r"'norm' is for cnn .* and cnn1d hosts: sequence hosts take token_mix"):
        slot.germinate("norm", "s")
    slot.germinate("norm", "s", host_module=CNNHost())
    assert slot.stage is SeedStage.GERMINATED
