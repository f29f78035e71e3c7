"""What every host promises, and what each of them computes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from esper.errors import ConfigError
from esper.kasmina import CNNHost, Decoder, MLPHost, MorphogeneticModel, ResNetHost, TransformerHost, ViTHost
from esper.kasmina.vit import cut_patches

IMAGES, TOKENS = (3, 8, 8), (6,)
HOSTS = {
    "cnn": (lambda generator: CNNHost(5, channels=[4, 8, 8], generator=generator), IMAGES),
    "transformer": (lambda generator: TransformerHost(5, 8, 2, 3, 6, generator), TOKENS),
    "decoder": (lambda generator: Decoder(5, 8, 2, 3, 6, generator=generator), TOKENS),
    "mlp": (lambda generator: MLPHost(5, 192, [4, 8, 8], generator), IMAGES),
    "mlp of vectors": (lambda generator: MLPHost(5, 7, [4, 8, 8], generator), (7,)),
    "resnet": (lambda generator: ResNetHost(5, 8, 4, generator=generator), IMAGES),
    "resnet-14": (lambda generator: ResNetHost(5, 14, 4, generator=generator), (3, 9, 7)),
    "vit": (lambda generator: ViTHost(5, IMAGES, 4, 8, 2, 3, generator), IMAGES),
}
EVERY = pytest.mark.parametrize("name", HOSTS)


def make(name, seed=0):
    return HOSTS[name][0](torch.Generator().manual_seed(seed))


def inputs(name, count=4):
    shape = (count, *HOSTS[name][1])
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randint(5, shape, generator=generator)
        if HOSTS[name][1] == TOKENS
        else torch.randn(shape, generator=generator)
    )


@EVERY
def test_weights_follow_from_the_generator_alone(name):
    before = torch.random.get_rng_state()
    one, same, other = make(name), make(name), make(name, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    for (key, tensor), again in zip(one.state_dict().items(), same.state_dict().values(), strict=True):
        assert torch.equal(tensor, again), key
    assert any(not torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


@EVERY
def test_a_host_grows_at_its_three_depths(name):
    model, x = MorphogeneticModel(make(name)), inputs(name)
    before = model.eval()(x)
    assert before.shape[-1] == 5 and len(model.host.injection_points) == 3
    for slot in model.slots:
        model.germinate_seed("norm", slot, slot)
    assert list(model.slots) == ["early", "mid", "late"] and torch.equal(model.eval()(x), before)
    assert model.flops_per_sample(HOSTS[name][1]) > 2 * sum(
        part.weight.numel() for part in model.modules() if isinstance(part, nn.Linear)
    )


@pytest.mark.sampled(2)
@EVERY
def test_one_graph_holds_the_whole_pass(name):
    host, x = make(name).eval(), inputs(name)
    compiled = torch.compile(host, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), host(x))


@EVERY
def test_every_weight_of_a_host_has_a_gradient(name):
    host, x = make(name), inputs(name, 16)
    logits = host(x).flatten(0, -2)
    F.cross_entropy(logits, torch.arange(len(logits)) % 5).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in host.parameters())


def test_the_stages_of_a_resnet_halve_the_image_and_double_the_width():
    host, seen = ResNetHost(depth=14, width=4), []
    for stage in host.stages:
        stage.register_forward_hook(lambda layer, given, out: seen.append(tuple(out.shape)))
    host(torch.randn(2, 3, 9, 9))
    assert seen == [(2, 4, 9, 9), (2, 8, 5, 5), (2, 16, 3, 3)] and host.injection_points["stage3"] == 16
    layers = [part for part in host.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert len(layers) == 14 + 2  # and the two that bring what is passed by to the new shape


def test_patches_are_squares_row_by_row():
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    patches = cut_patches(x, 2)
    assert patches.shape == (2, 6, 12)
    for number in range(6):
        row, column = 2 * (number // 3), 2 * (number % 3)
        assert torch.equal(patches[:, number], x[:, :, row : row + 2, column : column + 2].flatten(1))


def test_a_vit_looks_at_all_patches_and_knows_their_places():
    host, x = make("vit").eval(), inputs("vit")
    moved = x.flip(-1).requires_grad_()
    first = []
    host.layers[0].register_forward_hook(lambda layer, given, out: first.append(out[:, 0]))
    assert not torch.allclose(host(x), host(moved))
    (gradient,) = torch.autograd.grad(first[-1].sum(), moved)
    assert gradient.abs().sum((0, 1)).all()  # of the first patch's features, with respect to every pixel


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: MLPHost(5, 4, []), r"host.widths=\[\]"),
        (lambda: MLPHost(5, 4, [4, 0]), r"host.widths=\[4, 0\]"),
        (lambda: ResNetHost(depth=9), r"host.depth=9: must be 6n \+ 2"),
        (lambda: ResNetHost(depth=2), "host.depth=2"),
        (lambda: ViTHost(5, IMAGES, 3, 8, 2, 3), "host.patch=3: must divide images of 8x8"),
        (lambda: ViTHost(5, IMAGES, 4, 8, 3, 3), "host.n_head=3"),
        (lambda: ViTHost(5, IMAGES, 4, 8, 2, 0), "host.n_layer=0"),
    ],
)
def test_sizes_that_come_to_nothing_are_refused(build, reason):
    with pytest.raises(ConfigError, match=reason):
        build()
