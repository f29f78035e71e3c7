"""The quick way to compose a job gives what Hydra's way gives."""

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import OmegaConf

from esper.config.options import conf_dir
from esper.config.store import register
from esper.sweep.composing import SweepLoader, digest, plain, task_part

FIXED = ["hydra.sweep.dir=somewhere", "hydra.job.env_copy=[HOME]"]


@pytest.fixture(scope="module")
def hydra_loader():
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@pytest.fixture(scope="module")
def master(hydra_loader):
    return hydra_loader.load_configuration("config", [*FIXED, "epochs=7", "seed=0,1"], RunMode.MULTIRUN)


@pytest.fixture(scope="module")
def quick(hydra_loader):
    return SweepLoader(hydra_loader.get_search_path())


def values(config):
    return OmegaConf.to_container(config)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "typed",
    [
        "epochs=3 seed=1",
        "epochs=3 seed=2 hydra.sweep.subdir=abc",  # the same groups again, from the copy
        "policy=static seed=1",
        "seed=2 policy=static",
        "experiment=language epochs=2",
        "experiment=language epochs=3 engine.members=2",
        "engine={members: 3, threads: 2}",
        "engine={members: 5}",
        "+engine.extra=1",
        "++epochs=4",
        "~name",
        "slots.names=[early]",
        "policy.blending_epochs=${slots.blending_epochs}",
        "policy=static name=${task.name}",
        "hydra/launcher=local hydra.launcher.processes=3 seed=5",
        "debug=smoke engine=sequential engine.members=1",
    ],
)
def test_a_job_is_composed_as_hydra_composes_it(hydra_loader, master, quick, typed):
    overrides = typed.split(" ") if "{" not in typed or "${" in typed else [typed]
    expected = hydra_loader.load_sweep_config(master, overrides)
    assert values(quick.load_sweep_config(master, overrides)) == values(expected)


@pytest.mark.parametrize("typed", ["engine.membrs=1", "policy=nowhere", "seed=x", "+seed=1", "~nothing"])
def test_what_hydra_refuses_is_refused(master, quick, typed):
    with pytest.raises(ConfigCompositionException):
        quick.load_sweep_config(master, [typed])


def test_one_job_does_not_touch_the_next(master, quick):
    task_part(quick.load_sweep_config(master, ["engine.members=3", "slots.names=[early]"])).engine.members = 99
    again = quick.load_sweep_config(master, ["seed=1"])
    assert (again.engine.members, again.slots.names) == (master.engine.members, master.slots.names)
    assert "hydra" in again


def identity(quick, master, *overrides, without=("name", "telemetry")):
    return digest(plain(task_part(quick.load_sweep_config(master, list(overrides))), without, is_resolved=True), 12)


def test_a_job_is_its_configuration(quick, master):
    plainly = identity(quick, master, "seed=1", "policy.blending_epochs=3")
    assert plainly == identity(quick, master, "policy.blending_epochs=3", "seed=1")
    assert plainly == identity(quick, master, "seed=1", "policy.blending_epochs=${slots.blending_epochs}")
    assert plainly == identity(quick, master, "seed=1", "telemetry=none", "name=other", "policy.blending_epochs=3")
    assert plainly != identity(quick, master, "seed=2", "policy.blending_epochs=3")
    assert plainly != identity(quick, master, "seed=1", "telemetry=none", "policy.blending_epochs=3", without=())


def test_a_reference_that_only_the_job_can_follow_stays_written():
    config = OmegaConf.create({"a": 1, "b": "${nowhere.yet}", "c": "${a}"})
    assert plain(config, (), is_resolved=True) == {"a": 1, "b": "${nowhere.yet}", "c": "${a}"}
