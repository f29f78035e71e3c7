import importlib
import io
import os
import pickle
import random
import subprocess
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from esper.checkpoint.audit import audit_checkpoint, audit_value, format_audit, get_environment_info, iterative_audit
from esper.checkpoint.convert import write_torch
from esper.checkpoint.legacy.pickle_scan import scan_file
from esper.cli.audit_examples import KINDS, generate, results_page, seed_checkpoint
from esper.errors import CheckpointError
from esper.leyline import SeedStage
from esper.simic.ppo.agent import PPOAgent
from tests.checkpoint.evil import evil_files

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2025, 1, 2, tzinfo=UTC)


class Colour(Enum):
    RED = 1


class Level(IntEnum):
    LOW = 0


class Word(StrEnum):
    YES = "yes"


Point = namedtuple("Point", "x y")


@dataclass
class Note:
    at: Any
    text: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {"at": self.at.isoformat(), "text": self.text}


@dataclass(slots=True)
class Slim:
    value: Any


class Odd:
    def __init__(self) -> None:
        self.inner = NOW


def saved(value: Any, path: Path, legacy: bool = False) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


def loads(value: Any) -> bool:
    """Whether torch reads the value back without unpickling at will."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    try:
        torch.load(buffer, weights_only=True)
    except Exception:
        return False
    return True


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (NOW, "root: datetime → ISO 8601 string"),
        (date(2025, 1, 2), "root: date → ISO 8601 string"),
        (Colour.RED, "root: Enum Colour → int"),
        (Level.LOW, "root: Enum Level → int"),
        (Word.YES, "root: Enum Word → int (or its text, `.value`)"),
        (deque([1]), "root: deque → list"),
        (Note(1), "root: dataclass Note → dict via `to_dict()`"),
        (Slim(1), "root: dataclass Slim → dict via `to_dict()`, still to be written"),
        (nn.Linear(1, 1), "root: nn.Module Linear → CRITICAL: store state_dict separately"),
        (timedelta(1), "root: datetime.timedelta → needs manual inspection"),
        (range(3), "root: range → needs manual inspection"),
        (frozenset([1]), "root: frozenset → needs manual inspection (store a plain list)"),
        (defaultdict(list), "root: defaultdict → needs manual inspection (store a plain dict)"),
        (Point(1, 2), "root: namedtuple Point → needs manual inspection (store a plain tuple, or `_asdict()`)"),
        (np.ones(2), "root: numpy.ndarray → needs manual inspection"),
        (1 << 3000, "root: int of 3001 bits → str"),
        (b"", "root: bytes of length 0 → needs manual inspection (store None)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_kind_of_value_is_told_what_to_become(value: Any, line: str) -> None:
    assert audit_value(value) == [line]
    assert not loads(value)


def test_paths_lead_to_the_values() -> None:
    value = {
        "key": [Note(at=NOW)],
        "set": {NOW},
        "named": Point(0, NOW),
        "ordered": OrderedDict(a=(1, [NOW])),
        Colour.RED: 1,
        (1, Colour.RED): NOW,
        7: NOW,
    }
    assert [line.split(":")[0] for line in audit_value(value)] == [
        "root['key'][0]",
        "root['key'][0].at",
        "root['set']{0}",
        "root['named']",
        "root['named'][1]",
        "root['ordered']['a'][1][0]",
        "root.keys()[4]",
        "root.keys()[5][1]",
        "root[<key 5>]",
        "root[7]",
    ]
    assert audit_value([NOW], "here['x']") == ["here['x'][0]: datetime → ISO 8601 string"]


def test_plain_values_and_tensors_may_stay() -> None:
    weight = nn.Parameter(torch.ones(2))
    shared = [weight, weight]
    value = {"a": [None, True, 1, 0.5, "x", b"x", 1j, (1,), {1}], "t": torch.ones(2).to_sparse(), "p": [shared, shared]}
    value |= {
        "d": torch.float32,
        "v": torch.device("cpu"),
        "s": torch.Size([1]),
        "o": OrderedDict(a=1),
        "c": Counter("a"),
    }
    assert audit_value(value) == []
    assert loads(value)


@pytest.mark.parametrize("make", [lambda inner: [inner], lambda inner: {"k": inner}, lambda inner: deque([inner])])
def test_what_is_nested_too_deeply_is_reported_and_not_followed(make: Any) -> None:
    value: Any = NOW
    for _ in range(20):
        value = make(value)
    assert audit_value(value)[-1].endswith("datetime → ISO 8601 string")
    for _ in range(10_000):
        value = make(value)
    assert "recursion past 20 levels" in audit_value(value)[-1]
    assert "datetime" not in "".join(audit_value(value))


def test_cycles_are_reported_and_not_followed() -> None:
    by_list: list[Any] = [1]
    by_list.append({"back": by_list})
    by_field = Note(at=None)
    by_field.at = by_field
    assert [line for line in audit_value(by_list) if line.startswith("root[1]['back']: cycle")]
    assert [line for line in audit_value(by_field) if line.startswith("root.at: cycle")]


def test_what_is_shared_is_looked_into_once() -> None:
    inner: Any = [NOW]
    for _ in range(19):
        inner = [inner, inner]  # half a million paths to one value
    assert len(audit_value(inner)) == 20
    inner = [NOW]
    assert audit_value([inner, inner]) == [
        "root[0][0]: datetime → ISO 8601 string",
        "root[1]: the same object as root[0] → see there",
    ]


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.integers() | st.tuples(st.integers()), inner, max_size=3)
        | st.tuples(inner)
        | st.builds(OrderedDict, st.dictionaries(st.text(max_size=3), inner, max_size=2))
    ),
    max_leaves=8,
)
unsafe = st.sampled_from([NOW, Colour.RED, deque([1]), Slim(2), Point(1, 2), 1 << 3000, frozenset([1]), range(2)])
mixed = st.recursive(
    plain | unsafe,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(mixed)
def test_a_value_is_clean_exactly_when_torch_loads_it(value: Any) -> None:
    assert (audit_value(value) == []) == loads(value)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(value=mixed, legacy=st.booleans())
def test_a_file_gives_the_lines_that_its_value_gives(
    value: Any, legacy: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = saved(value, tmp_path_factory.mktemp("file") / "f.pt", legacy)
    scan = scan_file(path)

    def places(lines: list[str]) -> set[str]:  # the copy in the file may share objects that the value does not
        return {line.split(": ")[0] for line in lines if "the same object" not in line}

    assert places(audit_value(scan.root)) <= places(audit_value(value))
    assert bool(audit_value(scan.root)) == bool(audit_value(value)) == bool(scan.unsafe or (1 << 3000) in flat(value))


def flat(value: Any) -> list[int]:
    """The integers of a value of `mixed`."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [value] if type(value) is int else [number for item in inside for number in flat(item)]


