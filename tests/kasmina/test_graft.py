"""Slots in networks that esper did not ship."""

import copy
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import esper
from esper.engine.optimizer import OptimizerConfig
from esper.engine.population import Population
from esper.errors import ConfigError
from esper.kasmina.blueprints import BlueprintRegistry
from esper.kasmina.slot import SlotConfig
from esper.leyline import SeedStage


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(x + self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x))))))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.layer1, self.layer2 = Residual(6), Residual(6)
        self.pool, self.flatten, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.flatten(self.pool(self.layer2(self.layer1(self.stem(x))))))


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        features, _ = self.lstm(x)
        return self.head(features[:, -1])


CASES = {
    "residual": (ResNet, {"mid": "layer1", "end": "layer2"}, (12, 1, 8, 8), "conv_light", "fused"),
    "lstm": (Reader, {"mid": "lstm"}, (12, 5, 4), "mlp_small", "sequential"),
}


def build(case: str, seed: int = 0):
    torch.manual_seed(seed)
    network, slots, shape, blueprint, kind = CASES[case]
    return network(), slots, torch.randn(shape), blueprint, kind


@pytest.mark.parametrize("case", CASES)
def test_an_ungrown_network_computes_what_it_did_and_stays_as_it_was(case):
    network, slots, x, _, _ = build(case)
    before = copy.deepcopy(network.state_dict())
    model = esper.grow(network, slots, x)
    assert list(model.slots) == list(slots)
    torch.testing.assert_close(model.eval()(x), network.eval()(x), rtol=0, atol=0)
    assert network.state_dict().keys() == before.keys()
    assert not any(isinstance(m, esper.kasmina.SeedSlot) for m in network.modules())


@pytest.mark.parametrize("case", CASES)
def test_seeds_live_their_life_in_it_and_the_engine_trains_it(case):
    models = []
    for seed in range(3):
        network, slots, x, blueprint, kind = build(case, seed)
        model = esper.grow(network, slots, x, SlotConfig(blending_steps=4))
        model.germinate_seed(blueprint, f"s{seed}", "mid", "linear")
        model.slots["mid"].state.transition(SeedStage.TRAINING)
        models.append(model)
    y = torch.arange(12) % 3
    population = Population(models, OptimizerConfig(learning_rate=0.05), kind)
    assert population.engine.kind == kind
    order = torch.arange(12)
    first = population.train_epoch(x, y, order, 6).loss
    for model in models:
        model.slots["mid"].start_blending(total_steps=4)
    for _ in range(20):
        last = population.train_epoch(x, y, order, 6).loss
    assert all(model.slots["mid"].alpha == 1.0 for model in models)
    assert (last < 0.8 * first).all()


def test_fused_and_plain_training_agree_on_a_residual_network():
    results = []
    for kind in ("fused", "sequential"):
        models = []
        for seed in range(2):
            network, slots, x, blueprint, _ = build("residual", seed)
            models.append(esper.grow(network.double(), slots, x.double()))
        models[0].germinate_seed(blueprint, "s", "end", "linear")
        models[0].slots["end"].state.transition(SeedStage.TRAINING)
        population = Population(models, OptimizerConfig(learning_rate=0.05), kind)
        results.append(population.train_epoch(x.double(), torch.arange(12) % 3, torch.arange(12), 6).loss)
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-12)


class TwoPasses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.unused = nn.Conv2d(1, 1, 1)
        self.flatten = nn.Flatten()

    def forward(self, x):
        return self.flatten(self.conv(self.conv(x)))


class Volumes(nn.Sequential):
    """Features with a dimension too many."""

    def __init__(self) -> None:
        super().__init__(nn.Conv3d(1, 4, 1), nn.Flatten(), nn.Linear(108, 3))


@pytest.mark.parametrize(
    ("network", "slots", "shape", "reason"),
    [
        (ResNet, {"mid": "layer9"}, (2, 1, 8, 8), "no such submodule; it has stem, layer1"),
        (Volumes, {"mid": "0"}, (2, 1, 3, 3, 3), r"its output is \[2, 4, 3, 3, 3\] .*\[B, C, L\] \(cnn1d\)"),
        (ResNet, {"a": "layer1", "b": "layer1"}, (2, 1, 8, 8), "a submodule of its own"),
        (ResNet, {}, (2, 1, 8, 8), "at least one submodule"),
        (ResNet, {"mid": "layer1"}, (2, 5, 8, 8), "fails on the example"),
        (TwoPasses, {"mid": "conv"}, (2, 1, 8, 8), "more than once a pass"),
        (TwoPasses, {"mid": "unused"}, (2, 1, 8, 8), "never calls it"),
    ],
)
def test_what_cannot_be_grown_is_refused_with_the_reason(network, slots, shape, reason):
    with pytest.raises(ConfigError, match=reason):
        esper.grow(network(), slots, torch.randn(shape))


