"""Plugins: parts of a user's own, from the decorator to a run, and what is wrong with them in a line or two."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from esper.cli import main as cli
from esper.config import plugins
from esper.config.composing import compose, from_plain, read_config, to_plain
from esper.config.help import help_text
from esper.config.plugins import load_plugins, own_options
from esper.errors import ConfigError, EsperError
from esper.files import read_json, read_jsonl
from esper.run import main

OWN = ("parts", "leaving")  # modules that tests write
ROOT = Path(__file__).parents[2]
QUICK = ["debug=smoke", "engine.kind=sequential", "engine.threads=1", "engine.memory_format=contiguous"]
QUICK += ["engine.members=1", "controls=[]"]
QUIET = ["telemetry.console=off", "telemetry.report=false"]
HEAD = """
import os
import signal
from dataclasses import dataclass

import esper


@dataclass
class Config:
    patience: int = 3
"""
RULE = """
from esper.leyline import WAIT, Action, Operation, SeedStage


class Rule:
    def __init__(self, config, catalogue):
        self.config, self.catalogue, self.seen = config, catalogue, 0

    def act(self, reports):
        self.seen += 1
        if self.seen == 2 and not os.path.exists("stopped"):
            open("stopped", "w").close()
            os.kill(os.getpid(), signal.SIGINT)
        free = [[slot for slot, seed in report.slots.items() if seed.stage is SeedStage.DORMANT] for report in reports]
        return [Action(Operation.GERMINATE, slots[0], self.catalogue[0][0]) if slots else WAIT for slots in free]

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


@esper.policy("my_rule", Config)
def my_rule(config, catalogue):
    return Rule(config, catalogue)
"""
CONV = """
from torch import nn


class Conv(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 1)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x):
        return x + self.conv(x)


@esper.blueprint("my_conv", topology="cnn")
def my_conv(dim):
    return Conv(dim)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to start from; what is registered in a test is forgotten after it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(plugins.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    forget()


def write(text, name="parts.py", head=HEAD):
    Path(name).write_text(head + text)
    return f"plugins=[{name.removesuffix('.py')}]"


def forget():
    """As in a process that has not loaded the plugin."""
    for _, parts in plugins._registries():
        for name in [name for name, part in parts.items() if part.package in OWN]:
            del parts[name]
    for name in OWN:
        sys.modules.pop(name, None)
    unstore(ConfigStore.instance().repo)


def unstore(options):
    """What Hydra knows of the plugin would go along to a sweep's processes, which cannot import it."""
    for name, stored in list(options.items()):
        if isinstance(stored, dict):
            unstore(stored)
        elif getattr(OmegaConf.get_type(stored.node), "__module__", "") in OWN:
            del options[name]


# ---- what there is


def test_a_part_of_ones_own_is_an_option_like_all_others(here):
    plugin = write(RULE + CONV)
    config = compose([plugin, "policy=my_rule", "policy.patience=5", "blueprint.names=[my_conv,norm]"])
    config.check_names()
    assert (config.policy.name, config.policy.patience, config.policy.learns) == ("my_rule", 5, False)
    assert config.plugins == ["parts"]
    assert from_plain(to_plain(config), "config.yaml") == config
    assert own_options() == {"policy=my_rule", "blueprint.names=[my_conv]"}
    assert re.search(r"^  policy .*\n? .*my_rule", help_text(), re.M)
    assert "of plugins: blueprint.names=[my_conv], policy=my_rule" in help_text()


def test_completion_finds_parts_without_importing_them(here):
    load_plugins([write(RULE).removeprefix("plugins=[").removesuffix("]")])
    assert plugins.parts_cache().joinpath("parts").read_text() == "plugins=[parts]\npolicy=my_rule\n"


def test_modules_are_looked_for_where_the_run_starts(here, monkeypatch):
    plugin = write(RULE)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(here))])
    assert compose([plugin, "policy=my_rule"]).policy.name == "my_rule"