def rich() -> dict[str, Any]:
    return {
        "model_state_dict": nn.Linear(2, 3).state_dict(),
        "stage": SeedStage.BLENDING,
        "key": [Note(at=NOW)],
        "slim": Slim(NOW),
        "history": deque([(SeedStage.TRAINING, NOW)], maxlen=3),
        "named": Point(1, NOW),
        "by_stage": {SeedStage.CULLED: {NOW}},
        "network": nn.Sequential(nn.Linear(2, 2)),
        "sets": [{1, 2}, frozenset([NOW])],
        "array": np.ones(2),
        "odd": Odd(),
        "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(2)}}, "when": NOW},
    }


@pytest.mark.parametrize("legacy", [False, True])
def test_an_audit_tells_of_a_file_what_it_would_tell_of_the_object(tmp_path: Path, legacy: bool) -> None:
    value = rich()
    audit = audit_checkpoint(saved(value, tmp_path / "c.pt", legacy))
    lines = [line for line in audit_value(value) if not line.startswith(("root['array']", "root['optim"))]
    found = [line for line in audit["issues"] if not line.startswith("root['array']")]
    assert set(lines) <= set(found)
    assert set(found) - set(lines) == {"root['odd'].inner: datetime → ISO 8601 string"}
    assert audit["optimizer_issues"] == ["root['optimizer_state_dict']['when']: datetime → ISO 8601 string"]
    assert audit["layout"] == ("legacy" if legacy else "zip")
    assert not audit["compatible"]
    assert audit["weights_only"].startswith("FAILED: ")
    assert audit["error"] in audit["weights_only"]
    assert audit["structure"]["model_state_dict"] == "OrderedDict of 2"
    assert audit["structure"]["history"] == "collections.deque"
    assert not audit_checkpoint(tmp_path / "c.pt", include_optimizer=False)["optimizer_issues"]


