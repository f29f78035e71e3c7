"""Contracts, section kasmina: the registry and what it ships."""

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.blueprints.registry import REFERENCE_WIDTH, BlueprintRegistry

SHIPPED = {
    "cnn": ["norm", "conv_enhance", "conv_light", "conv_heavy", "conv_small", "attention", "depthwise", "bottleneck"],
    "transformer": ["norm", "lora", "lora_large", "attention", "mlp_small", "mlp", "flex_attention"],
    "mlp": ["norm", "bottleneck", "hidden", "gated", "wide"],
    "cnn1d": ["norm", "conv_light", "depthwise", "bottleneck"],
}
EVERY_ONE = [(topology, name) for topology, names in SHIPPED.items() for name in names]


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry of which the others see nothing."""
    copies = {topology: dict(specs) for topology, specs in BlueprintRegistry._specs.items()}
    monkeypatch.setattr(BlueprintRegistry, "_specs", copies)


def inputs(topology: str, dim: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shapes = {"cnn": (2, dim, 6, 6), "transformer": (2, 6, dim), "mlp": (2, dim), "cnn1d": (2, dim, 6)}
    return torch.randn(shapes[topology], generator=generator)


@pytest.mark.parametrize("topology", SHIPPED)
def test_what_is_listed_is_what_is_promised_smallest_first(topology: str) -> None:
    specs = BlueprintRegistry.list_specs(topology)
    assert {spec.name for spec in specs} >= set(SHIPPED[topology])
    sizes = [spec.param_estimate for spec in specs]
    assert sizes == sorted(sizes)
    assert all(spec.description for spec in specs)


@pytest.mark.parametrize(("topology", "name"), EVERY_ONE)
def test_every_blueprint_is_what_it_says(topology: str, name: str) -> None:
    (spec,) = (spec for spec in BlueprintRegistry.list_specs(topology) if spec.name == name)
    seed = BlueprintRegistry.create(topology, name, REFERENCE_WIDTH)
    assert isinstance(seed, nn.Module)
    parameters = sum(parameter.numel() for parameter in seed.parameters())
    assert abs(parameters - spec.param_estimate) <= 0.1 * parameters
    for dim in (8, 24):
        x = inputs(topology, dim)
        assert BlueprintRegistry.create(topology, name, dim=dim)(x).shape == x.shape


def test_anyone_may_register(scratch: None) -> None:
    @BlueprintRegistry.register("double", "cnn", param_estimate=0, description="nothing much")
    def build(dim: int, factor: float = 2.0) -> nn.Module:
        return nn.Upsample(scale_factor=factor)

    assert BlueprintRegistry.list_specs("cnn")[0].name == "double"
    assert BlueprintRegistry.create("cnn", "double", 8, factor=3.0).scale_factor == 3.0
    assert isinstance(build(8), nn.Module)  # the decorator gives the function back


@pytest.mark.parametrize(
    ("topology", "name", "nearest"),
    [("cnn", "conv_lihgt", "conv_light"), ("transformer", "mlp_smal", "mlp_small"), ("cnn", "atention", "attention")],
)
def test_an_unknown_name_is_answered_with_the_known_and_the_nearest(topology: str, name: str, nearest: str) -> None:
    with pytest.raises(ValueError) as caught:
        BlueprintRegistry.create(topology, name, 8)
    message = str(caught.value)
    assert name in message and all(known in message for known in SHIPPED[topology])
    assert f"{nearest!r}" in message


def test_an_unknown_topology_is_answered_too() -> None:
    for call in (BlueprintRegistry.list_specs, lambda topology: BlueprintRegistry.create(topology, "norm", 8)):
        with pytest.raises(ValueError, match=r"cnn.*transformer"):
            call("transfomer")


# ---- mlp, with and without its activations


@pytest.fixture
def mlps() -> tuple[nn.Module, nn.Module]:
    plain, frugal = (BlueprintRegistry.create("transformer", "mlp", 32, checkpoint=flag) for flag in (False, True))
    for parameter in plain.parameters():
        nn.init.normal_(parameter, std=0.1)
    frugal.load_state_dict(plain.state_dict())
    return plain, frugal


def kept_bytes(module: nn.Module, x: Tensor) -> int:
    """Activations that a training step keeps for its backward pass, parameters aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(x)
    output.sum().backward()
    return sum(kept.values())


def test_a_checkpointed_mlp_computes_the_same(mlps: tuple[nn.Module, nn.Module]) -> None:
    plain, frugal = mlps
    gradients = []
    for module in mlps:
        x = inputs("transformer", 32).requires_grad_()
        module(x).square().sum().backward()
        gradients.append([x.grad, *(parameter.grad for parameter in module.parameters())])
    assert torch.equal(plain(inputs("transformer", 32)), frugal(inputs("transformer", 32)))
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right)
    x = inputs("transformer", 32)
    assert torch.equal(plain.eval()(x), frugal.eval()(x))


def test_a_checkpointed_mlp_keeps_less(mlps: tuple[nn.Module, nn.Module]) -> None:
    x = torch.randn(4, 64, 32, requires_grad=True)
    plain, frugal = (kept_bytes(module, x) for module in mlps)
    assert frugal < 0.5 * plain


# ---- attention looks back only


@pytest.mark.parametrize("name", SHIPPED["transformer"])
@pytest.mark.parametrize("with_gradient", [False, True])
def test_no_seed_sees_later_tokens(name: str, with_gradient: bool) -> None:
    seed = BlueprintRegistry.create("transformer", name, 32)
    for parameter in seed.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 12, 32)
    later = x.clone()
    later[:, 7:] += torch.randn(2, 5, 32)
    with torch.set_grad_enabled(with_gradient):
        before, after = seed(x), seed(later)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_flex_attention_looks_back_at_all() -> None:
    seed = BlueprintRegistry.create("transformer", "flex_attention", 32)
    for parameter in seed.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 12, 32)
    earlier = x.clone()
    earlier[:, 0] += torch.randn(2, 32)
    with torch.no_grad():
        assert (seed(x) - seed(earlier)).abs().amax(-1).gt(1e-6).all()