@pytest.mark.slow
def test_an_installed_package_brings_its_parts_by_itself(here):
    write(RULE + CONV, "installed.py")
    info = here / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[esper.plugins]\nmine = installed\n")
    program = "from esper.config.composing import compose; print(compose(['policy=my_rule']).policy.patience)"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{here}"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "3\n", done.stderr
    (here / "installed.py").write_text("1 / 0")
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert "plugin installed of the installed package my-package failed" in done.stderr


def test_a_checkpoint_never_chooses_code(here):
    plain = to_plain(compose([write(RULE), "policy=my_rule"]))
    forget()
    with pytest.raises(ConfigError, match=r"policy.name=my_rule: not known"):
        from_plain(plain, "a checkpoint")
    assert "parts" not in sys.modules


@pytest.mark.slow
def test_a_run_of_own_parts_is_stopped_and_resumed(here):
    arguments = [*QUICK, *QUIET, write(RULE + CONV), "policy=my_rule", "blueprint.names=[my_conv]", "epochs=3"]
    assert main([*arguments, "hydra.run.dir=a"]) == 130
    forget()
    assert read_json(here / "a/run.json")["status"] == "interrupted"
    assert read_config(here / "a/config.yaml").plugins == ["parts"]
    forget()
    assert main(["resume=a"]) == 0
    assert main([*arguments, "hydra.run.dir=b"]) == 0
    one, two = ([line.record["members"] for line in read_jsonl(here / run / "metrics.jsonl")] for run in "ab")
    assert one == two
    assert "my_conv" in str(one[-1])


@pytest.mark.slow
def test_a_run_whose_plugin_is_gone_says_so_and_what_it_wrote_is_read(here, capsys):
    arguments = [*QUICK, *QUIET, write(RULE + CONV), "policy=my_rule", "blueprint.names=[my_conv]", "epochs=3"]
    assert main([*arguments, "hydra.run.dir=a"]) == 130
    forget()
    Path("parts.py").rename("moved.py")
    capsys.readouterr()
    gone = r"^error: plugins: there is no module parts\n  looked for from \S+\n$"
    for ask in (
        lambda: main(["resume=a"]),
        lambda: cli(["export", "a"]),
        lambda: cli(["evaluate", "a", "--seeds", "1"]),
    ):
        assert ask() == 2
        assert re.search(gone, capsys.readouterr().err)
    for words in (["report", "a"], ["runs", "--root", "."]):
        assert cli(words) == 0, capsys.readouterr().err
    Path("moved.py").rename("parts.py")
    assert main(["resume=a"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "local", "fused"])
def test_own_parts_are_swept(here, launcher):
    Path("stopped").touch()
    swept = ["-m", write(RULE), "policy=my_rule", "policy.patience=1,2", f"hydra/launcher={launcher}"]
    assert main([*swept, *QUICK, *QUIET]) == 0
    assert len(list(here.glob("outputs/digits_my_rule/sweep-*/*/run.json"))) == 2


@pytest.mark.parametrize(("kind", "default"), [("Path", "Path('a/b')"), ("Way", "Way.FAST")])
def test_a_configuration_may_hold_paths_and_enumerations(here, kind, default):
    text = (
        "from enum import Enum\nfrom pathlib import Path\n\n\nclass Way(Enum):\n    FAST = 1\n    SLOW = 2\n\n\n"
        f"@dataclass\nclass Held:\n    held: {kind} = {default}\n    other: list[{kind}] | None = None\n\n\n"
        "@esper.policy('mine', Held)\ndef mine(config, catalogue): ...\n"
    )
    config = compose([write(text), "policy=mine"])
    plain = to_plain(config)
    assert plain["policy"]["held"] in ("a/b", "FAST")
    assert from_plain(plain, "config.yaml") == config


