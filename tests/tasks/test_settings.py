import subprocess
import sys

import pytest

from esper.errors import ConfigError
from esper.tasks.settings import PRESETS, Cifar10Config, DigitsConfig


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"distortion": "defalt"}, "task.distortion=defalt.*did you mean default"),
        ({"image_size": 4}, "task.image_size"),
        ({"val_copies": 0}, "task.val_copies"),
        ({"noise_std": -0.1}, "task.noise_std"),
        ({"shift_pixels": 17.0}, "task.shift_pixels"),
        ({"rotation_degrees": 270.0}, "task.rotation_degrees"),
        ({"scale_range": [1.2, 0.8]}, "task.scale_range"),
        ({"scale_range": [1.0]}, "task.scale_range"),
        ({"val_fraction": 0.0}, "task.val_fraction"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "left to train on"),
        ({"distortion": "none", "noise_std": 0.1}, "task.noise_std has no effect"),
    ],
)
def test_a_wrong_value_is_named(values, key):
    with pytest.raises(ConfigError, match=key):
        DigitsConfig(**values)


def test_cifar10_checks_its_values():
    with pytest.raises(ConfigError, match=r"task\.distortion"):
        Cifar10Config(distortion="mild")
    with pytest.raises(ConfigError, match=r"task\.shift_pixels"):
        Cifar10Config(shift_pixels=40)


def test_single_values_replace_those_of_the_strength():
    strength = DigitsConfig(distortion="mild", noise_std=0.0, scale_range=[0.5, 1.5]).strength()
    assert strength.noise_std == 0.0 and strength.scale_range == (0.5, 1.5)
    assert strength.rotation_degrees == PRESETS["mild"].rotation_degrees
    assert DigitsConfig(distortion="none").strength() is None


def test_settings_need_no_torch():
    code = "import sys, esper.tasks, esper.tasks.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