class Fails(nn.Linear):
    def forward(self, x):
        return {}["missing"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((3, {"mid": "0"}, torch.ones(1, 2)), "expected an nn.Module with parameters, and got int"),
        ((nn.Identity(), {"mid": "0"}, torch.ones(1, 2)), "expected an nn.Module with parameters, and got Identity"),
        (
            (nn.Linear(2, 2), ["0"], torch.ones(1, 2)),
            r"slots: expected names and submodules, such as \{'mid': 'layer2'\}",
        ),
        ((nn.Linear(2, 2), {"mid": "0"}, [1.0]), "example: expected an input as a tensor"),
        ((nn.Sequential(Fails(2, 2)), {"mid": "0"}, torch.ones(1, 2)), "the network fails on the example .*missing"),
    ],
)
def test_what_is_no_network_or_no_place_is_refused_in_words(arguments, reason):
    with pytest.raises(ConfigError, match=reason):
        esper.grow(*arguments)


class Series(nn.Module):
    """[B, 3, L] -> [B, 4, L] by a convolution: channels first, which looks like [B, T, C]."""

    def __init__(self, *more: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(3, 4, 3, padding=1), nn.ReLU(), *more)
        self.head = nn.LazyLinear(3)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


class Swap(nn.Module):
    """Features the other way round."""

    def forward(self, x):
        return x.transpose(1, 2)


class Patches(nn.Module):
    """[B, 1, 8, 8] -> [B, 4, 16]: tokens that an image convolution made and that lie channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 2, 2), nn.Flatten(2))
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.body(x)).mean(1)


@pytest.mark.parametrize(
    ("network", "position", "shape", "topology", "channels"),
    [
        (Series, "body", (2, 3, 7), "cnn1d", 4),
        (lambda: Series(nn.GroupNorm(2, 4)), "body", (2, 3, 7), "cnn1d", 4),
        (lambda: Series(nn.MaxPool1d(2)), "body", (2, 3, 7), "cnn1d", 4),
        (lambda: Series(nn.BatchNorm1d(4)), "body.2", (2, 3, 7), "cnn1d", 4),
        (lambda: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)), "1", (2, 5), "mlp", 6),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3)), "1", (2, 1, 8, 8), "mlp", 72),
        (lambda: nn.Sequential(nn.Linear(4, 6), nn.Flatten(), nn.Linear(18, 3)), "0", (2, 3, 4), "transformer", 6),
    ],
)
def test_the_layer_that_makes_features_tells_what_they_are(network, position, shape, topology, channels):
    model = esper.grow(network(), {"mid": position}, torch.randn(shape))
    assert model.host.topology == topology and model.slots["mid"].channels == channels
    for blueprint in BlueprintRegistry.list_specs(topology):
        slot = esper.grow(network(), {"mid": position}, torch.randn(shape))
        slot.germinate_seed(blueprint.name, "s", "mid")
        assert slot(torch.randn(shape)).shape == (2, 3)


class Counting(nn.Module):
    """Whole numbers between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Rounds(1, 3, 1), nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.body(x).float().mean((2, 3)))


class Rounds(nn.Conv2d):
    def forward(self, x):
        return super().forward(x).long()


class TimeFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.lstm(x.transpose(0, 1))[0][-1])