# ---- what is wrong


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1\n1 / 0", r"^plugins=\[parts\] failed in parts\.py, line \d+: ZeroDivisionError: division by zero$"),
        ("def broken(:", r"^plugins=\[parts\] failed in parts\.py, line 12: SyntaxError: "),
        ("import nosuch", r"failed in parts\.py, line 12: ModuleNotFoundError: No module named 'nosuch'$"),
        ("raise SystemExit(3)", r"failed in parts\.py, line 12: SystemExit: 3$"),
        ("class Odd(BaseException): ...\nraise Odd(3)", r"failed in parts\.py, line 13: Odd: 3$"),
        ("@esper.policy('null', Config)\ndef f(c): ...", r"^name of a policy=null: expected letters"),
        (
            "@esper.blueprint('mine', topology='cnn', param_estimate='x')\ndef f(dim): ...",
            r"param_estimate=x: expected",
        ),
        (
            "@esper.blueprint('mine', topology='cnn', param_estimate=-1)\ndef f(dim): ...",
            r"param_estimate=-1: expected",
        ),
        (RULE + RULE, r"^policy 'my_rule' is registered twice: rename one$"),
        (CONV + CONV, r"^blueprint 'my_conv' is registered twice for topology 'cnn': rename one$"),
        (
            "@esper.policy('heuristic', Config)\ndef f(config): ...",
            r"^policy 'heuristic': one is built in; rename ",
        ),
        ("@esper.policy('ppo', Config)\ndef f(config): ...", r"^policy 'ppo': one is built in; rename yours$"),
        ("@esper.host('cnn', Config)\ndef f(config): ...", r"^host 'cnn': one is built in; rename yours$"),
        ("@esper.host('cnn_wide', Config)\ndef f(config): ...", r"^host 'cnn_wide': one is built in; rename yours$"),
        ("@esper.blueprint('norm', topology='cnn')\ndef f(dim): ...", r"^blueprint 'norm' of parts:f: one .* built in"),
        ("@esper.blueprint('mine', topology='cn')\ndef f(dim): ...", r"topology=cn: expected cnn or "),
        ("@esper.reward('mine', dict)\ndef f(config): ...", r"^reward 'mine': its configuration dict is no dataclass"),
        ("@esper.reward('my-reward', Config)\ndef f(c): ...", r"^name of a reward=my-reward: expected letters"),
        ("@esper.sink('mine', Config)\ndef f(config): ...", r"^sink 'mine': parts:f is called with \(config, folder\)"),
        (
            "@dataclass\nclass Odd:\n    x: set = None\n@esper.task('mine', Odd)\ndef f(config): ...",
            r"^task 'mine': Odd cannot be a configuration: ",
        ),
        (
            "@dataclass\nclass Bare:\n    x: int\n@esper.sink('mine', Bare)\ndef f(config, folder): ...",
            r"^sink 'mine': Bare\.x has no default",
        ),
    ],
)
def test_a_plugin_that_will_not_do_is_refused_and_leaves_nothing(here, text, reason):
    plugin = write(text)
    before = own_options()
    with pytest.raises(EsperError, match=reason) as caught:
        compose([plugin])
    assert len(str(caught.value).splitlines()) <= 2
    assert own_options() == before
    write("")  # mended
    assert compose([plugin]).plugins == ["parts"]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["plugins=[prats]"], r"^error: plugins: there is no module prats; did you mean parts\?\n  looked for from /"),
        (["plugins=[parts.more]"], r"^error: plugins: there is no module parts\.more; did you mean parts\?\n"),
        (["plugins=[parts.py]"], r"^error: plugins: parts\.py is no module's name; expected such as parts\n$"),
        (["plugins=parts"], r"^error: plugins=parts: expected one list of modules, as in plugins=\[parts\]\n$"),
        (["-m", "plugins=[parts],[json]"], r"^error: plugins=\[parts\],\[json\]: expected one list of modules"),
        (["policy=another"], r"^error: policy=another: there is no such option; one of your own comes with plugins="),
        (
            ["plugins=[parts]", "policy=my_ruel"],
            r"no such option; did you mean policy=my_rule\?\n  policy may be: ",
        ),
        (["plugins=[parts]", "policy=my_rule", "policy.patienc=1"], r"did you mean policy\.patience\?\n  policy has: "),
        (["plugins=[parts]", "policy=my_rule", "policy.patience=x"], r"policy\.patience=x: expected a whole number\n$"),
        (["plugins=[parts]", "blueprint.names=[my_cnov]"], r"no cnn blueprint 'my_cnov'; did you mean 'my_conv'\?"),
        (
            ["plugins=[leaving]", "policy=leaving"],
            r"^error: a check of the configuration ended the program: SystemExit: 4\n$",
        ),
        (["telemetry.sinks.my_sink.enabled=true"], r"\n  telemetry\.sinks has: no keys; one of your own comes with "),
        (["plugins=[parts]", "+telemetry.sinks.my_sink.file=a"], r"telemetry\.sinks\.my_sink\.file: there is no such"),
    ],
)
def test_what_is_typed_wrong_is_answered(here, capsys, arguments, reason):
    sink = "@esper.sink('my_sink', Config)\ndef my_sink(config, folder): ..."
    write(RULE + CONV + sink)
    leaving = "@dataclass\nclass Leaving:\n    def __post_init__(self):\n        raise SystemExit(4)\n\n\n"
    write(leaving + "@esper.policy('leaving', Leaving)\ndef leaving(config, catalogue): ...", "leaving.py")
    assert main(arguments) == 2
    assert re.search(reason, capsys.readouterr().err)
    assert not Path("outputs").exists()