def test_a_class_that_is_not_loaded_is_not_loaded_and_known_by_its_form(tmp_path: Path) -> None:
    value = {"stage": Colour.RED, "word": Word.YES, "note": Note(at=NOW), "net": nn.ReLU(), "hook": Odd()}
    text = pickle.dumps(value, 2)
    for name in (__name__, "torch.nn.modules.activation"):
        text = text.replace(b"c" + name.encode() + b"\n", b"cnowhere.to.be.found\n")
    (tmp_path / "f.pt").write_bytes(text)
    assert audit_checkpoint(tmp_path / "f.pt")["issues"] == [
        "root['stage']: Enum nowhere.to.be.found.Colour, by its form → its value",
        "root['word']: Enum nowhere.to.be.found.Word, by its form → its value",
        "root['note']: object of class nowhere.to.be.found.Note → needs manual inspection "
        "(if it is a dataclass: dict via `to_dict()`)",
        "root['note'].at: datetime → ISO 8601 string",
        "root['net']: nn.Module nowhere.to.be.found.ReLU → CRITICAL: store state_dict separately",
        "root['hook']: object of class nowhere.to.be.found.Odd → needs manual inspection "
        "(if it is a dataclass: dict via `to_dict()`)",
        "root['hook'].inner: datetime → ISO 8601 string",
    ]


@pytest.mark.parametrize("legacy", [False, True])
def test_the_iterative_audit_finds_all_unsafe_globals(tmp_path: Path, legacy: bool) -> None:
    path = saved(
        {"a": NOW, "b": deque(), "c": SeedStage.CULLED, "w": torch.ones(1), "s": {1}}, tmp_path / "c.pt", legacy
    )
    unsafe = ["datetime.datetime", "datetime.timezone", "datetime.timedelta", "collections.deque"]
    assert iterative_audit(path) == [*unsafe, "esper.leyline.stages.SeedStage"]
    assert iterative_audit(saved({"w": torch.ones(1), "e": 1}, tmp_path / "d.pt", legacy)) == []


def test_torch_lists_the_same_globals(tmp_path: Path) -> None:
    value = rich()
    del value["array"]
    path = saved(value, tmp_path / "c.pt")
    assert set(iterative_audit(path)) == set(torch.serialization.get_unsafe_globals_in_checkpoint(path))


def test_no_malicious_file_runs(tmp_path: Path) -> None:
    files, proof = evil_files(tmp_path)
    for name, path in files.items():
        if name == "cut":
            with pytest.raises(CheckpointError, match=r"no.*sound torch checkpoint.*names .*system: do not load it"):
                audit_checkpoint(path)
            continue
        audit = audit_checkpoint(path)
        assert [each.split(".")[-1] for each in iterative_audit(path)] == ["system"], name
        assert audit["weights_only"].startswith("FAILED: ") and "will likely succeed" not in format_audit(audit)
        assert [line for line in audit["issues"] if line.endswith("do not load")], name
        assert (name == "header") == audit["issues"][-1].startswith("the pickle itself: ")  # it is no part of the value
    assert not proof.exists()


