"""What the folder of a sweep is called."""

import pytest
from omegaconf import OmegaConf

from esper.config.store import register
from esper.config.sweep_name import NAMELESS

WRITTEN = "${task.name}_${policy.name}"


@pytest.mark.parametrize(
    ("written", "swept", "expected"),
    [
        (WRITTEN, [], "digits_ppo"),
        (WRITTEN, ["seed", "policy.updates"], "digits_ppo"),
        (WRITTEN, ["policy"], "digits"),
        (WRITTEN, ["seed", "task"], "ppo"),
        (WRITTEN, ["policy", "task"], NAMELESS),
        ("my-${policy.name}-${task.name}.x", ["policy"], "my-digits.x"),
        ("my_trial__2", ["policy", "task"], "my_trial__2"),
    ],
)
def test_what_differs_from_job_to_job_is_not_in_it(written, swept, expected):
    register()
    root = OmegaConf.create({"name": written, "task": {"name": "digits"}, "policy": {"name": "ppo"}})
    root.hydra = {"sweeper": {"swept": swept}, "dir": "outputs/${esper_sweep_name:}/x"}
    assert root.hydra.dir == f"outputs/{expected}/x"
    del root.hydra["sweeper"]
    root.hydra.sweeper = {}  # another sweeper than ours
    assert root.hydra.dir == f"outputs/{OmegaConf.select(root, 'name')}/x"
