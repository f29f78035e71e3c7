"""Networks of the kinds that tracing, stacking and functional training are reported to change in silence.

Each is [B, 2, 8, 8] -> [B, 5], in float64, with a submodule `body` whose output takes a seed.
"""

import functools
import random
import types
import warnings
from collections import OrderedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint

WIDTH = 4


def conv(kernel=3, ins=WIDTH, outs=WIDTH, **settings):
    return nn.Conv2d(ins, outs, kernel, padding=kernel // 2, **settings)


class Base(nn.Module):
    """stem, body, head; kinds replace parts of it or of its forward pass."""

    def __init__(self, *body, stem=None, head=None):
        super().__init__()
        self.stem = stem or conv(ins=2)
        self.body = nn.Sequential(*(body or (conv(), nn.BatchNorm2d(WIDTH), nn.ReLU())))
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.head = head or nn.Linear(WIDTH, 5)

    def features(self, x):
        return self.body(self.stem(x))

    def forward(self, x):
        return self.head(self.flatten(self.pool(self.features(x))))


def frozen_layer():
    net = Base()
    net.stem.requires_grad_(False)
    return net


def frozen_parameter():
    net = Base()
    net.body[0].bias.requires_grad_(False)
    return net


def frozen_in_one_member():
    is_frozen = bool(torch.rand(()) > 0.5)
    net = Base()
    net.stem.requires_grad_(not is_frozen)
    return net


def frozen_norm():
    net = Base()
    net.body[1].requires_grad_(False)
    return net


def all_frozen_but_the_head():
    net = Base()
    net.requires_grad_(False)
    net.head.requires_grad_(True)
    return net


class Unused(Base):
    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.ones(()))


class SometimesUnused(Base):
    """A branch that takes part in every other training step only; of two members, in turns."""

    def __init__(self):
        calls = int(torch.rand(()) > 0.5)
        super().__init__()
        self.extra = conv()
        self.calls = calls

    def features(self, x):
        x = super().features(x)
        self.calls += self.training
        return x + self.extra(x) if self.calls % 2 else x


def forward_hook():
    net = Base()
    net.body[0].register_forward_hook(lambda layer, inputs, output: output * 0.5)
    return net


def pre_hook():
    net = Base()
    net.body.register_forward_pre_hook(lambda layer, inputs: (inputs[0] + 1.0,))
    return net


def backward_hook():
    net = Base()
    net.body[0].register_full_backward_hook(lambda layer, grads, outputs: (grads[0] * 0.1,))
    return net


def tensor_hook():
    net = Base()
    net.body[0].weight.register_hook(lambda grad: grad * 0.0)
    return net


class HookedByMethod(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0, 0.0]).view(-1, 1, 1, 1))
        self.body[0].weight.register_hook(self.masked)
        self.stem.register_forward_hook(self.shifted)

    def masked(self, grad):
        return grad * self.mask

    def shifted(self, layer, inputs, output):
        return output + self.mask.view(1, -1, 1, 1)


def global_pool_hook_on_root():
    net = Base()
    net.register_forward_hook(lambda layer, inputs, output: output * 2.0)
    return net


class OwnTrain(Base):
    def train(self, mode=True):
        super().train(mode)
        self.body[1].eval()
        return self


def own_train():
    return OwnTrain().train()


def left_in_eval():
    net = Base()
    net.body[1].eval()
    return net


def dropout_left_in_eval():
    net = Base(conv(), nn.Dropout(0.5), nn.ReLU())
    net.body[1].eval()
    return net


def norm_settings():
    return Base(conv(), nn.BatchNorm2d(WIDTH, eps=0.1, momentum=0.5), nn.ReLU())


def cumulative_norm():
    return Base(conv(), nn.BatchNorm2d(WIDTH, momentum=None), nn.ReLU())


def norm_without_statistics():
    return Base(conv(), nn.BatchNorm2d(WIDTH, track_running_stats=False), nn.ReLU())


def norm_without_scale():
    return Base(conv(), nn.BatchNorm2d(WIDTH, affine=False), nn.ReLU())


class NormTwice(Base):
    """One batch norm that runs twice a pass."""

    def features(self, x):
        return self.body(self.body[1](self.stem(x)))