class ChannelsLast(nn.Module):
    """Features [B, H, W, C], which look like [B, C, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(1, 6), nn.LayerNorm(6)), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.body(x.permute(0, 2, 3, 1)).mean((1, 2)))


class ByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Weighted(), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.body(x).mean(1))


class Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 5))

    def forward(self, x):
        return x @ self.weight


@pytest.mark.parametrize(
    ("network", "position", "shape", "reason", "topology"),
    [
        (lambda: Series(Swap()), "body", (2, 3, 7), "made by Conv1d; .*topology=transformer", "transformer"),
        (Patches, "body", (2, 1, 8, 8), "made by Conv2d; .*topology=transformer or topology=cnn1d", "cnn1d"),
        (Counting, "body", (2, 1, 8, 8), r"its output is \[2, 3, 8, 8\] torch.int64", None),
        (TimeFirst, "lstm", (2, 5, 4), "whose first dimension is not the batch, 2", None),
        (ChannelsLast, "body", (2, 1, 8, 8), "made by LayerNorm", "cnn"),
        (ByHand, "body", (2, 6, 4), "made by no layer that tells", "transformer"),
    ],
)
def test_topology_is_told_by_layers_or_the_user_and_never_by_the_number_of_dimensions(
    network, position, shape, reason, topology
):
    with pytest.raises(ConfigError, match=f"(?s){reason}"):
        esper.grow(network(), {"mid": position}, torch.randn(shape))
    if topology:
        model = esper.grow(network(), {"mid": position}, torch.randn(shape), topology=topology)
        assert model.host.topology == topology
        model.germinate_seed("norm", "s", "mid")
        assert model(torch.randn(shape)).shape == (2, 3)
    with pytest.raises(ConfigError, match="topology='image': must be one of cnn, transformer, mlp, cnn1d"):
        esper.grow(network(), {"mid": position}, torch.randn(shape), topology="image")


@pytest.mark.parametrize("norm", [nn.LayerNorm([2, 8, 8]), nn.GroupNorm(2, 2), nn.InstanceNorm2d(2)], ids=repr)
def test_norms_of_images_leave_them_images(norm):
    body = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), norm)
    network = nn.Sequential(body, nn.Flatten(), nn.Linear(128, 3))
    assert esper.grow(network, {"mid": "0"}, torch.randn(2, 1, 8, 8)).host.topology == "cnn"


class KeptElsewhere(nn.Module):
    """Calls its layers from a list of its own, where no slot can be put."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.flatten, self.head = nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(128, 3)
        self.order = [self.conv, self.flatten, self.head]

    def forward(self, x):
        for layer in self.order:
            x = layer(x)
        return x


