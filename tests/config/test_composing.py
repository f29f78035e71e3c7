"""config.yaml of a run: written, read back, and checked as strictly as a command line."""

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.config.composing import compose, from_plain, read_config, to_plain
from esper.config.options import conf_dir, groups
from esper.errors import ConfigError

PLAIN = to_plain(compose())


@pytest.mark.sampled(3)
@pytest.mark.parametrize("policy", groups()["policy"])
def test_what_is_written_is_read_back(policy, tmp_path):
    config = compose([f"policy={policy}", "task=cifar10", "host.channels=[3,5]", "seed=7", "optimizer.clip_norm=1.5"])
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(to_plain(config), sort_keys=False))
    assert read_config(path) == config


def changed(key, value):
    plain = yaml.safe_load(yaml.safe_dump(PLAIN))
    node = plain
    *parents, last = key.split(".")
    for parent in parents:
        node = node[parent]
    node[last] = value
    return plain


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("engine.members", "many", "whole number"),
        ("engine.members", 0, "1 to 4096"),
        ("engine.membres", 3, "did you mean engine.members"),
        ("policy.name", "heuristc", "did you mean heuristic"),
        ("policy", 3, "policy"),
        ("host", None, "host"),
        ("seeds", 3, "did you mean seed"),
        ("engine._target_", "os.system", "_target_"),
    ],
)
def test_a_changed_file_is_refused(key, value, wanted):
    with pytest.raises(ConfigError, match=wanted) as caught:
        from_plain(changed(key, value), "config.yaml")
    assert str(caught.value).startswith("config.yaml: ")


def test_a_line_break_in_a_value_is_no_line_break_in_the_answer():
    with pytest.raises(ConfigError) as caught:
        from_plain(changed("policy.blend", "a\nb\x1ec\nd"), "config.yaml")
    assert len(str(caught.value).splitlines()) <= 2


def test_a_missing_value_is_named():
    plain = changed("seed", 0)
    del plain["seed"]
    with pytest.raises(ConfigError, match="seed: a value is missing"):
        from_plain(plain, "config.yaml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_config(tmp_path / "config.yaml")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_whatever_the_file_holds_the_answer_is_short(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert len(str(caught.value).splitlines()) <= 2


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
keys = [*PLAIN, *(f"{group}.{key}" for group in PLAIN if isinstance(PLAIN[group], dict) for key in PLAIN[group])]


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.sampled_from(keys), plain_values)
def test_any_value_under_any_key_is_taken_or_refused_in_short(key, value):
    try:
        from_plain(changed(key, value), "config.yaml")
    except ConfigError as error:
        assert len(str(error).splitlines()) <= 2


def test_another_program_of_hydras_may_be_under_way():
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        under_way = GlobalHydra.instance().hydra
        assert to_plain(compose()) == PLAIN
        with pytest.raises(ConfigError):
            compose(["seed=-1"])
        assert GlobalHydra.instance().hydra is under_way