class Call:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize(
    "call",
    [
        Call(os.system, "true"),
        Call(eval, "1"),
        Call(exec, "1"),
        Call(getattr, 1, "real"),
        Call(subprocess.Popen, ["true"]),
        Call("a".upper),
        Call(importlib.import_module, "this"),
    ],
    ids=lambda call: call.call[0].__name__,
)
def test_a_call_that_runs_code_is_told_from_an_odd_value(call: Call, tmp_path: Path) -> None:
    audit = audit_checkpoint(saved({"odd": range(2), "hook": call}, tmp_path / "c.pt"))
    odd, *hook = audit["issues"]
    assert odd.endswith("needs manual inspection")
    assert hook and all(line.startswith("root['hook']") for line in hook)
    assert hook[0].endswith("(...) → CRITICAL: runs code when loaded; do not load")


def test_a_blocked_module_is_named_without_torch_s_advice(tmp_path: Path) -> None:
    audit = audit_checkpoint(saved(Call(os.system, "true"), tmp_path / "c.pt"))
    assert audit["error"].startswith("UnpicklingError: Trying to load unsupported GLOBAL")
    assert "weights_only" not in audit["error"]


def test_a_counter_is_counted(tmp_path: Path) -> None:
    audit = audit_checkpoint(saved({"full": Counter("aab"), "empty": Counter()}, tmp_path / "c.pt"))
    assert audit["structure"] == {"full": "Counter of 2", "empty": "Counter of 0"} and audit["compatible"]
    (line,) = audit_checkpoint(saved(Counter({NOW: 1}), tmp_path / "d.pt"))["issues"]
    assert line == "root.keys()[0]: datetime → ISO 8601 string"


def test_what_is_no_torch_file_for_a_plain_reason_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder"):
        audit_checkpoint(tmp_path)
    (tmp_path / "c.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    with pytest.raises(CheckpointError, match="is a safetensors file"):
        audit_checkpoint(tmp_path / "c.safetensors")


def test_importing_is_not_left_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text(f"open({str(tmp_path / 'proof')!r}, 'w')")
    (tmp_path / "f.pt").write_bytes(b"\x80\x02csleeper\nThing\n)\x81}b.")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        assert audit_checkpoint(tmp_path / "f.pt")["unsafe_globals"] == ["sleeper.Thing"]
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello world, this is text",
        b"PK\x03\x04 no zip at all",
        b"\x80\x04",
        b"\x80\x02]q\x00(K\x01",
        b"R.",
        b"a.",
        b".",
    ],
)
def test_what_is_no_checkpoint_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "f.pt"
    path.write_bytes(content)
    for audit in (audit_checkpoint, iterative_audit):
        with pytest.raises(CheckpointError, match=r"f\.pt is not a sound torch checkpoint"):
            audit(path)
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        audit_checkpoint(tmp_path / "missing.pt")


def test_damage_anywhere_is_a_checkpoint_error(tmp_path: Path) -> None:
    source = saved({"a": [NOW, {"b": deque([1])}], "w": torch.ones(3)}, tmp_path / "f.pt", legacy=True).read_bytes()
    chance = random.Random(0)
    path = tmp_path / "g.pt"
    for _ in range(300):
        data = bytearray(source)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data[: chance.choice([len(data), chance.randrange(len(data))])])
        try:
            audit_value(scan_file(path).root)
        except CheckpointError as error:
            assert "g.pt is not a sound torch checkpoint" in str(error)


