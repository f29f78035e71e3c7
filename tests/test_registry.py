"""Parts by name: what is declared is what registers itself, and what the files of conf/ are about."""

import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import pytest
import yaml

from esper.builders import host, policy, sinks  # what builds, and so registers
from esper.config.composing import compose
from esper.config.host import HOSTS, HostConfig
from esper.config.options import VARIANTS, conf_dir
from esper.config.telemetry import SINKS
from esper.errors import ConfigError
from esper.kasmina import BlueprintRegistry
from esper.leyline.blueprints import BLUEPRINTS
from esper.registry import Part, Registry, place
from esper.simic.iql.config import OFFLINE_LEARNERS
from esper.simic.on_policy.config import LEARNERS, LearnedPolicyConfig
from esper.simic.rewards.config import REWARDS, RewardConfig
from esper.tamiyo.settings import POLICIES, PolicyConfig
from esper.tasks.settings import TASKS, BaseTaskConfig

__all__ = ["host", "policy", "sinks"]

ROOT = Path(__file__).parents[1]
REGISTRIES = {
    "hosts": HOSTS,
    "learners": LEARNERS,
    "offline learners": OFFLINE_LEARNERS,
    "policies": POLICIES,
    "rewards": REWARDS,
    "sinks": SINKS,
    "tasks": TASKS,
}
PARTS = [(kind, name) for kind, registry in REGISTRIES.items() for name in registry]
CHOSEN = [(group, name) for group, variants in VARIANTS.items() for name in variants]


@dataclass
class Plain:
    name: str = "mine"


@dataclass
class Other:
    name: str = "mine"


@pytest.fixture
def registry():
    return Registry("thing")


# ---- the parts that there are


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_what_is_declared_is_what_registers_itself(kind, name):
    registry = REGISTRIES[kind]
    builder = registry.builder(name)
    assert registry.parts[name] == Part(name=name, config=registry[name], target=place(builder), builder=builder)


