"""Blocks of layers for many networks, against torch's own layers one network at a time."""

import pytest
import torch
import torch.nn.functional as F

from esper.engine.kernels import native
from esper.engine.kernels.block import BlockSpec, BlockTensors, block
from esper.errors import EngineError

SPECS = {
    "conv-norm-relu-pool": BlockSpec(3, norm=True, relu=True, pool=True),
    "conv-relu-pool": BlockSpec(3, relu=True, pool=True),
    "conv with bias": BlockSpec(1),
    "depthwise-norm": BlockSpec(3, depthwise=True, norm=True),
    "norm-relu": BlockSpec(norm=True, relu=True),
    "pool": BlockSpec(pool=True),
}
ROWS = 3
NAN, INF = float("nan"), float("inf")


def reference(spec: BlockSpec, x, tensors: BlockTensors, training: bool):
    outputs = []
    for row in range(ROWS):
        weight, bias, gamma, beta, mean, var = (None if t is None else t[row] for t in tensors)
        h = (x[0] if x.shape[0] == 1 else x[row]).permute(3, 0, 1, 2)
        if spec.kernel:
            h = F.conv2d(h, weight, bias, padding=spec.kernel // 2, groups=h.shape[1] if spec.depthwise else 1)
        if spec.norm:
            h = F.batch_norm(h, mean, var, gamma, beta, training, spec.momentum, spec.eps)
        h = F.relu(h) if spec.relu else h
        h = F.max_pool2d(h, 2) if spec.pool else h
        outputs.append(h.permute(1, 2, 3, 0))
    return torch.stack(outputs)


def make(spec: BlockSpec, channels: int, samples: int, shared: bool):
    generator = torch.Generator().manual_seed(channels * 100 + samples)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    outs = channels if spec.depthwise or not spec.kernel else 7
    x = draw(1 if shared else ROWS, channels, 6, 5, samples).requires_grad_()
    weight = draw(ROWS, outs, 1 if spec.depthwise else channels, spec.kernel, spec.kernel) if spec.kernel else None
    has_bias = spec.kernel == 1
    tensors = BlockTensors(
        weight=weight,
        bias=draw(ROWS, outs) if has_bias else None,
        gamma=draw(ROWS, outs) if spec.norm else None,
        beta=draw(ROWS, outs) if spec.norm else None,
        running_mean=draw(ROWS, outs) if spec.norm else None,
        running_var=draw(ROWS, outs).abs() + 0.5 if spec.norm else None,
    )
    for tensor in tensors[:4]:
        if tensor is not None:
            tensor.requires_grad_()
    return x, tensors


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("samples", [1, 21, 64])  # below, across and at whole vectors
@pytest.mark.parametrize("channels", [1, 5, 8])
@pytest.mark.parametrize("name", SPECS)
def test_values_gradients_and_statistics_equal_torchs(name, channels, samples, training, kernels):
    spec = SPECS[name]
    shared = spec.kernel > 0 and channels == 5
    x, tensors = make(spec, channels, samples, shared)
    other = BlockTensors(*(None if t is None else t.detach().clone().requires_grad_(t.requires_grad) for t in tensors))
    x_other = x.detach().clone().requires_grad_()
    out, expected = block(spec, x, tensors, training), reference(spec, x_other, other, training)
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(out, expected, **close)
    slope = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = [(x, x_other)] + [(a, b) for a, b in zip(tensors[:4], other[:4], strict=True) if a is not None]
    ours = torch.autograd.grad(out, [a for a, _ in wanted], slope)
    theirs = torch.autograd.grad(expected, [b for _, b in wanted], slope)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **close)
    if spec.norm:
        torch.testing.assert_close(tensors.running_mean, other.running_mean, **close)
        torch.testing.assert_close(tensors.running_var, other.running_var, **close)