BLUEPRINT = "from torch import nn\n\n\n@esper.blueprint('mine', topology='cnn')\n"
WITH = (
    "import torch\nfrom torch import nn\n\n\nclass Cut(torch.autograd.Function):\n"
    "    @staticmethod\n    def forward(context, x):\n        return x.clone()\n\n"
    "    @staticmethod\n    def backward(context, gradient):\n        raise ValueError('at work')\n\n\n"
    "class Mine(nn.Module):\n    def __init__(self, dim):\n        super().__init__()\n"
    "        self.one = nn.Conv2d(dim, dim, 1)\n        nn.init.zeros_(self.one.weight)\n"
    "        nn.init.zeros_(self.one.bias)\n\n    def forward(self, x):\n        return {}\n\n\n"
    "@esper.blueprint('mine', topology='cnn')\ndef f(dim):\n    return Mine(dim)\n"
)
OTHER = "@esper.policy('mine', Config)\ndef f(config, catalogue):\n    return {}\n"


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("text", "chosen", "reason"),
    [
        (BLUEPRINT + "def f(dim):\n    return nn.Conv2d(dim, dim, 1)", "", "is not the identity at birth: it changes"),
        (BLUEPRINT + "def f(dim):\n    return nn.Identity()", "", "has no parameter that could learn"),
        (WITH.format("x.add_(self.one(x))"), "", "writes into the features that it is given: they are the host's own"),
        (WITH.format("x + self.one(x).detach()"), "", "no gradient reaches its parameters, so that none could learn"),
        (WITH.format("Cut.apply(x + self.one(x))"), "", "fails in its backward pass: at work"),
        (
            BLUEPRINT + "def f(dim):\n    return nn.Linear(dim + 1, 3)",
            "",
            r"does not take features \(2, 4, 8, 8\): ",
        ),
        (BLUEPRINT + "def f(dim):\n    return None", "", "parts:f gave NoneType, and a seed is an nn.Module"),
        (BLUEPRINT + "def f(dim):\n    return dim.x", "", r"'mine' failed in parts\.py, line \d+: AttributeError: "),
        (BLUEPRINT + "def f(dim, size):\n    return 1", "", "TypeError: f.. missing 1 required positional argument"),
        (OTHER.format("object()"), "policy=mine", "policy=mine: object has no method act: it decides nothing"),
        (
            OTHER.replace("catalogue", "more").format("1"),
            "policy=mine",
            "missing a required argument: 'more'; it ",
        ),
        (
            "class Bare:\n    def act(self, reports):\n        return []\n" + OTHER.format("Bare()"),
            "policy=mine",
            "policy=mine: Bare has no method state_dict: a run keeps checkpoints, and goes on from them",
        ),
        (
            "@esper.task('mine', Config)\ndef f(config):\n    return [1]",
            "task=mine",
            "task=mine: parts:f gave builtins.list; expected esper.Data",
        ),
        (
            "@esper.host('mine', Config)\ndef f(config):\n    return [1]",
            "host=mine",
            "host=mine: parts:f gave a list, and no nn.Module",
        ),
        (
            "from torch import nn\n@esper.host('mine', Config)\ndef f(config):\n"
            "    return nn.Sequential(nn.Flatten(), nn.Linear(1, 10))",
            "host=mine",
            r"host=mine.*\n?.*fails on the example",
        ),
        (
            "from torch import nn\n@esper.host('mine', Config)\ndef f(config, input_shape, num_outputs):\n"
            "    c = [nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)]\n"
            "    return nn.Sequential(*c, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_outputs - 1))",
            "host=mine",
            "error: host=mine: the network gives 9 outputs, the task has 10 classes",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_the_run_begins(here, capsys, text, chosen, reason):
    arguments = [write(text), *([chosen] if chosen else ["blueprint.names=[mine]"])]
    assert main([*QUICK, *QUIET, *arguments]) == 2
    said = capsys.readouterr().err
    assert re.search(reason, said)
    assert len(said.splitlines()) <= 2
    assert not Path("outputs").exists()


SINK = """

class Sink:
    def epoch(self, record):
        raise SystemExit(3)

    def event(self, event): ...

    def update(self, record): ...

    def close(self, status):
        raise SystemExit(4)


@esper.sink("my_sink", Config)
def my_sink(config, folder):
    return Sink()
"""
PLANTING = ["blueprint.names=[my_conv]", "policy=random", "policy.act_probability=1.0"]
HUGE = """
import torch


class Huge(torch.utils.data.Dataset):
    def __len__(self):
        return 10**15

    def __getitem__(self, index):
        return torch.zeros(9), 0


@esper.task("mine", Config)
def mine(config):
    return esper.Data(train=Huge())
"""


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("text", "chosen", "code", "reason"),
    [
        (
            RULE.replace("self.seen += 1", "self.seen += reports[0].epoch and None"),
            ["policy=my_rule"],
            1,
            r"^error: policy=my_rule failed in parts\.py, line \d+: TypeError: .*\n  to continue",
        ),
        (
            CONV.replace("        return x", "        assert len(x) < 4, 'at work'\n        return x"),
            PLANTING,
            1,
            r"^error: your code failed in parts\.py, line \d+: AssertionError: at work\n  to continue",
        ),
        (
            CONV.replace("        return x", "        len(x) < 4 or exit(3)\n        return x"),
            PLANTING,
            1,
            r"^error: your code failed in parts\.py, line \d+: SystemExit: 3\n  to continue",
        ),
        (
            RULE.replace("Operation.GERMINATE", "99"),
            ["policy=my_rule"],
            1,
            r"policy=my_rule: operation of an action=99: expected one of WAIT, GERMINATE, ADVANCE, CULL\n",
        ),
        (
            RULE.replace("catalogue[0][0])", "catalogue[0][0], reason=3)"),
            ["policy=my_rule"],
            1,
            r"policy=my_rule: reason of an action=3: expected text\n",
        ),
        (RULE.replace("catalogue[0][0])", r"catalogue[0][0], reason='\udce9')"), ["policy=my_rule"], 0, "^$"),
        (
            SINK,
            ["policy=static", "telemetry.sinks.my_sink.enabled=true"],
            0,
            r"^Sink Sink failed \(SystemExit: 3\) and gets nothing from here on; the run goes on.\n$",
        ),
        (
            SINK.replace("return Sink()", "raise SystemExit(5)"),
            ["policy=static", "telemetry.sinks.my_sink.enabled=true"],
            0,
            r"^telemetry=my_sink could not be opened \(SystemExit: 5\); the run goes on.\n$",
        ),
        (HUGE, ["task=mine"], 2, r"^error: there is not enough memory"),
    ],
)
def test_what_fails_on_the_way_is_said_with_its_line(here, capsys, text, chosen, code, reason):
    Path("stopped").touch()
    assert main([*QUICK, *QUIET, write(text), *chosen, "hydra.run.dir=a"]) == code
    said = capsys.readouterr().err
    assert re.search(reason, said)
    assert "Traceback" not in said and len(said.splitlines()) <= 2
