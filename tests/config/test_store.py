"""Every option that is shipped: it composes, sets every key, and says what each key means."""

import re
from dataclasses import asdict, fields, is_dataclass
from functools import cache

import pytest
import yaml

from esper.config.composing import compose
from esper.config.options import VARIANTS, conf_dir, groups
from esper.config.root import RunConfig
from esper.simic.iql.config import OFFLINE_LEARNERS
from esper.simic.on_policy.config import LEARNERS
from tests.options import chosen

ROOT_KEYS = {"controls", "name", "seed", "epochs", "batch_size", "resume", "plugins"}
OPTIONS = [(group, option) for group, options in groups().items() for option in options]


@cache
def composed(group, option):
    """With this option; not to be changed."""
    return compose(chosen(group, option))


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(group, option):
    assert isinstance(composed(group, option), RunConfig)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("policy", [*OFFLINE_LEARNERS, *LEARNERS])
def test_a_tiny_run_has_its_policy_learn_little(policy):
    short = set(yaml.safe_load((conf_dir() / f"debug/policy/smoke_{policy}.yaml").read_text()))
    long, tiny = composed("policy", policy).policy, compose([f"policy={policy}", "debug=smoke"]).policy
    assert short & {"updates", "steps"}
    assert all(getattr(tiny, key) < getattr(long, key) for key in short)


@pytest.mark.parametrize(
    ("policy", "first", "value"),
    [("heuristic", "first_plant_epoch", 2), ("scheduled", "plant_epochs", [1, 2, 3])],
)
def test_in_a_tiny_run_a_rule_plants_at_once_unless_told_otherwise(policy, first, value):
    tiny = compose([f"policy={policy}", "debug=smoke"])
    epoch = getattr(tiny.policy, first)
    assert (epoch if isinstance(epoch, int) else min(epoch)) < tiny.epochs
    assert getattr(tiny.policy, "life_epochs", 0) <= tiny.epochs
    assert getattr(compose([f"policy={policy}", "debug=smoke", f"policy.{first}={value}"]).policy, first) == value


def test_every_group_of_the_design_is_there():
    assert set(groups()) == {"experiment", "debug"} | {field.name for field in fields(RunConfig)} - ROOT_KEYS
    assert all(groups().values())


@pytest.mark.sampled(3)
@pytest.mark.parametrize("group", [group for group in groups() if group not in ("experiment", "debug")])
def test_every_key_of_a_schema_is_explained_above_it(group):
    text = "\n".join(path.read_text() for path in sorted((conf_dir() / group).glob("*.yaml")))
    schemas = VARIANTS[group].values() if group in VARIANTS else [_schema_of(group)]
    for schema in schemas:
        for key in _keys(schema):
            assert re.search(rf"^ *# .+\n *{key}:", text, re.MULTILINE), f"{group}: nothing explains {key}"


def test_every_root_key_is_explained_above_it():
    text = (conf_dir() / "config.yaml").read_text()
    for field in fields(RunConfig):
        if field.name in ROOT_KEYS:
            assert re.search(rf"^# .+\n{field.name}:", text, re.MULTILINE), field.name


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_says_what_it_is(group, option):
    lines = (conf_dir() / group / f"{option}.yaml").read_text().splitlines()
    first = lines[1] if lines[0].startswith("# @package") else lines[0]
    assert re.fullmatch(r"# [A-Z1-9].*\.", first)


def test_no_file_can_choose_what_code_runs():
    assert not [path for path in conf_dir().rglob("*.yaml") if "_target_" in path.read_text()]


@pytest.mark.slow
def test_values_agree_with_the_defaults_of_the_rooms():
    from esper.engine.governor import GovernorConfig
    from esper.engine.optimizer import OptimizerConfig
    from esper.kasmina.gates import GateConfig

    default = composed("gates", "default")
    assert asdict(default.gates) == asdict(GateConfig())
    own = {"betas": [0.9, 0.999], "decay_share": 0.33}  # the course of a run is not the optimizer's
    assert asdict(default.optimizer) == asdict(OptimizerConfig()) | own
    assert asdict(default.engine.governor) == asdict(GovernorConfig())
    for group in ("task", "policy"):
        for name, settings in VARIANTS[group].items():
            found = getattr(composed(group, name), group)
            needed = {key: getattr(found, key) for key in ("path", "target", "factory") if hasattr(found, key)}
            assert found == settings(**needed)


def test_yaml_files_hold_no_key_twice():
    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            keys = [self.construct_object(key) for key, _ in node.value]
            assert len(keys) == len(set(keys)), keys
            return super().construct_mapping(node, deep)

    for path in conf_dir().rglob("*.yaml"):
        yaml.load(path.read_text(), Strict)


def _schema_of(group):
    return type(getattr(compose(), group))


def _keys(schema):
    for field in fields(schema):
        yield field.name
        if is_dataclass(field.type):
            yield from _keys(field.type)