class InplaceShared(Base):
    """The ReLU writes into what the sum reads again."""

    def __init__(self):
        super().__init__(conv(), nn.BatchNorm2d(WIDTH))
        self.relu = nn.ReLU(inplace=True)

    def features(self, x):
        x = self.body(self.stem(x))
        y = self.relu(x)
        return x + y


class InplaceThroughView(Base):
    def __init__(self):
        super().__init__(conv(), nn.BatchNorm2d(WIDTH))
        self.same, self.relu = nn.Identity(), nn.ReLU(inplace=True)

    def features(self, x):
        x = self.body(self.stem(x))
        self.relu(self.same(x))
        return x


class InplaceFunction(Base):
    def features(self, x):
        x = self.stem(x)
        y = F.relu(x, inplace=True)
        return self.body(x + y)


class AugmentedSum(Base):
    def features(self, x):
        x = self.stem(x)
        y = x * 1.0
        z = y
        y += 1.0
        return self.body(x) + z


def inplace_alone():
    return Base(conv(), nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=True))


class Counts(Base):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def features(self, x):
        self.calls += 1
        return super().features(x) * (1.0 + self.calls % 3)


class History(Base):
    """Python containers and plain tensors that a pass changes."""

    def __init__(self):
        super().__init__()
        self.seen = {"steps": [], "last": None}
        self.average = torch.zeros(())

    def features(self, x):
        x = super().features(x)
        if self.training:
            self.seen["steps"].append(len(self.seen["steps"]))
            self.average = 0.9 * self.average + 0.1 * x.detach().mean()
        return x - self.average * len(self.seen["steps"])


class CountingBuffer(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def features(self, x):
        self.calls += 1
        return super().features(x) + self.calls * 0.01


class ReplacedBuffer(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH, dtype=torch.float64))

    def features(self, x):
        x = super().features(x)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 2, 3))
        return x - self.mean.view(1, -1, 1, 1)


class SharedBuffer(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH, dtype=torch.float64))
        self.body.register_buffer("mean", self.mean)

    def features(self, x):
        x = super().features(x)
        if self.training:
            self.mean.lerp_(x.detach().mean((0, 2, 3)), 0.1)
        return x - self.body.mean.view(1, -1, 1, 1)


class ClampsWeights(Base):
    def features(self, x):
        self.body[0].weight.data.clamp_(-0.1, 0.1)
        return super().features(x)


class MovesWeights(Base):
    def features(self, x):
        self.body[0].weight.data = self.body[0].weight.data.clamp(-0.1, 0.1)
        return super().features(x)


class ConstantTensor(Base):
    def __init__(self):
        super().__init__()
        self.shift = torch.full((1, WIDTH, 1, 1), 0.3, dtype=torch.float64)

    def features(self, x):
        return super().features(x) + self.shift