class LooksInside(nn.Module):
    """Indexes, counts, reads and sets what a slot stands behind."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU())
        self.body.scale = 2.0
        self.flatten, self.head = nn.Flatten(), nn.Linear(128, 3)

    def forward(self, x):
        self.body.scale = self.body.scale + 1.0
        assert len(self.body) == 2 and next(iter(self.body)) is self.body[0]
        return self.head(self.flatten(self.body(x) * self.body[0].weight.sum() * self.body.scale))


def test_a_submodule_that_is_called_from_elsewhere_takes_no_slot():
    with pytest.raises(ConfigError, match=r"slots\.mid=conv: the network keeps it in another place"):
        esper.grow(KeptElsewhere(), {"mid": "conv"}, torch.randn(2, 1, 8, 8))


def test_what_a_network_asks_of_a_grafted_submodule_it_gets():
    network, x = LooksInside(), torch.randn(2, 1, 8, 8)
    model = esper.grow(network, {"mid": "body"}, x)
    assert network.body.scale == model.host.module.body.scale == 2.0
    torch.testing.assert_close(model(x), network(x), rtol=0, atol=0)
    assert model.host.module.body.inner.scale == 3.0


def test_hooks_and_derived_tensors_come_along_and_hooks_on_the_network_itself_are_refused():
    network, x = ResNet(), torch.randn(2, 1, 8, 8)
    prune.l1_unstructured(network.stem, "weight", 0.5)
    network.head.weight.register_hook(lambda grad: grad * 0.0)
    model = esper.grow(network, {"mid": "layer1"}, x)
    for one in (network, model):
        one(x).sum().backward()
    torch.testing.assert_close(model.host.module.stem.weight_orig.grad, network.stem.weight_orig.grad, rtol=0, atol=0)
    assert not model.host.module.head.weight.grad.any() and not network.head.weight.grad.any()
    network.layer1.register_forward_hook(lambda layer, inputs, output: output + network.stem.bias.sum())
    with pytest.raises(ConfigError, match="layer1: a function or hook in it holds on"):
        esper.grow(network, {"mid": "layer1"}, x)


def test_parameters_that_share_memory_without_being_one_are_refused():
    network, flat = ResNet(), torch.randn(12)
    network.stem.bias = nn.Parameter(flat[:6])
    network.layer1.norm1.bias = nn.Parameter(flat[3:9])
    with pytest.raises(ConfigError, match=r"stem\.bias and layer1\.norm1\.bias share memory"):
        esper.grow(network, {"mid": "layer1"}, torch.randn(2, 1, 8, 8))


def test_layers_that_came_in_evaluation_mode_stay_in_it_and_a_network_that_did_does_not():
    network, x = ResNet(), torch.randn(2, 1, 8, 8)
    network.layer1.norm1.eval()
    model = esper.grow(network, {"mid": "layer1"}, x)
    for _ in range(2):
        model.eval().train()
        assert not model.host.module.layer1.norm1.training and model.host.module.layer1.norm2.training
    assert all(part.training for part in esper.grow(network.eval(), {"mid": "layer1"}, x).train().modules())


def test_lazy_layers_take_on_their_shapes():
    network = ResNet()
    network.stem = nn.LazyConv2d(6, 3, padding=1)
    model = esper.grow(network, {"mid": "layer1"}, torch.randn(2, 1, 8, 8))
    assert model.host.module.stem.weight.shape == (6, 1, 3, 3)
    assert nn.parameter.is_lazy(network.stem.weight)  # the network itself stays as it was


class Reaches(nn.Module):
    """A network some of which is reached by another way than its layers."""

    def __init__(self, how) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU())
        self.flatten, self.head = nn.Flatten(), nn.Linear(128, 3)
        self.register_buffer("shift", torch.ones(()))
        box, head, weight, shift, flatten = [self.head], self.head, self.head.weight, self.shift, self.flatten
        self.last = {
            "lambda": lambda x: self.head(x),
            "box": lambda x: box[0](x),
            "parameter": lambda x: x @ weight.t(),
            "buffer": lambda x: x + shift,
            "layer without weights": lambda x: flatten(x),
            "default": lambda x, head=head: head(x),
            "keyword default": lambda x, *, head=head: head(x),
            "attribute": attributed(lambda x: x, head=head),
            "weak reference": weakref.ref(self.head),
            "global": lambda x: REGISTRY["head"](x),
            "method": self.final,
        }[how]
        REGISTRY["head"] = self.head

    def final(self, x):
        return self.head(x)

    def forward(self, x):
        last = self.last() if isinstance(self.last, weakref.ref) else self.last
        return last(self.flatten(self.body(x)))


def attributed(function, **attributes):
    vars(function).update(attributes)
    return function


REGISTRY: dict[str, nn.Module] = {}
HELD = ["lambda", "box", "parameter", "buffer", "layer without weights", "default", "keyword default", "attribute"]


@pytest.mark.parametrize("how", [*HELD, "weak reference", "global"])
def test_a_copy_that_would_still_reach_the_original_is_refused(how):
    reason = "a copy of the network still uses it" if how == "global" else "holds on to the network"
    with pytest.raises(ConfigError, match=reason):
        esper.grow(Reaches(how), {"mid": "body"}, torch.randn(2, 1, 8, 8))
    assert esper.grow(Reaches("method"), {"mid": "body"}, torch.randn(2, 1, 8, 8))


def test_a_hook_of_a_parameter_that_reaches_the_network_is_refused_too():
    network = ResNet()
    network.stem.weight.register_hook(lambda grad: grad * network.head.bias.sum())
    with pytest.raises(ConfigError, match="stem: a function or hook in it holds on"):
        esper.grow(network, {"mid": "layer1"}, torch.randn(2, 1, 8, 8))


class OwnParameters(ResNet):
    def parameters(self, recurse=True):
        return self.head.parameters()


class OwnNames(ResNet):
    def parameters(self, recurse=True):
        return (held for part in self.modules() for held in part._parameters.values() if held is not None)

    def named_parameters(self, *arguments, **settings):
        return self.head.named_parameters()


class FromData(ResNet):
    """A buffer that is made from the first minibatch."""

    def forward(self, x):
        if not hasattr(self, "mean"):
            self.register_buffer("mean", x.mean())
        return super().forward(x - self.mean)


class Forgets(ResNet):
    def __init__(self) -> None:
        super().__init__()
        self.scale = 2.0

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "scale"}


class CopiesItself(nn.ReLU):
    def __deepcopy__(self, memo):
        return self


class CopiesToAnother(nn.ReLU):
    def __deepcopy__(self, memo):
        return nn.ReLU(self.inplace)


def with_layer(kind):
    network = ResNet()
    network.layer2.relu = kind()
    return network


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (OwnParameters, r"OwnParameters: parameters\(\) gives others"),
        (OwnNames, r"OwnNames: parameters\(\) gives others"),
        (FromData, "mean: is made from the first minibatch"),
        (Forgets, "Forgets: a copy of it is not as it is"),
        (lambda: with_layer(CopiesItself), r"layer2\.relu: a copy of it is not as it is"),
        (lambda: with_layer(CopiesToAnother), r"layer2\.relu: a copy of it is not as it is"),
    ],
)
def test_networks_that_a_copy_would_not_be_are_refused(network, reason):
    with pytest.raises(ConfigError, match=reason):
        esper.grow(network(), {"mid": "layer1"}, torch.randn(2, 1, 8, 8))


def parametrised(kind):
    network = ResNet()
    network.layer1 = kind(nn.Conv2d(6, 6, 3, padding=1))
    return network


class CopiesAll(nn.Conv2d):
    def __deepcopy__(self, memo):
        twin = CopiesAll(6, 6, 3, padding=1).to(self.weight)
        twin.load_state_dict(self.state_dict())
        memo[id(self)] = twin
        return twin


def copies_itself():
    network = ResNet()
    network.layer1 = CopiesAll(6, 6, 3, padding=1)
    return network


OF_THEIR_OWN_CLASS = {
    "weight norm": lambda: parametrised(nn.utils.parametrizations.weight_norm),
    "spectral norm": lambda: parametrised(nn.utils.parametrizations.spectral_norm),
    "orthogonal": lambda: parametrised(nn.utils.parametrizations.orthogonal),
    "traced by fx": lambda: torch.fx.symbolic_trace(ResNet()),
    "copies itself": copies_itself,
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", ["sequential", None])
@pytest.mark.parametrize("case", OF_THEIR_OWN_CLASS)
def test_layers_of_classes_made_for_them_grow_and_train_one_by_one(case, kind):
    torch.manual_seed(0)
    x, y = torch.randn(12, 1, 8, 8, dtype=torch.float64), torch.arange(12) % 3
    networks = [OF_THEIR_OWN_CLASS[case]().double() for _ in range(2)]
    path = "stem" if case == "traced by fx" else "layer1"  # a trace has no layers but torch's
    models = [esper.grow(network, {"mid": path}, x[:2]) for network in networks]
    Population(models, OptimizerConfig(momentum=0.0, learning_rate=0.1), kind).train_epoch(x, y, torch.arange(12), 6)
    for network, model in zip(networks, models, strict=True):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for batch in torch.arange(12).split(6):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
            optimizer.step()
        torch.testing.assert_close(model.eval()(x), network.eval()(x), rtol=1e-9, atol=1e-9)


class LeavesOut(nn.Conv2d):
    def __init__(self):
        super().__init__(6, 6, 3, padding=1)
        self.scale = 2.0

    def __deepcopy__(self, memo):
        twin = LeavesOut()
        del twin.scale
        return twin


def compiled_in_place():
    network = ResNet()
    network.layer2.compile(backend="eager")
    return network


def in_layer1(layer):
    network = ResNet()
    network.layer1 = layer
    return network


@pytest.mark.parametrize(
    ("network", "path", "reason"),
    [
        (lambda: in_layer1(LeavesOut()), "layer1", "^layer1: a copy of it is not as it is, as LeavesOut copies itself"),
        (lambda: torch.compile(ResNet(), backend="eager"), "layer1", r"network is compiled \(OptimizedModule\)"),
        (lambda: torch.compile(ResNet(), backend="eager"), "_orig_mod.layer1", "the network is compiled"),
        (lambda: in_layer1(torch.compile(Residual(6), backend="eager")), "layer1", "layer1 is compiled"),
        (
            lambda: in_layer1(torch.compile(Residual(6), backend="eager")),
            "layer1._orig_mod.relu",
            "layer1 is compiled",
        ),
        (compiled_in_place, "layer1", "^layer2: is compiled in place"),
        (lambda: torch.jit.trace(ResNet(), torch.randn(2, 1, 8, 8)), "layer1", "the network is TorchScript"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_what_is_made_of_layers_and_does_not_run_them_is_named(network, path, reason):
    with pytest.raises(ConfigError, match=reason):
        esper.grow(network(), {"mid": path}, torch.randn(2, 1, 8, 8))
