"""From a configuration to the parts of a run."""

import pytest
import torch

from esper.builders.host import build_model
from esper.builders.policy import build_policy
from esper.builders.population import build_growth, pick_device, plantable, slots_by_depth
from esper.config import compose
from esper.errors import BlueprintError, ConfigError, EngineError
from esper.leyline import Operation
from esper.tasks import build_task
from tests.engine.growing import reported
from tests.networks import CHOSEN

TINY = ["engine.members=2", "engine.threads=1", "engine=fused", "task.distortion=none", "seed=4"]

TEXT = ["task=pysource", "host=transformer", "task.epoch_windows=70", "task.train_bytes=9000"]


def test_twins_start_from_the_weights_of_their_members():
    parts = build_growth(compose(TINY))
    first, second, first_twin, second_twin = (
        dict(model.named_parameters()) for model in parts.growth.population.models
    )
    assert parts.twin_of == {2: 0, 3: 1}
    assert all(first[name].equal(first_twin[name]) for name in first)
    assert all(second[name].equal(second_twin[name]) for name in second)
    assert not first["host.head.weight"].equal(second["host.head.weight"])
    assert [report.is_twin for report in reported(parts.growth)] == [False, False, True, True]


@pytest.mark.slow
def test_a_member_does_not_depend_on_how_many_there_are():
    few, many = (build_growth(compose([*TINY, f"engine.members={count}"])) for count in (1, 3))
    few, many = (dict(parts.growth.population.models[0].named_parameters()) for parts in (few, many))
    assert all(few[name].equal(many[name]) for name in few)


def test_a_resumed_run_keeps_its_engine():
    kept = {"kind": "sequential", "kernels": "torch", "reason": "measured", "device": "cpu", "threads": 2}
    kept["memory_format"] = "channels_last"
    parts = build_growth(compose(TINY), kept)
    assert parts.engine == kept
    assert parts.growth.population.engine.kind == "sequential" and parts.growth.population.is_channels_last
    assert torch.get_num_threads() == 2


@pytest.mark.slow
def test_phases_given_in_epochs_are_counted_in_training_steps():
    config = compose([*TINY, "batch_size=64", "slots.blending_epochs=3", "slots.cull_epochs=2", "epochs=7"])
    task = build_task(config.task)
    model = build_model(config, task, 0, torch.device("cpu"), torch.float32)
    steps = -(-task.epoch_size // 64)
    settings = model.slots["early"].config
    assert (settings.blending_steps, settings.cull_steps) == (3 * steps, 2 * steps)
    assert model.task_config.max_epochs == 7


def test_slots_are_named_to_the_controller_by_depth():
    config = compose([*TINY, "slots.names=[late,early,block2]"])
    model = build_model(config, build_task(config.task), 0, torch.device("cpu"), torch.float32)
    assert slots_by_depth(model) == ["early", "block2", "late"]


@pytest.mark.slow
def test_what_may_be_planted_is_what_was_named_smallest_first():
    everything = plantable(compose(), "cnn")
    sizes = [parameters for _, parameters in everything]
    assert sizes == sorted(sizes)
    some = plantable(compose(["blueprint.names=[conv_heavy,norm]"]), "cnn")
    assert [name for name, _ in some] == ["norm", "conv_heavy"]
    assert set(some) < set(everything)
    with pytest.raises(BlueprintError, match=r"conv_lihgt.*conv_light"):
        plantable(compose(["blueprint.names=[conv_lihgt]"]), "cnn")


def test_the_controller_plants_only_what_is_allowed():
    config = compose([*TINY, "blueprint.names=[norm]", "policy.first_plant_epoch=1"])
    grown = build_growth(config)
    controller, learning = build_policy(config, grown)
    assert learning is None
    actions = controller.act(reported(grown.growth))
    assert {action.blueprint for action in actions if action.operation is Operation.GERMINATE} == {"norm"}


def test_a_language_model_reads_as_far_back_as_its_task_says():
    config = compose([*TEXT, "task.block_size=24", "host.n_layer=4", "batch_size=20"])
    task = build_task(config.task)
    model = build_model(config, task, 0, torch.device("cpu"), torch.float64)
    tokens = task.val_x[:2]
    assert model(tokens).shape == (2, 24, 256)
    assert model(tokens).dtype == torch.float64
    assert list(model.host.injection_points) == ["block1", "block2", "block3", "block4"]
    assert model.slots["early"].config.blending_steps == 3 * 4  # 70 windows an epoch
    with pytest.raises(ValueError, match="exceeds block_size=24"):
        model(torch.zeros(1, 25, dtype=torch.int64))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_cuda_device_the_cpu_is_chosen_and_cuda_refused():
    assert pick_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match=r"engine\.device=cuda"):
        pick_device("cuda")
    with pytest.raises(ConfigError, match=r"engine\.precision=bf16"):
        build_growth(compose([*TINY, "engine.precision=bf16"]))