class ScalingConv(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 0.5


class QuantisedConv(nn.Conv2d):
    """Fake quantisation with a straight-through gradient."""

    def _conv_forward(self, x, weight, bias):
        rounded = (weight * 8.0).round() / 8.0
        return super()._conv_forward(x, weight + (rounded - weight).detach(), bias)


def scaling_conv():
    return Base(ScalingConv(WIDTH, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU())


def quantised_conv():
    return Base(QuantisedConv(WIDTH, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU())


class LibraryConv(nn.Conv2d):
    """Of a library that extends torch.nn, and so a leaf to whoever traces."""

    def forward(self, x):
        return super().forward(x) * 0.5


LibraryConv.__module__ = "torch.nn.quantisation"


def library_conv():
    return Base(LibraryConv(WIDTH, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU())


class LeakyNamedReLU(nn.ReLU):
    def forward(self, x):
        return F.leaky_relu(x, 0.2)


def own_relu():
    return Base(conv(), nn.BatchNorm2d(WIDTH), LeakyNamedReLU())


def instance_forward():
    net = Base()
    layer = net.body[0]
    layer.forward = types.MethodType(lambda self, x: F.conv2d(x, self.weight * 2.0, self.bias, padding=1), layer)
    return net


class StandardisedConv(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, padding=1)


def standardised_conv():
    return Base(StandardisedConv(WIDTH, WIDTH, 3), nn.ReLU())


def weight_norm():
    return Base(parametrizations.weight_norm(conv()), nn.ReLU())


def spectral_norm():
    return Base(parametrizations.spectral_norm(conv()), nn.ReLU())


def old_weight_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Base(nn.utils.weight_norm(conv()), nn.ReLU())


def old_spectral_norm():
    return Base(nn.utils.spectral_norm(conv()), nn.ReLU())


class Positive(nn.Module):
    def forward(self, weight):
        return F.softplus(weight)


def own_parametrisation():
    layer = conv()
    parametrize.register_parametrization(layer, "weight", Positive())
    return Base(layer, nn.ReLU())


def pruned():
    layer = conv()
    prune.l1_unstructured(layer, "weight", 0.5)
    return Base(layer, nn.BatchNorm2d(WIDTH), nn.ReLU())


def tied():
    net = Base(conv(), nn.ReLU(), conv())
    net.body[2].weight = net.body[0].weight
    return net


class TiedByFunction(Base):
    """The head's weights are used a second time, transposed."""

    def forward(self, x):
        h = self.flatten(self.pool(self.features(x)))
        return self.head(F.linear(self.head(h), self.head.weight.t()))


class ModuleTwice(Base):
    def __init__(self):
        super().__init__()
        self.again = conv()

    def features(self, x):
        return self.body(self.again(self.again(self.stem(x))))


class ParameterList(Base):
    """A Python list that holds parameters of its layers."""

    def __init__(self):
        super().__init__()
        self.held = [self.body[0].weight, self.body[0].bias]

    def features(self, x):
        return F.conv2d(super().features(x), *self.held, padding=1)


class NoGrad(Base):
    def features(self, x):
        with torch.no_grad():
            x = self.stem(x)
        return self.body(x)


class Detached(Base):
    def features(self, x):
        return self.body(self.stem(x).detach())


class Autocast(Base):
    def features(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            x = self.stem(x.float()) if self.stem.weight.dtype == torch.float32 else self.stem(x)
        return self.body(x)


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, grad):
        return -0.5 * grad


class OwnBackward(Base):
    def features(self, x):
        return self.body(Reversed.apply(self.stem(x)))


class Checkpointed(Base):
    def features(self, x):
        return checkpoint(self.body, self.stem(x), use_reentrant=False)


class DefaultArgument(Base):
    def __init__(self):
        super().__init__()
        self.inner = Scaled()

    def features(self, x):
        return self.inner(super().features(x))


class Scaled(nn.Module):
    def forward(self, x, mask=None):
        return x * 2.0 if mask is None else x * 3.0


class TypeBranch(Base):
    def features(self, x):
        x = super().features(x)
        return x * 2.0 if isinstance(x, torch.Tensor) else x


class TriesFirst(Base):
    def features(self, x):
        x = super().features(x)
        try:
            return x * 2.0 if x.sum() == x.sum() else x
        except TypeError:
            return x


class GradModeBranch(Base):
    def features(self, x):
        x = super().features(x)
        return x * 2.0 if x.requires_grad else x


class ShapeBranch(Base):
    def features(self, x):
        x = super().features(x)
        return x * 2.0 if len(x) == 16 else x


class TrainingBranch(Base):
    def features(self, x):
        x = super().features(x)
        return x * 2.0 if self.training else x


class Draws(Base):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def features(self, x):
        x = super().features(x)
        if not self.training:
            return x
        if self.how == "numpy":
            return x * np.random.rand()
        if self.how == "python":
            return x * random.random()
        return x * torch.rand((), dtype=x.dtype)


class StochasticDepth(Base):
    def __init__(self):
        super().__init__()
        self.extra = conv()

    def features(self, x):
        x = super().features(x)
        return x + self.extra(x) if self.training and random.random() < 0.5 else x


class OwnGenerator(Base):
    def __init__(self):
        super().__init__()
        self.generator = np.random.default_rng(3)

    def features(self, x):
        return super().features(x) * (self.generator.random() if self.training else 1.0)


def dropout():
    return Base(conv(), nn.Dropout(0.3), nn.ReLU())


def compiled():
    net = Base()
    net.head = torch.compile(net.head, backend="eager")
    return net


class LateBranch(Base):
    """A scale that a schedule of its own sets from a count."""

    def __init__(self):
        super().__init__()
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.scale = 1.0

    def features(self, x):
        if self.training:
            self.step += 1
            if int(self.step) == 3:
                self.scale = 0.25
        return super().features(x) * self.scale


class Lazily(Base):
    """A buffer that only the first pass registers."""

    def features(self, x):
        if not hasattr(self, "origin"):
            self.register_buffer("origin", torch.zeros_like(x[:1]))
        return super().features(x + self.origin)


def lazy():
    net = Base(nn.LazyConv2d(WIDTH, 3, padding=1), nn.ReLU())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net.double()(torch.zeros(1, 2, 8, 8, dtype=torch.float64))
    return net


class ScalarParameters(Base):
    def __init__(self):
        super().__init__()
        self.gain, self.none = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.zeros(0))

    def features(self, x):
        return super().features(x) * self.gain + self.none.sum()


class Complex(Base):
    def __init__(self):
        super().__init__()
        self.spectrum = nn.Parameter(torch.ones(WIDTH, 1, 1, dtype=torch.complex128))

    def features(self, x):
        return torch.fft.ifft2(torch.fft.fft2(super().features(x)) * self.spectrum).real


class IntegerParameter(Base):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.arange(4), requires_grad=False)

    def features(self, x):
        return super().features(x)[:, self.table.flip(0)]


class ExtraState(Base):
    def __init__(self):
        super().__init__()
        self.inner = types.SimpleNamespace(count=0)

    def features(self, x):
        self.inner.count += self.training
        return super().features(x) + self.inner.count

    def get_extra_state(self):
        return {"count": self.inner.count}

    def set_extra_state(self, state):
        self.inner.count = state["count"]


def strided():
    """The shortcut of a narrow residual network, whose backward pass corrupts memory in channels_last."""
    return Base(nn.Conv2d(WIDTH, 8, 1, stride=2), nn.ReLU(), head=nn.Linear(8, 5))


def wide_pool():
    return Base(conv(), nn.MaxPool2d(3, 2, 1), nn.ReLU())


def named():
    return Base(nn.Sequential(OrderedDict(first=conv(), second=nn.Tanh())), nn.Sigmoid())


class Squeezes(Base):
    def features(self, x):
        x = super().features(x)
        return x * torch.sigmoid(self.pool(x))


class LinearOnImages(Base):
    """A linear layer on the last dimension of an image."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(8, 8)

    def features(self, x):
        return self.mix(super().features(x))


class NormOfChannels(Base):
    def __init__(self):
        super().__init__(conv(), nn.GroupNorm(2, WIDTH), nn.SiLU())


def wrapped_pool():
    return Base(conv(), nn.AvgPool2d(2), nn.GELU())


def halve(parameter):
    parameter.grad.mul_(0.5)


def double(parameter):
    parameter.grad = parameter.grad.clone() * 2.0


class PostAccumulate(Base):
    def __init__(self):
        super().__init__()
        self.body[0].weight.register_post_accumulate_grad_hook(halve)


class ReplacesGradient(Base):
    def __init__(self):
        super().__init__()
        self.body[0].weight.register_post_accumulate_grad_hook(double)


class ClassCounter(Base):
    """Counts on its class, which every copy shares."""

    calls = 0

    def features(self, x):
        type(self).calls += 1
        return super().features(x)


SEEN = []


class GlobalList(Base):
    def features(self, x):
        SEEN.append(len(SEEN))
        return super().features(x)


class StateOnTorchLayer(Base):
    def __init__(self):
        super().__init__()
        self.body.calls = 0

    def features(self, x):
        self.body.calls += 1
        return super().features(x) * (1.0 + self.body.calls % 3)


class InplaceInput(Base):
    def features(self, x):
        return super().features(x.mul_(2.0))


class Unfreezes(Base):
    """Begins to train a layer in the middle of an epoch."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.stem.requires_grad_(False)

    def features(self, x):
        self.calls += self.training
        self.stem.requires_grad_(self.calls > 4)
        return super().features(x)


class GrowingObserver(Base):
    """A buffer that takes on its shape in the first training step, as observers of quantisation do."""

    def __init__(self):
        super().__init__()
        self.register_buffer("largest", torch.zeros(0, dtype=torch.float64))

    def features(self, x):
        x = super().features(x)
        if self.training:
            now = x.detach().abs().amax((0, 2, 3))
            self.largest = now if not len(self.largest) else torch.maximum(self.largest, now)
        return x / (self.largest.view(1, -1, 1, 1) + 1.0) if len(self.largest) else x


def sets_item():
    class SetsItem(Base):
        def features(self, x):
            self.body[2] = self.body[2]
            return super().features(x)

    return SetsItem()


DRAWING = {
    "draws from torch": functools.partial(Draws, "torch"),
    "draws from numpy": functools.partial(Draws, "numpy"),
    "draws from python": functools.partial(Draws, "python"),
    "stochastic depth": StochasticDepth,
    "own generator": OwnGenerator,
    "dropout": dropout,
}
NETWORKS = {
    "plain": Base,
    "frozen layer": frozen_layer,
    "frozen parameter": frozen_parameter,
    "frozen in one member": frozen_in_one_member,
    "frozen norm": frozen_norm,
    "all frozen but the head": all_frozen_but_the_head,
    "unused": Unused,
    "sometimes unused": SometimesUnused,
    "forward hook": forward_hook,
    "pre-hook": pre_hook,
    "backward hook": backward_hook,
    "tensor hook": tensor_hook,
    "hooked by method": HookedByMethod,
    "hook on the root": global_pool_hook_on_root,
    "post-accumulate hook": PostAccumulate,
    "hook that replaces a gradient": ReplacesGradient,
    "own train": own_train,
    "left in eval": left_in_eval,
    "dropout left in eval": dropout_left_in_eval,
    "norm settings": norm_settings,
    "cumulative norm": cumulative_norm,
    "norm without statistics": norm_without_statistics,
    "norm without scale": norm_without_scale,
    "norm twice": NormTwice,
    "in place, shared": InplaceShared,
    "in place through a view": InplaceThroughView,
    "in place by function": InplaceFunction,
    "augmented sum": AugmentedSum,
    "in place alone": inplace_alone,
    "counts": Counts,
    "history": History,
    "counting buffer": CountingBuffer,
    "replaced buffer": ReplacedBuffer,
    "shared buffer": SharedBuffer,
    "clamps weights": ClampsWeights,
    "moves weights": MovesWeights,
    "constant tensor": ConstantTensor,
    "scaling conv": scaling_conv,
    "quantised conv": quantised_conv,
    "library conv": library_conv,
    "own relu": own_relu,
    "instance forward": instance_forward,
    "standardised conv": standardised_conv,
    "weight norm": weight_norm,
    "spectral norm": spectral_norm,
    "old weight norm": old_weight_norm,
    "old spectral norm": old_spectral_norm,
    "own parametrisation": own_parametrisation,
    "pruned": pruned,
    "tied": tied,
    "tied by function": TiedByFunction,
    "module twice": ModuleTwice,
    "parameter list": ParameterList,
    "no grad": NoGrad,
    "detached": Detached,
    "own backward": OwnBackward,
    "checkpointed": Checkpointed,
    "default argument": DefaultArgument,
    "type branch": TypeBranch,
    "tries first": TriesFirst,
    "grad mode branch": GradModeBranch,
    "shape branch": ShapeBranch,
    "training branch": TrainingBranch,
    "late branch": LateBranch,
    "lazily": Lazily,
    "lazy": lazy,
    "scalar parameters": ScalarParameters,
    "complex": Complex,
    "integer parameter": IntegerParameter,
    "extra state": ExtraState,
    "class counter": ClassCounter,
    "global list": GlobalList,
    "state on a torch layer": StateOnTorchLayer,
    "in-place input": InplaceInput,
    "unfreezes": Unfreezes,
    "growing observer": GrowingObserver,
    "sets an item": sets_item,
    "compiled": compiled,
    "strided": strided,
    "wide pool": wide_pool,
    "named": named,
    "squeezes": Squeezes,
    "linear on images": LinearOnImages,
    "norm of channels": NormOfChannels,
    "average pool": wrapped_pool,
    **DRAWING,
}
FUSES = {
    "plain",
    "frozen layer",
    "frozen parameter",
    "frozen norm",
    "all frozen but the head",
    "unused",
    "norm settings",
}
FUSES |= {
    "norm twice",
    "in place alone",
    "module twice",
    "default argument",
    "named",
    "squeezes",
    "lazy",
    "average pool",
    "strided",
    "linear on images",
}
BY_IDENTITY = {"parameter list", "compiled", "instance forward"}  # keep what is another object in every copy
PROVEN_OTHERWISE = {"checkpointed", "type branch"}  # no trace shows it, the comparison does


def build(kind: str, seed: int) -> nn.Module:
    """One of them, with first weights of this seed."""
    torch.manual_seed(seed)
    return NETWORKS[kind]().double()