@pytest.mark.slow
def test_everything_is_known_before_anything_heavy_is_loaded():
    program = """
import pkgutil, sys, importlib, esper
from esper.config.options import VARIANTS
from esper.config.telemetry import SINKS
from esper.leyline.blueprints import blueprint_names

def names():
    return {group: list(names) for group, names in VARIANTS.items()}, list(SINKS), blueprint_names()

known = names()
assert "torch" not in sys.modules
for room in ("builders", "kasmina", "simic", "tamiyo", "tasks"):
    for module in pkgutil.walk_packages([f"esper/{room}"], f"esper.{room}."):
        importlib.import_module(module.name)
assert "torch" in sys.modules
assert names() == known, (known, names())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("topology", "name"), [(kind, name) for kind, specs in BLUEPRINTS.items() for name in specs])
def test_a_blueprint_is_declared_as_it_is_registered(topology, name):
    spec = BlueprintRegistry.spec(topology, name)
    assert spec.target == place(spec.factory) and spec.topology == topology


@pytest.mark.parametrize(("group", "name"), CHOSEN)
def test_every_part_has_a_file_that_gives_its_keys_and_no_others(group, name):
    values = yaml.safe_load((conf_dir() / group / f"{name}.yaml").read_text())
    assert values.pop("defaults") == [{f"/schema/{group}@_here_": name}, "_self_"]
    assert values["name"] == name
    assert set(values) <= {field.name for field in fields(VARIANTS[group][name])}


@pytest.mark.parametrize("group", VARIANTS)
def test_every_file_is_about_a_part(group):
    for file in (conf_dir() / group).glob("*.yaml"):
        begins_with = [line for line in yaml.safe_load(file.read_text())["defaults"] if line != "_self_"]
        known = [{f"/schema/{group}@_here_": name} for name in VARIANTS[group]] + list(VARIANTS[group])
        assert all(line in known for line in begins_with) and begins_with, file


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("group", "registry", "base"),
    [
        ("host", HOSTS, HostConfig),
        ("policy", POLICIES, PolicyConfig),
        ("policy", LEARNERS, LearnedPolicyConfig),
        ("reward", REWARDS, RewardConfig),
        ("task", TASKS, BaseTaskConfig),
    ],
)
def test_one_function_and_one_file_are_an_option(group, registry, base, monkeypatch, tmp_path):
    @dataclass(kw_only=True)
    class MineConfig(base):
        topology: ClassVar[str] = "cnn"
        patience_epochs: int

    monkeypatch.setattr(registry, "parts", dict(registry.parts))
    registry.register("mine", MineConfig)(lambda config, **rest: (config.patience_epochs, sorted(rest)))
    (tmp_path / group).mkdir()
    lines = f"defaults: [/schema/{group}@_here_: mine, _self_]\nname: mine\npatience_epochs: 3\n"
    (tmp_path / group / "mine.yaml").write_text(lines)
    config = getattr(compose([f"{group}=mine"], config_dir=str(tmp_path)), group)
    assert registry.build(config, a=0, b=0) == (3, ["a", "b"])
    with pytest.raises(ConfigError, match=rf"did you mean {group}\.patience_epochs\?"):
        compose([f"{group}=mine", f"{group}.patience_epoch=2"], config_dir=str(tmp_path))


# ---- how any part is registered and built


def test_a_part_of_ones_own_is_one_function(registry):
    @registry.register("mine", Plain)
    def build(config, size, other=2):
        return config.name, size, other

    assert dict(registry) == {"mine": Plain}
    assert registry.build(Plain(), size=1, unwanted=3) == ("mine", 1, 2)
    assert registry.build(Plain("x"), "mine", size=1, other=4) == ("x", 1, 4)


def test_a_builder_that_takes_everything_gets_everything(registry):
    registry.register("mine", Plain)(lambda config, **rest: rest)
    assert registry.build(Plain(), a=1, b=2) == {"a": 1, "b": 2}


def test_the_module_of_a_declared_part_is_imported_when_it_is_built(registry, monkeypatch, tmp_path):
    (tmp_path / "registry_parts.py").write_text(
        "from tests.test_registry import Plain\nfrom registry_given import registry\n"
        "@registry.register('mine', Plain)\ndef build(config):\n    return 'built'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    given = type(sys)("registry_given")
    given.registry = registry
    monkeypatch.setitem(sys.modules, "registry_given", given)
    monkeypatch.setitem(sys.modules, "tests.test_registry", sys.modules[__name__])
    registry.declare("mine", Plain, "registry_parts:build")
    assert "registry_parts" not in sys.modules
    assert registry.build(Plain()) == "built"
    monkeypatch.delitem(sys.modules, "registry_parts")


def twice(config):
    return config


def test_a_builder_that_was_imported_before_its_declaration_is_the_declared_one(registry):
    registry.register("ours", Plain)(twice)
    registry.declare("ours", Plain, place(twice))
    assert registry.builder("ours") is twice


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda r: r.build(Plain("mien")),
            r"^thing\.name='mien': expected one of above, mine, ours; did you mean mine\?$",
        ),
        (lambda r: r.build(Plain("")), r"^thing\.name='': expected one of above, mine, ours$"),
        (lambda r: r.build(Other()), r"^thing\.name='mine': expected a Plain, and this is a Other$"),
        (lambda r: r.register("mine", Plain)(twice), "^thing 'mine' is registered twice: rename one$"),
        (lambda r: r.declare("mine", Plain, "a:b"), "^thing 'mine' is registered twice: rename one$"),
        (lambda r: r.register("ours", Other)(twice), r":twice: config=.*Other.*, but .*Plain.* where it is declared$"),
        (lambda r: r.build(Plain("ours")), "^thing 'ours': .*:twice has not registered its builder$"),
        (lambda r: r.build(Plain("above")), "^thing 'above': its room has not registered its builder$"),
        (
            lambda r: r.build(Plain(), siez=1),
            r"missing a required argument: 'size'; it gets .* and what it names of siez$",
        ),
    ],
)
def test_what_is_wrong_is_said(registry, make, said):
    registry.register("mine", Plain)(lambda config, size: config)
    registry.declare("ours", Plain, place(twice))
    registry.declare("above", Plain)
    with pytest.raises(ConfigError, match=said):
        make(registry)