def test_a_network_that_is_not_finite_leaves_the_others_alone(kernels):
    spec = SPECS["conv-norm-relu-pool"]
    x, tensors = make(spec, 5, 21, shared=True)
    clean = block(spec, x, tensors, True)
    with torch.no_grad():
        tensors.weight[1] = float("nan")
    out = block(spec, x, tensors, True)
    assert torch.equal(out[0], clean[0]) and torch.equal(out[2], clean[2])
    grads = torch.autograd.grad(out.sum(), tensors[0])[0]
    assert grads[0].isfinite().all() and grads[2].isfinite().all()


def test_the_number_of_threads_does_not_change_a_bit(kernels):
    if kernels == "torch":
        pytest.skip("torch makes no such promise")
    spec = SPECS["conv-norm-relu-pool"]
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        x, tensors = make(spec, 8, 64, shared=False)
        out = block(spec, x, tensors, True)
        results.append((out.detach(), torch.autograd.grad(out.sum(), tensors[0])[0]))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("samples", [1, 21])
@pytest.mark.parametrize(
    ("window", "winner"),
    [
        ([0, NAN, 0, 0], 1),
        ([NAN, 0, NAN, 1], 2),  # the last that is no number
        ([NAN, NAN, NAN, NAN], 3),
        ([1, INF, NAN, INF], 2),
        ([-INF, -INF, -INF, -INF], 0),
        ([2, 5, 5, 1], 1),  # the first of equals
    ],
)
def test_max_pooling_shows_what_is_no_number_and_sends_the_gradient_where_torch_does(window, winner, samples, kernels):
    x = torch.zeros(1, 1, 3, 3, samples, dtype=torch.float64)
    x[0, 0, :2, :2] = torch.tensor(window, dtype=torch.float64).view(2, 2, 1)
    x.requires_grad_()
    out = block(BlockSpec(pool=True), x, BlockTensors(), True)
    plain = F.max_pool2d(x.detach()[0].permute(3, 0, 1, 2), 2)
    torch.testing.assert_close(out[0].permute(3, 0, 1, 2), plain, equal_nan=True, rtol=0, atol=0)
    (grad,) = torch.autograd.grad(out, x, torch.full_like(out, 7.0))
    expected = torch.zeros_like(grad)
    expected[:, :, winner // 2, winner % 2] = 7
    assert torch.equal(grad, expected)


@pytest.mark.parametrize("shape", [(16, 32, 8, 8, 64), (33, 17, 4, 6, 80), (64, 16, 2, 2, 16), (16, 33, 6, 4, 144)])
def test_many_channels_in_float32_equal_torchs_in_float64(shape):
    """Wide enough for the products to be saved by additions: rounding may be as large as torch's own."""
    channels, outs, height, width, samples = shape
    spec = BlockSpec(3, norm=True, relu=True)
    generator = torch.Generator().manual_seed(channels)
    drawn = [(ROWS, channels, height, width, samples), (ROWS, outs, channels, 3, 3), *[(ROWS, outs)] * 3]
    x, weight, bias, gamma, beta = (torch.randn(*size, generator=generator) for size in drawn)
    slope = torch.randn(ROWS, outs, height, width, samples, generator=generator)

    def result(convolve, dtype):
        leaves = [t.to(dtype).requires_grad_() for t in (x, weight / channels**0.5, bias, gamma, beta)]
        running = [torch.zeros(ROWS, outs, dtype=dtype), torch.ones(ROWS, outs, dtype=dtype)]
        out = convolve(spec, leaves[0], BlockTensors(*leaves[1:], *running), True)
        grads = torch.autograd.grad(out, [leaves[0], leaves[1], *leaves[3:]], slope.to(dtype))
        return [out.detach(), *grads, *running]

    exact, torchs = result(reference, torch.float64), result(reference, torch.float32)
    for ours, theirs, true in zip(result(block, torch.float32), torchs, exact, strict=True):
        scale = true.abs().max()
        allowed = 4 * (theirs - true).abs().max() / scale + 1e-6
        assert (ours - true).abs().max() / scale <= allowed


def spoiled(values, place):
    """The tensor with one value in its middle replaced: at a border, torch multiplies padding with it, or does not."""
    values = values.clone()
    values[tuple(size // 2 for size in values.shape)] = place
    return values


INPUTS = ("x", *BlockTensors._fields, "grad_out")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("name", SPECS)
def test_what_is_not_finite_goes_where_torch_lets_it_go(name, value, training, monkeypatch):
    if native.load()[0] is None:
        pytest.skip(native.load()[1])
    spec = SPECS[name]
    x, tensors = make(spec, 5, 21, shared=False)
    slope = torch.randn_like(block(spec, x, tensors, False))
    given = dict(zip(INPUTS, (x, *tensors, slope), strict=True))
    for where, tensor in given.items():
        if tensor is None:
            continue
        results = []
        for applies in (native.is_supported, lambda x: False):
            with monkeypatch.context() as patch:
                patch.setattr(native, "is_supported", applies)
                results.append(trained(spec, given | {where: spoiled(tensor.detach(), value)}, training))
        for (field, ours), theirs in zip(results[0].items(), results[1].values(), strict=True):
            torch.testing.assert_close(ours, theirs, equal_nan=True, msg=lambda m, w=where, f=field: f"{w}: {f}: {m}")


def trained(spec, given, training, change=None):
    """What a block gives and changes, by name."""
    copies = {name: None if t is None else t.detach().clone() for name, t in given.items()}
    leaves = {name: copies[name].requires_grad_() for name in INPUTS[:5] if copies[name] is not None}
    used = copies | {name: changed(copies[name]) for name, changed in (change or {}).items()}
    out = block(spec, used["x"], BlockTensors(*(used[name] for name in BlockTensors._fields)), training)
    grads = torch.autograd.grad(out, list(leaves.values()), used["grad_out"])
    running = {name: copies[name] for name in ("running_mean", "running_var") if spec.norm}
    return {"out": out.detach()} | running | {f"grad {n}": g for n, g in zip(leaves, grads, strict=True)}


def strided(tensor):
    """The same values, every second one of a larger tensor."""
    return torch.stack((tensor, torch.full_like(tensor, NAN)), -1)[..., 0]


WHOLE = BlockSpec(3, norm=True, relu=True, pool=True)


@pytest.mark.parametrize(
    ("spec", "changes", "said"),
    [
        (WHOLE, {"weight": lambda w: w[:, :, :2]}, r"weight is torch.float64 \[3, 7, 2, 3, 3\].*\[3, 7, 4, 3, 3\]"),
        (WHOLE, {"weight": lambda w: w[..., :2]}, "weight is"),
        (WHOLE, {"weight": lambda w: w[0]}, "no kernel does"),
        (WHOLE, {"weight": lambda w: w[0, 0, 0, 0]}, "tensors of"),
        (WHOLE, {"weight": lambda w: w.float()}, "weight is torch.float32.*expected contiguous torch.float64"),
        (WHOLE, {"weight": lambda w: w.to("meta")}, "weight is .* on meta"),
        (WHOLE, {"weight": lambda w: None}, "its weight is missing"),
        (WHOLE, {"gamma": lambda g: g[:, :2]}, "gamma is"),
        (WHOLE, {"gamma": lambda g: None, "running_var": lambda v: None}, "gamma, running_var missing"),
        (BlockSpec(norm=True), {"gamma": lambda g: None}, "its gamma is missing"),
        (WHOLE, {"beta": lambda b: b[0]}, "beta is"),
        (WHOLE, {"running_mean": lambda m: m.half()}, "running_mean is torch.float16"),
        (WHOLE, {"running_var": strided}, "running_var is .* with strides"),
        (WHOLE, {"bias": lambda _: torch.zeros(ROWS, 3, dtype=torch.float64)}, "bias is"),
        (WHOLE, {"x": lambda x: x.float()}, "weight is torch.float64"),
        (WHOLE, {"x": lambda x: x[:2]}, "no kernel does"),
        (WHOLE, {"x": lambda x: x[0]}, "tensors of"),
        (WHOLE, {"x": lambda x: x[:, :, :1]}, "pooling leaves nothing of features of 1x5"),
        (WHOLE._replace(pool=False), {"x": lambda x: x[:, :, :1, :1, :1]}, "one value per channel"),
        (WHOLE._replace(kernel=5), {}, "no kernel does"),
        (WHOLE._replace(depthwise=True), {}, "no kernel does"),
        (WHOLE._replace(norm=False), {}, "gamma is given"),
        (BlockSpec(norm=True), {"weight": lambda w: None}, "no kernel does"),
    ],
)
def test_tensors_that_do_not_belong_together_are_refused_by_name(spec, changes, said):
    if native.load()[0] is None:
        pytest.skip(native.load()[1])
    x, tensors = make(WHOLE, 4, 21, shared=False)
    given = {"x": x.detach()} | {name: None if t is None else t.detach() for name, t in tensors._asdict().items()}
    for name, change in changes.items():
        given[name] = change(given[name])
    before = tensors.running_mean.clone()
    with pytest.raises(EngineError, match=said):
        block(spec, given.pop("x"), BlockTensors(**given), True)
    assert torch.equal(tensors.running_mean, before)


def test_memory_that_was_given_back_is_not_read():
    x, tensors = make(SPECS["conv with bias"], 4, 21, shared=False)
    tensors.weight.untyped_storage().resize_(0)
    if native.load()[0] is None:
        pytest.skip(native.load()[1])
    with pytest.raises(EngineError, match=r"weight is .*given back"):
        block(SPECS["conv with bias"], x, tensors, True)


@pytest.mark.parametrize("name", SPECS)
def test_tensors_that_are_not_contiguous_mean_the_same(name, kernels):
    spec = SPECS[name]
    x, tensors = make(spec, 5, 21, shared=False)
    given = dict(zip(INPUTS, (x, *tensors, torch.randn_like(block(spec, x, tensors, False))), strict=True))
    expected = trained(spec, given, True)
    for name in set(INPUTS) - {"running_mean", "running_var"}:
        if given[name] is not None:
            results = trained(spec, given, True, change={name: strided})
            for field, value in expected.items():
                torch.testing.assert_close(results[field], value, msg=lambda m, w=name, f=field: f"{w}: {f}: {m}")


def test_running_statistics_that_would_be_written_to_a_copy_are_refused(kernels):
    x, tensors = make(WHOLE, 5, 21, shared=False)
    for name in ("running_mean", "running_var"):
        with pytest.raises(EngineError, match="strides"):
            block(WHOLE, x, tensors._replace(**{name: strided(getattr(tensors, name))}), True)


@pytest.mark.parametrize(("rows", "samples"), [(ROWS, 0), (0, 21), (0, 0)])
@pytest.mark.parametrize("name", SPECS)
def test_no_networks_and_no_samples_are_nothing(name, rows, samples, kernels):
    spec = SPECS[name]
    x, tensors = make(spec, 5, 21, shared=False)
    given = dict(
        zip(INPUTS, (x[:rows, ..., :samples], *(None if t is None else t[:rows] for t in tensors)), strict=False)
    )
    given["grad_out"] = block(spec, given["x"], BlockTensors(*list(given.values())[1:]), False).detach()
    results = trained(spec, given, True)
    height, width = (3, 2) if spec.pool else (6, 5)
    assert results["out"].shape == (
        rows,
        7 if tensors.weight is not None and not spec.depthwise else 5,
        height,
        width,
        samples,
    )
    for field, value in results.items():
        expected = given[field] if field in given else torch.zeros_like(value)
        assert torch.equal(value, expected), field
