"""The page of a forge run: its table from phase to phase, its phases, its pictures."""

import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from esper.errors import ForgeError
from esper.forge.continuity import ASPECTS
from esper.forge.log import ForgeLog
from esper.forge.phase import Gate, PhaseResult
from esper.forge.pictures import continuity_picture, curves_picture
from esper.forge.records import POLICY, PhaseRecord, phase_folder
from esper.forge.report import write_report
from esper.runner.directory import RunDirectory

MEASURED = {"bits_per_byte": 2.2, "top1": 52.0, "bytes": 3_360_000.0, "latency_ms": 1.5, "bits_per_byte/prose": 2.5}
WORSE = {"bits_per_byte": 2.3, "top1": 51.9, "bytes": 250_000.0, "latency_ms": 2.0}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    config = {"name": "forge_nano", "seed": 3}
    options = {"task": "installed", "host": "decoder", "policy": POLICY}
    (tmp_path / "run").mkdir()
    with RunDirectory.create(tmp_path / "run", config, [], options, max_epochs=2) as folder:
        folder.start()
    return tmp_path / "run"


def phase(run: Path, name: str, status: str = "finished", error: str | None = None, gates=(), **fields) -> None:
    folder = phase_folder(run, name)
    folder.mkdir()
    metrics = {f"{name}_figure": 0.125}
    result = PhaseResult(
        success=status == "finished", phase=name, error=error, metrics=metrics, artifacts={}, duration_s=75.0,
        gates=gates,
    )  # fmt: skip
    PhaseRecord(folder, name, status, "key", None, result, **fields).write()


def page(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


def table(text: str) -> list[list[str]]:
    """Cells of the first table; what is marked as worse has a "!" before it."""
    rows = re.findall(r"<tr>(.*?)</tr>", text[text.index("<table") : text.index("</table>")], re.DOTALL)
    cells = [re.findall(r"<t[hd]([^>]*)>(.*?)</t[hd]>", row) for row in rows]
    return [[("!" if " bad" in style else "") + re.sub("<[^>]+>", "", text) for style, text in row] for row in cells]


def test_the_table_has_each_phase_and_marks_what_got_worse(run):
    phase(run, "cognate", continuity=MEASURED)
    phase(run, "bitnet", "failed", "top1_ratio 0.9, at least 0.96 is asked", continuity=WORSE)
    text = page(run)
    head, first, second = table(text)
    assert head == ["phase", *(f"{a.title}" + (f", {a.unit}" if a.unit != "%" else "") for a in ASPECTS), ""]
    assert first == ["cognate", "2.200", "52.0%", "3,360,000", "1.50", ""]
    assert second == ["bitnet failed", "!2.300", "51.9%", "250,000", "2.00", ""]
    assert "top1_ratio 0.9, at least 0.96 is asked" in text and "1:15" in text and "cognate_figure" in text
    assert 'aria-label="What each phase' in text


def test_a_run_that_has_only_begun_has_a_page(run):
    folder = phase_folder(run, "cognate")
    folder.mkdir()
    PhaseRecord(folder, "cognate", "running", "key", None).write()
    text = page(run)
    assert len(table(text)) == 1 and "<svg" not in text and "cognate" in text


def test_a_folder_without_phases_has_none(run):
    with pytest.raises(ForgeError, match="no phase has begun"):
        write_report(run)


def test_what_phases_say_is_text_and_no_markup(run):
    phase(run, "cognate", "failed", "<b>7</b>", continuity=MEASURED, notes=("a <script>alert(1)</script> won",))
    text = page(run)
    assert "&lt;script&gt;alert(1)" in text and "<script>alert(1)" not in text and "<b>7" not in text


def test_a_figure_that_is_no_number_is_a_dash(run):
    phase(run, "cognate", continuity=MEASURED)
    phase(run, "bitnet", continuity=WORSE | {"bits_per_byte": math.nan, "latency_ms": None})
    assert table(page(run))[2] == ["bitnet", "-", "51.9%", "250,000", "-", ""]


def test_each_gate_stands_with_its_figure_and_what_was_asked(run):
    phase(run, "cognate", gates=(Gate("cognate_figure", "at_least", 0.5), Gate("unmeasured", "at_most", 1.0)))
    text = page(run)
    rows = [re.sub("<[^>]+>", " ", row).split() for row in re.findall(r"<tr>(.*?>at (?:least|most) .*?)</tr>", text)]
    assert rows == [
        ["cognate_figure", "0.125", "at", "least", "0.5"],
        ["unmeasured", "not", "measured", "at", "most", "1"],
    ]
    assert text.count('class="n bad"') == 2


def test_losses_are_drawn_and_only_of_their_phase(run):
    log = ForgeLog(run)
    for step in range(1, 40):
        log.write("cognate", step, trunk_loss=3 / step, prose_loss=2 / step, trunk_gradient_norm=1.0)
    log.hub.close("finished")
    phase(run, "cognate", continuity=MEASURED)
    phase(run, "bitnet", continuity=WORSE)
    text = page(run)
    assert "Training losses of cognate" in text and "Training losses of bitnet" not in text
    picture = text[text.index('<svg role="img" aria-label="Training losses') :]
    words = [word.text for word in ElementTree.fromstring(picture[: picture.index("</svg>") + 6]).iter() if word.text]
    assert {"trunk", "prose"} <= set(words) and not [word for word in words if "norm" in word]


def test_of_a_phase_that_was_run_anew_the_last_time_is_drawn():
    steps = [{"step": step, "bitnet/loss": 1.0} for step in (10, 20, 9000, 10, 20)]
    assert curves_picture("bitnet", steps) == curves_picture("bitnet", steps[-2:])
    assert curves_picture("bitnet", steps[:1]) == "" and curves_picture("cognate", steps) == ""


def test_one_phase_alone_is_no_picture_and_a_missing_figure_no_failure():
    assert continuity_picture([("cognate", MEASURED)]) == ""
    picture = continuity_picture([("cognate", MEASURED), ("bitnet", {"bytes": 5.0}), ("compression", {})])
    assert picture.count("<circle") == len(ASPECTS) + 1
