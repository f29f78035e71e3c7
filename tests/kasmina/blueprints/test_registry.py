import pytest
import torch
from torch import nn

from esper.errors import BlueprintError
from esper.kasmina.blueprints.registry import BlueprintRegistry

CNN = ("norm", "attention", "conv_small", "bottleneck", "depthwise", "conv_light", "conv_enhance", "conv_heavy")
TRANSFORMER = ("norm", "lora", "lora_large", "mlp_small", "attention", "flex_attention", "mlp")
MLP = ("norm", "bottleneck", "gated", "hidden", "wide")
EVERY = pytest.mark.parametrize(
    ("topology", "name"),
    [
        (topology, name)
        for topology, names in {"cnn": CNN, "transformer": TRANSFORMER, "mlp": MLP, "cnn1d": CNN}.items()
        for name in names
    ],
)


@pytest.fixture
def scratch(monkeypatch):
    monkeypatch.setattr(BlueprintRegistry, "_specs", {name: dict(s) for name, s in BlueprintRegistry._specs.items()})


@pytest.mark.sampled(56)
@EVERY
@pytest.mark.parametrize("width", [1, 3, 8, 40])
def test_a_seed_keeps_the_shape_at_any_width_and_can_be_traced(topology, name, width):
    seed = BlueprintRegistry.create(topology, name, width)
    shapes = {"cnn": (2, width, 5, 7), "transformer": (2, 9, width), "mlp": (2, width), "cnn1d": (2, width, 9)}
    features = torch.ones(shapes[topology])
    assert seed(features).shape == features.shape
    traced = torch.fx.symbolic_trace(seed)
    functions = {node.target.__name__ for node in traced.graph.nodes if node.op == "call_function"}
    assert functions <= {"bound_residual", "mul", "add", "attend", "attend_flexibly"}
    assert torch.equal(traced(features), seed(features))


def test_an_option_reaches_the_blueprint(features):
    seed = BlueprintRegistry.create("cnn", "conv_small", 4, max_ratio=0.1)
    nn.init.constant_(seed.body[-1].weight, 1e3)
    x = features(channels=4)
    change = (seed(x) - x).flatten(1).norm(dim=1)
    torch.testing.assert_close(change, 0.1 * x.flatten(1).norm(dim=1), rtol=1e-3, atol=0)


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    with pytest.raises(BlueprintError, match=r"'conv_lihgt'; did you mean 'conv_light'\?\n.* norm, .*conv_heavy$"):
        BlueprintRegistry.create("cnn", "conv_lihgt", 8)
    with pytest.raises(BlueprintError, match=r"'mlp' is for transformer hosts: cnn hosts take norm, .*conv_heavy$"):
        BlueprintRegistry.create("cnn", "mlp", 8)
    with pytest.raises(BlueprintError, match=r"no topology 'cn'.*did you mean 'cnn'\?"):
        BlueprintRegistry.list_specs("cn")


def test_a_blueprint_of_ones_own_is_listed_and_built(scratch):
    @BlueprintRegistry.register("mine", "cnn", param_estimate=1, description="of my own")
    def build(dim: int, max_ratio: float = 1.0) -> nn.Module:
        return nn.Identity()

    assert BlueprintRegistry.list_specs("cnn")[0].name == "mine"
    assert isinstance(BlueprintRegistry.create("cnn", "mine", 8), nn.Identity)
    with pytest.raises(BlueprintError, match="'mine' is registered twice"):
        BlueprintRegistry.register("mine", "cnn", param_estimate=1)(build)


def test_a_family_is_known_and_the_same_wherever_the_name_is(scratch):
    def register(name, family=None):
        BlueprintRegistry.register(name, "sequence", param_estimate=1, family=family)(nn.Identity)
        return BlueprintRegistry.spec("sequence", name).family

    assert (register("mine"), register("norm"), register("thrifty", "depthwise")) == ("conv", "norm", "depthwise")
    with pytest.raises(BlueprintError, match=r"no family 'nrom'; did you mean 'norm'\?\n  known are conv, "):
        register("other", "nrom")
    with pytest.raises(
        BlueprintError, match="'attention' is of the family 'attention' elsewhere: name it so, or rename one"
    ):
        register("attention", "conv")
