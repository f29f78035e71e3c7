"""Options of one's own that cannot be used: the file, the line, and what to write instead."""

import pytest

from esper.config.composing import compose
from esper.errors import ConfigError

START = "begin it with `defaults: [default, _self_]`"
PACKAGE = "first line must be `# @package _global_`"
CASES = {
    "a bracket left open": ("gates", "min_contribution: [0.0\n", ["gates/mine.yaml, line 2", "expected ',' or ']'"]),
    "two colons": ("gates", "defaults: [default]\na: b: c\n", ["gates/mine.yaml, line 2", "not allowed here"]),
    "not for YAML": ("gates", "min_contribution: \0\n", ["gates/mine.yaml: cannot be read as YAML"]),
    "a list": ("gates", "- a\n- b\n", ["gates/mine.yaml: expected lines of KEY: VALUE"]),
    "no defaults": ("gates", "min_contribution: 0.0\n", ["gates/mine.yaml: it gives no min_training_", START]),
    "nothing": ("gates", "", ["gates/mine.yaml: it gives no min_training_", START]),
    "no defaults, of many kinds": (
        "host",
        "channels: [4]\n",
        ["host/mine.yaml: begin it with `defaults: [cnn, _self_]`"],
    ),
    "defaults of no such option": (
        "gates",
        "defaults: [defalt, _self_]\n",
        ["gates/mine.yaml", "defalt", "did you mean default?", "gates may be: default, permissive, strict"],
    ),
    "defaults that are no list": ("gates", "defaults: default\n", ["gates/mine.yaml: defaults must be a list", "["]),
    "a wrong key": ("gates", "defaults: [default]\nmin_x: 1\n", ["gates/mine.yaml: gates.min_x: there is no such key"]),
    "a wrong value": ("gates", "defaults: [default]\nmin_contribution: x\n", ["gates.min_contribution: expected a n"]),
    "a recipe of keys for nobody": ("experiment", "epochs: 3\n", ["experiment/mine.yaml", PACKAGE]),
    "a recipe that overrides for nobody": ("debug", "defaults:\n - override /policy: random\n", [PACKAGE]),
    "a recipe that does not override": (
        "experiment",
        "# @package _global_\ndefaults:\n - gates: strict\n",
        ["experiment/mine.yaml: write `override /gates: strict` in its defaults"],
    ),
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize(("group", "text", "wanted"), CASES.values(), ids=CASES)
def test_the_answer_names_the_file_and_what_to_write(group, text, wanted, tmp_path):
    (tmp_path / group).mkdir()
    (tmp_path / group / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        compose([f"{group}=mine"], config_dir=str(tmp_path))
    message = str(caught.value)
    assert all(part in message for part in wanted), message
    assert len(message.splitlines()) <= 2


def test_what_a_custom_host_needs_is_told_with_its_form():
    with pytest.raises(ConfigError, match=r"host\.factory: expected package\.module:function.*bring-your-own"):
        compose(["host=custom"])
    with pytest.raises(ConfigError, match=r"host\.positions: expected a list of submodules.*bring-your-own"):
        compose(["host=custom", "host.factory=a.b:c"])