@pytest.mark.slow
def test_a_policy_that_prefers_a_blueprint_nobody_has_is_refused():
    with pytest.raises(BlueprintError, match=r"conv_lite.*did you mean 'conv_light'"):
        plantable(compose(["policy.preferred_blueprints=[conv_lite]"]), "cnn")


def test_a_network_of_ones_own_grows_like_any_other():
    parts = build_growth(compose([*TINY, *CHOSEN, "slots=early_late", "blueprint=light", "engine.precision=float64"]))
    assert parts.growth.population.engine.kind == "fused"
    model = parts.growth.population.models[0]
    assert model.slot_positions == {"early": "1", "late": "2"} and model.host.topology == "cnn"
    weights = [m.host.module[0].weight for m in parts.growth.population.models]  # two grown, then their twins
    assert torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[1])


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("tests.networks:missing", "has no attribute 'missing'"),
        ("no.such.module:f", "No module named"),
        ("tests.networks:nothing", "expected an nn.Module, and it gave NoneType"),
        ("tests.networks:odd", r"host\.factory=tests\.networks:odd: is called with input_shape and num_classes"),
        ("tests.networks:CHOSEN", r"host\.factory=tests\.networks:CHOSEN: is called with input_shape and num_classes"),
        ("tests.networks:two_lines", r"failed in \S+, line \d+: RuntimeError: the first line$"),
        ("tests.networks:speechless", r"failed in \S+, line \d+: RuntimeError"),
        ("tests.networks:few", r"tests\.networks:few: the network gives 3 outputs, the task has 10 classes"),
        ("tests.networks:several", r"tests\.networks:several: the network gives a tuple .*expected one tensor"),
        ("builtins:print", "is called with input_shape and num_classes"),
        (
            "tests.networks:broken",
            r"networks:broken failed in \S+networks\.py, line \d+: IndexError: list index",
        ),
        ("tests.networks", "package.module:function"),
    ],
)
def test_a_factory_that_builds_no_network_is_refused(factory, reason):
    with pytest.raises(ConfigError, match=reason) as caught:
        build_growth(compose([*TINY, *CHOSEN, f"host.factory={factory}", "slots=early_late"]))
    assert caught.value.__cause__ is None or factory == "tests.networks"


def test_a_network_that_no_run_could_go_on_with_is_refused():
    overrides = [*TINY, *CHOSEN, "slots=early_late", "engine=sequential", "host.factory=tests.networks:drawing"]
    with pytest.raises(EngineError, match=r"1\.generator \(Generator\) changes as the network runs"):
        build_growth(compose(overrides))


def test_a_position_that_the_network_lacks_is_named_by_its_key():
    with pytest.raises(ConfigError, match=r"^host\.positions=9: the network has no such submodule"):
        build_growth(compose([*TINY, *CHOSEN, "host.positions=['1','9']", "slots=early_late"]))
