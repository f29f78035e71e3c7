"""What is known without torch is what there is with it."""

import math

import pytest

from esper.builders.host import build_host
from esper.builders.population import build_growth
from esper.config.composing import compose
from esper.config.host import HOSTS
from esper.errors import ConfigError
from esper.kasmina import BlueprintRegistry
from esper.leyline import WAIT
from esper.leyline.blueprints import blueprint_names
from esper.tasks import build_task
from tests.engine.growing import stepped

TEXT = [
    "experiment=language",
    "task.epoch_windows=8",
    "task.train_bytes=999",
    "task.val_bytes=99",
    "task.test_bytes=99",
]


def test_blueprints_are_those_that_are_registered():
    assert BlueprintRegistry.names() == blueprint_names()


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "overrides",
    [
        ["host=cnn"],
        ["host=cnn", "host.channels=[2,2]"],
        ["host=cnn_wide"],
        [*TEXT, "host.n_layer=3"],
        [*TEXT, "host=decoder", "host.n_layer=4"],
    ],
)
def test_positions_and_images_are_those_of_the_host_that_is_built(overrides):
    config = compose(overrides)
    task = build_task(config.task)
    host = build_host(config, task, 0, 0, task.val_x.dtype if task.val_x.is_floating_point() else None)
    assert config.host.positions_by_depth() == list(host.injection_points)
    side = config.task.side_pixels
    assert side == (None if task.is_text else task.input_shape[1])


@pytest.mark.parametrize("overrides", [[], ["task.distortion=none"], ["task.image_size=20"]])
def test_the_pixels_of_digits_are_known(overrides):
    settings = compose(overrides).task
    shape = build_task(settings).input_shape
    assert shape[1:] == (settings.side_pixels, settings.side_pixels)


def test_every_host_says_where_slots_can_be():
    for schema in HOSTS.values():
        assert schema.check_slots is not None
        assert "positions_by_depth" in vars(schema) or "check_slots" in vars(schema)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["host.channels=[1,1,1,1,1,1]"], r"host.channels=\[1,1,1,1,1,1\]: 6 .* 16x16 .*\n.* at most 5 blocks"),
        (["task.distortion=none", "host.channels=[1,1,1,1,1]"], "5 blocks pool images of 8x8 .*\n.* at most 4 blocks"),
        (["slots.names=[block4]"], "slots.names: this host has no position 'block4'"),
        (["batch_size=1089"], "batch_size=1089: more than the 1,088 training examples\n.*1 to 1,088"),
        ([*TEXT, "batch_size=1000"], "batch_size=1000: more than the"),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_whoever_builds_them(overrides, said):
    with pytest.raises(ConfigError, match=said):
        build_growth(compose(overrides))


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [["host.channels=[1,1,1,1,1]"], ["batch_size=1088"]])
def test_parts_that_just_fit_are_built_and_train(overrides):
    grown = build_growth(compose([*overrides, "engine.kind=sequential", "engine.members=1"])).growth
    reports, _ = stepped(grown, [WAIT] * len(grown.population))
    assert all(math.isfinite(report.train_loss) for report in reports)
