"""Stacked optimizers against torch.optim, network by network."""

import pytest
import torch
from torch import nn

from esper.config.optimizer import RunOptimizerConfig
from esper.engine.optimizer import OptimizerConfig, StackedOptimizer
from esper.engine.stacks import ModuleStack
from esper.errors import ConfigError, EngineError


def layers(count: int) -> dict[int, nn.Module]:
    torch.manual_seed(0)
    return {member: nn.Linear(3, 2).double() for member in range(count)}


def gradients(stack: ModuleStack, generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in stack.parameters.items()}


def reference(config: OptimizerConfig, module: nn.Module) -> torch.optim.Optimizer:
    if config.name == "sgd":
        return torch.optim.SGD(
            module.parameters(), lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(
        module.parameters(),
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )


@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_each_row_is_trained_as_torch_trains_it(name, clip_norm):
    config = OptimizerConfig(name=name, learning_rate=0.05, weight_decay=0.1, clip_norm=clip_norm)
    plain = layers(3)
    stack = ModuleStack({member: nn.Linear(3, 2).double() for member in plain})
    for member, module in plain.items():
        stack.modules[member].load_state_dict(module.state_dict())
    optimizers = {member: reference(config, module) for member, module in plain.items()}
    stacked = StackedOptimizer([config] * 3, torch.device("cpu"), torch.float64)
    stacked.track("host", stack, set())
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        grads = gradients(stack, generator)
        stacked.step({"host": stack}, {"host": grads})
        for member, module in plain.items():
            for parameter_name, parameter in module.named_parameters():
                parameter.grad = grads[parameter_name][member].clone()
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
            optimizers[member].step()
    for member, module in plain.items():
        for parameter_name, parameter in module.named_parameters():
            torch.testing.assert_close(
                stack.modules[member].get_parameter(parameter_name), parameter, rtol=1e-9, atol=1e-12
            )


def test_a_seed_born_later_counts_its_own_steps():
    config = OptimizerConfig(name="adamw", learning_rate=0.05)
    optimizer = StackedOptimizer([config] * 2, torch.device("cpu"), torch.float64)
    modules = layers(2)
    stack = ModuleStack({0: modules[0]})
    optimizer.track("seed", stack, {0})
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        optimizer.step({"seed": stack}, {"seed": gradients(stack, generator)})
    kept = optimizer.rows["seed"].moments["exp_avg"]["weight"][0].clone()
    grown = ModuleStack(modules)
    optimizer.track("seed", grown, {1})
    rows = optimizer.rows["seed"]
    assert rows.steps.tolist() == [[3, 3], [0, 0]]
    assert torch.equal(rows.moments["exp_avg"]["weight"][0], kept) and not rows.moments["exp_avg"]["weight"][1].any()
    optimizer.step({"seed": grown}, {"seed": gradients(grown, generator)})
    assert rows.steps.tolist() == [[4, 4], [1, 1]]
    optimizer.track("seed", grown, {0})  # another seed in the place of the first
    rows = optimizer.rows["seed"]
    assert rows.steps.tolist() == [[0, 0], [1, 1]]
    assert not rows.moments["exp_avg"]["weight"][0].any() and rows.moments["exp_avg"]["weight"][1].any()


def test_a_halted_member_stands_still_and_the_others_go_on():
    optimizer = StackedOptimizer([OptimizerConfig(weight_decay=0.1)] * 2, torch.device("cpu"), torch.float64)
    stack = ModuleStack(layers(2))
    optimizer.track("host", stack, set())
    generator = torch.Generator().manual_seed(0)
    optimizer.step({"host": stack}, {"host": gradients(stack, generator)})
    optimizer.halt(0)
    optimizer.begin_epoch({}, {})
    before = stack.parameters["weight"].detach().clone()
    grads = gradients(stack, generator)
    grads["weight"][0] = float("nan")
    optimizer.step({"host": stack}, {"host": grads})
    assert torch.equal(stack.parameters["weight"][0], before[0])
    assert not torch.equal(stack.parameters["weight"][1], before[1])
    assert optimizer.rows["host"].steps.tolist() == [[1, 1], [2, 2]]


@pytest.mark.parametrize("own", [{"momentum": 0.5}, {"name": "adamw"}, {"eps": 0.1}, {"clip_norm": 1.0}])
def test_members_differ_in_learning_rate_and_weight_decay_alone(own):
    configs = [OptimizerConfig(), OptimizerConfig(learning_rate=1.0, weight_decay=0.5), OptimizerConfig(**own)]
    kept = StackedOptimizer(configs[:2], torch.device("cpu"), torch.float64)
    assert kept.member_learning_rate.tolist() == [0.05, 1.0]
    with pytest.raises(EngineError, match="member 2: members share an optimizer but for learning rate"):
        StackedOptimizer(configs, torch.device("cpu"), torch.float64)


def test_a_parameter_without_a_gradient_counts_no_step():
    optimizer = StackedOptimizer([OptimizerConfig(name="adamw")] * 2, torch.device("cpu"), torch.float64)
    stack = ModuleStack(layers(2))
    optimizer.track("host", stack, set())
    found = gradients(stack, torch.Generator().manual_seed(0))
    for named in (found, {"weight": found["weight"]}):
        optimizer.step({"host": stack}, {"host": named})
    assert optimizer.rows["host"].steps.tolist() == [[2, 1], [2, 1]]


def test_bfloat16_is_stepped_in_float32():
    config = OptimizerConfig(name="adamw", learning_rate=0.003)
    optimizer = StackedOptimizer([config], torch.device("cpu"), torch.bfloat16)
    stack = ModuleStack({0: nn.Linear(3, 2).bfloat16()})
    optimizer.track("host", stack, set())
    rows = optimizer.rows["host"]
    assert rows.learning_rate.tolist() == pytest.approx([0.003], rel=1e-6)
    for _ in range(300):  # in bfloat16, 256 + 1 is 256
        optimizer.step({"host": stack}, {"host": {n: torch.ones_like(p) for n, p in stack.parameters.items()}})
    assert rows.steps.tolist() == [[300, 300]]
    assert rows.moments["exp_avg_sq"]["weight"].mean().item() == pytest.approx(1 - 0.999**300, rel=1e-4)


def test_gradients_of_several_precisions_are_clipped_together():
    config = OptimizerConfig(momentum=0.0, learning_rate=1.0, clip_norm=1.0)
    optimizer = StackedOptimizer([config], torch.device("cpu"), torch.float64)
    stacks = {"host": ModuleStack({0: nn.Linear(2, 1).double()}), "seed": ModuleStack({0: nn.Linear(2, 1)})}
    for name, stack in stacks.items():
        optimizer.track(name, stack, set())
    before = {name: stack.parameters["bias"].detach().clone() for name, stack in stacks.items()}
    found = {name: {n: torch.full_like(p, 2.0) for n, p in stack.parameters.items()} for name, stack in stacks.items()}
    optimizer.step(stacks, found)
    for name, stack in stacks.items():
        torch.testing.assert_close(stack.parameters["bias"].detach(), before[name] - 6**-0.5, rtol=1e-5, atol=1e-5)


def test_a_seed_that_is_not_finite_does_not_scale_its_hosts_gradients():
    optimizer = StackedOptimizer(
        [OptimizerConfig(momentum=0.0, learning_rate=1.0, clip_norm=1.0)], torch.device("cpu"), torch.float64
    )
    stacks = {"host": ModuleStack(layers(1)), "seed": ModuleStack(layers(1))}
    for name, stack in stacks.items():
        optimizer.track(name, stack, set())
    before = stacks["host"].parameters["weight"].detach().clone()
    broken = {n: torch.full_like(p, float("nan")) for n, p in stacks["seed"].parameters.items()}
    small = {n: torch.full_like(p, 0.1) for n, p in stacks["host"].parameters.items()}
    optimizer.step(stacks, {"host": small, "seed": broken})
    torch.testing.assert_close(stacks["host"].parameters["weight"].detach(), before - 0.1)


def test_a_seed_in_isolation_is_clipped_by_itself_and_an_idle_row_counts_no_step():
    optimizer = StackedOptimizer(
        [OptimizerConfig(momentum=0.0, learning_rate=1.0, clip_norm=1.0)] * 2, torch.device("cpu"), torch.float64
    )
    stacks = {"host": ModuleStack(layers(2)), "slots.a.seed": ModuleStack(layers(2))}
    for name, stack in stacks.items():
        optimizer.track(name, stack, set())
    optimizer.begin_epoch({"slots.a.seed": [False, True]}, {"slots.a.seed": [True, False]})
    before = stacks["host"].parameters["bias"].detach().clone()
    huge = {n: torch.full_like(p, 100.0) for n, p in stacks["slots.a.seed"].parameters.items()}
    small = {n: torch.full_like(p, 0.1) for n, p in stacks["host"].parameters.items()}
    optimizer.step(stacks, {"host": small, "slots.a.seed": huge})
    moved = before - stacks["host"].parameters["bias"].detach()
    torch.testing.assert_close(moved[0], torch.full((2,), 0.1, dtype=torch.float64))  # beside a seed in isolation
    assert (moved[1] < 0.001).all()  # clipped together with an open seed
    assert optimizer.rows["slots.a.seed"].steps[:, 0].tolist() == [1, 0]


INFINITE = [float("nan"), float("inf"), -float("inf")]
WRONG = {
    "name": ["adamm", "SGD", "", None, 3, ["sgd"]],
    "learning_rate": [-0.1, 1001, "0.1", None, True, *INFINITE],
    "weight_decay": [-0.1, 1001, "0", None, False, *INFINITE],
    "momentum": [-0.1, 1, 1.5, "0.9", None, *INFINITE],
    "betas": [(0.9,), (0.9, 0.99, 0.999), 0.9, None, "ab", (0.9, 1.0), (-0.1, 0.9), (0.9, None), (float("nan"), 0.9)],
    "eps": [0, -1e-8, "1e-8", None, *INFINITE],
    "clip_norm": [0, -1.0, "1", True, *INFINITE],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values], ids=str)
def test_what_nothing_can_be_trained_with_is_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=rf"^optimizer\.{key}(\[\d\])?=") as refused:
        OptimizerConfig(**{key: value})
    assert len(str(refused.value).splitlines()) <= 2
    settings = {"name": "sgd", "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0, "decay_share": 0.0}
    settings |= {"betas": [0.9, 0.999], "eps": 1e-8, "clip_norm": None} | {key: value}
    with pytest.raises(ConfigError) as of_a_run:
        RunOptimizerConfig(**settings)
    assert str(of_a_run.value) == str(refused.value) or key == "learning_rate"  # which a run may not have at 0


def test_a_mistyped_optimizer_gets_the_name_that_was_meant():
    with pytest.raises(ConfigError, match="did you mean adamw"):
        OptimizerConfig(name="adamm")
    with pytest.raises(ConfigError, match="did you mean sgd"):
        OptimizerConfig(name="SGD")
    assert OptimizerConfig(betas=[0.9, 0.99]) == OptimizerConfig(betas=(0.9, 0.99))