@pytest.mark.slow
def test_endless_nesting_crashes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "f.pt"
    path.write_bytes(b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".")
    assert "recursion past 20 levels" in audit_checkpoint(path)["issues"][0]
    path.write_bytes(b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s.")  # a tuple that cannot be hashed, as a key
    with pytest.raises(CheckpointError, match="nests tuples deeper than 1000 levels"):
        audit_checkpoint(path)


def test_names_in_a_file_cannot_steer_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "f.pt").write_bytes(
        b"\x80\x02}X\x05\x00\x00\x00\x1b[2Jkc\x1b[2J\nThing\n)\x81}X\x05\x00\x00\x00\x1b[2Jfcx\ny\nsbs."
    )
    text = format_audit(audit_checkpoint(tmp_path / "f.pt")) + "".join(iterative_audit(tmp_path / "f.pt"))
    assert "Thing" in text
    assert "\x1b" not in text


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    data = b"\x80\x02}."
    writer = torch._C.PyTorchFileWriter(str(tmp_path / "f.pt"))
    for name in ("data.pkl", "constants.pkl"):
        writer.write_record(name, data, len(data))
    writer.write_end_of_file()
    with pytest.raises(CheckpointError, match="TorchScript archive"):
        audit_checkpoint(tmp_path / "f.pt")


def test_the_sections_come_in_order(tmp_path: Path) -> None:
    text = format_audit(audit_checkpoint(generate("legacy", tmp_path)))
    titles = ["Environment", "weights_only=True", "Contents", "Optimizer", "Top-level structure"]
    places = [text.index(f"\n{title}\n") for title in titles]
    assert places == sorted(places)
    assert all(f"{name}: {value}".lower() in text.lower() for name, value in get_environment_info().items())
    assert get_environment_info().keys() == {"pytorch", "cuda", "python", "platform"}


@pytest.mark.parametrize("stage", [stage for stage in SeedStage if stage is not SeedStage.UNKNOWN])
def test_esper_s_own_checkpoints_are_clean_in_every_stage(tmp_path: Path, stage: SeedStage) -> None:
    payload = seed_checkpoint(stage)
    state = payload["seed_states"]["mid"]
    assert (state["stage"] if state else SeedStage.DORMANT) == stage
    audit = audit_checkpoint(write_torch(payload, tmp_path / "c.pt"))
    assert audit["weights_only"] == "SUCCESS - checkpoint is already compatible!"
    assert audit["issues"] == audit["optimizer_issues"] == audit["unsafe_globals"] == []


def test_the_examples_are_what_they_are_said_to_be(tmp_path: Path) -> None:
    audits = {name: audit_checkpoint(generate(name, tmp_path)) for name in KINDS}
    assert {name: audit["compatible"] for name, audit in audits.items()} == {name: name != "legacy" for name in KINDS}
    assert {line.split(": ")[1].split(" ")[0] for line in audits["legacy"]["issues"]} == {
        "datetime",
        "Enum",
        "deque",
        "dataclass",
    }
    agent = PPOAgent(state_dim=50)
    agent.save(tmp_path / "own.pt")
    assert audits["test"]["structure"] == audit_checkpoint(tmp_path / "own.pt")["structure"]
    assert audits["test"]["issues"] == audits["test"]["optimizer_issues"] == []
    assert PPOAgent.load(tmp_path / KINDS["test"].file_name).state_dim == 50
    blending, probationary = (torch.load(tmp_path / KINDS[name].file_name) for name in ("blending", "probationary"))
    assert blending["seed_states"]["mid"]["stage"] == SeedStage.BLENDING
    assert 0 < blending["seed_states"]["mid"]["alpha"] < 1
    assert any(".gate." in name for name in blending["model_state_dict"])
    assert probationary["seed_states"]["mid"]["alpha"] == 1


def test_the_page_in_docs_is_what_the_tool_gives() -> None:
    def body(page: str) -> list[str]:
        environment = tuple(f"- {name}: " for name in get_environment_info())
        return [line for line in page.splitlines() if not line.startswith(environment)]

    kept = (ROOT / "docs/checkpoint-audit-results.md").read_text()
    assert body(kept) == body(results_page()), "run: esper audit --write-docs docs/checkpoint-audit-results.md"
