import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from esper.errors import RunError
from esper.nissa import write_report
from esper.nissa.palette import STAGE_LOOKS, THEME
from esper.nissa.report.history import read_run
from esper.nissa.report.seed_figures import contribution
from esper.nissa.report.timeline import segments
from esper.nissa.report.writer import final_scores

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Checks that tags nest, and collects what a reader would see."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.source = path.read_text()
        self.feed(self.source)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def full_page(tmp_path_factory: pytest.TempPathFactory, write_a_run: Callable[..., Path]) -> Page:
    return Page(write_report(write_a_run(tmp_path_factory.mktemp("full") / "run")))


def test_the_page_is_one_offline_file(full_page: Page) -> None:
    assert full_page.links == [] and not re.search(r"@import|@font-face|url\(", full_page.source), "nothing is fetched"
    assert "script" not in full_page.tags
    assert len(full_page.source) < 1_500_000


def test_the_page_shows_what_a_run_is_judged_by(full_page: Page) -> None:
    text = full_page.text
    for heading in (
        "Accuracy",
        "Lives of the seeds",
        "What each seed was worth",
        "Size",
        "Planted, culled, fossilised, and why",
        "Gate decisions",
        "Worth a look",
        "Speed",
        "resolved config",
    ):
        assert heading in text
    for fact in ("policy heuristic", "host cnn", "8 + 8 static twins", "2 min 31 s", "patience_epochs: 3", "2.13.0"):
        assert fact in text
    for curve in ("validation accuracy, %", "grown minus twin", "FLOPs a sample", "alpha", "contribution, points"):
        assert curve in text
    assert full_page.tags.count("svg") == 10


def test_headline_numbers_are_those_of_the_summary(
    full_page: Page, write_a_run: Callable[..., Path], tmp_path: Path
) -> None:
    history = read_run(write_a_run(tmp_path / "run"))
    scores = final_scores(history)
    assert scores is not None and scores.what == "test accuracy" and scores.difference is not None
    test = history.run["summary"]["grown"]["test_accuracy"]
    assert scores.grown_mean.mean == pytest.approx(sum(test) / 8)
    assert f"{scores.grown_mean.mean:.1f}" in full_page.text
    assert f"95%: {scores.difference.low:+.1f} to {scores.difference.high:+.1f} (n = 8)" in full_page.text


def test_a_language_run_shows_bits_per_byte(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(members=3)
    run = json.loads((run_dir / "run.json").read_text())
    assert "bits per byte" not in Page(write_report(run_dir)).text
    run["summary"]["grown"]["test_bits_per_byte"] = [2.0, 2.1, 2.2]
    run["summary"]["twin"]["test_bits_per_byte"] = [2.5, 2.6, 2.7]
    (run_dir / "run.json").write_text(json.dumps(run))
    text = Page(write_report(run_dir)).text
    assert "grown: test bits per byte" in text and "2.100" in text
    assert "static twins 2.600" in text and "difference \N{MINUS SIGN}0.500" in text


def test_a_regression_is_shown_as_one(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(members=3)
    for name in ("run.json", "metrics.jsonl"):
        (run_dir / name).write_text((run_dir / name).read_text().replace("_accuracy", "_r2"))
    run = json.loads((run_dir / "run.json").read_text())
    run["summary"]["grown"]["test_rmse"] = [2.0, 2.1, 2.2]
    (run_dir / "run.json").write_text(json.dumps(run))
    text = Page(write_report(run_dir)).text
    scores = final_scores(read_run(run_dir))
    assert scores is not None and scores.what == "test R-squared" and scores.within == (-100.0, 100.0)
    assert "grown: test RMSE" in text and "2.100" in text and "validation R-squared, %" in text
    assert "test accuracy" not in text and "validation accuracy, %" not in text


def test_a_run_that_planted_nothing_says_so_and_why(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(members=2, epochs=3, events=False, rollback=None)
    settings = "first_plant_epoch: 2\n  min_training_epochs: 3\n  blending_epochs: 3\n  probation_epochs: 2"
    config = (run_dir / "config.yaml").read_text().replace("patience_epochs: 3", settings)
    (run_dir / "config.yaml").write_text(config)
    assert "a seed takes 8 epochs to earn its place" in Page(write_report(run_dir)).text


def test_a_host_of_ones_own_is_named_by_what_builds_it(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(members=1, rollback=None)
    config = (run_dir / "config.yaml").read_text().replace("name: cnn", "name: custom\n  factory: nets:wide")
    (run_dir / "config.yaml").write_text(config)
    assert "host custom (nets:wide)" in Page(write_report(run_dir)).text


def test_every_stage_of_a_life_is_a_bar(full_page: Page, write_a_run: Callable[..., Path], tmp_path: Path) -> None:
    titles = re.findall(r'class="bar"[^>]*title="([^,"]+), epoch', full_page.source)
    assert {look.label for look in STAGE_LOOKS.values()} - {"dormant"} == set(titles)
    lefts = [float(x) for x in re.findall(r'class="bar" style="left:([\d.]+)%', full_page.source)]
    assert min(lefts) >= 0 and max(lefts) < 100
    assert "rolled back at epoch 9: training loss is not finite" in full_page.source


def test_one_seed_that_is_left_is_no_mean_of_its_blueprint(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(members=12, rollback=None)
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for record in records[13:]:
        for member in record["members"][1:]:
            for slot in member["slots"].values():
                slot["contribution"] = None
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    history = read_run(run_dir)
    places = {(member, slot): segments(history, member, slot) for member in history.grown for slot in history.slots}
    picture = contribution(history, places)

    def last(width: str) -> float:
        paths = re.findall(rf'<path d="([^"]+)"[^>]*stroke-width="{width}"', picture)
        return max(float(x) for path in paths for x in re.findall(r"[ML]([\d.]+) ", path))

    assert last("2.2") < last("0.7")


def test_both_themes_colour_page_and_pictures(full_page: Page) -> None:
    assert "prefers-color-scheme: dark" in full_page.source
    pictures = "".join(re.findall(r"<svg.*?</svg>", full_page.source, flags=re.S))
    assert "var(--grown)" in pictures and "var(--ink)" in pictures
    assert not any(light in pictures for light, _ in THEME.values()), "no colour of the light theme is left fixed"


@pytest.mark.parametrize(
    "options",
    [
        {"members": 1, "rollback": None},
        {"twins": False, "members": 3},
        {"members": 32, "epochs": 6},
        {"members": 2, "epochs": 1, "rollback": None},
        {"members": 1, "epochs": 200},
        {"members": 2, "events": False},
        {"members": 2, "slots": ("a", "b", "c", "d")},
    ],
    ids=["one member", "no twins", "many members", "one epoch", "long", "no events", "four slots"],
)
def test_other_shapes_of_runs(make_run: Callable[..., Path], options: dict[str, object]) -> None:
    page = Page(write_report(make_run(**options)))
    assert "svg" in page.tags and "nan" not in page.text.lower().split()
    if options.get("twins") is False:
        assert "paired difference" not in page.text
    if options["members"] == 1:
        assert "n = 1, no interval" in page.text


def test_a_failed_run_shows_how_far_it_came(make_run: Callable[..., Path]) -> None:
    page = Page(write_report(make_run(status="failed", last_epoch=9, members=3)))
    assert "No space left on device" in page.text
    assert "validation accuracy, epoch 9" in page.text and "9 of 25" in page.text


@pytest.mark.parametrize("last_epoch", [0, None], ids=["untrained", "nothing recorded"])
def test_a_run_that_has_hardly_begun(make_run: Callable[..., Path], last_epoch: int | None) -> None:
    run_dir = make_run(status="running", members=2, last_epoch=0)
    if last_epoch is None:
        (run_dir / "metrics.jsonl").unlink()
        (run_dir / "events.jsonl").unlink()
        (run_dir / "config.yaml").unlink()
    page = Page(write_report(run_dir))
    assert "nothing to draw" in page.text and "svg" not in page.tags


def test_names_cannot_inject_markup(make_run: Callable[..., Path]) -> None:
    evil = "<script>alert(1)</script>"
    run_dir = make_run(
        members=1, epochs=14, name=f"{evil} $x^2$", slots=(evil, "b&b"), slot_extra={"blueprint": f'"{evil}'}
    )
    config = run_dir / "config.yaml"
    config.write_text(config.read_text() + f"\nnote: '</pre>{evil}'\n")
    events = run_dir / "events.jsonl"
    events.write_text(events.read_text().replace("G1 passed", f"'{evil}"))
    page = Page(write_report(run_dir))
    assert "script" not in page.tags
    assert "alert(1)" in page.text and "$x^2$" in page.text


def test_the_report_can_be_written_again(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(members=1, epochs=3, rollback=None)
    first = write_report(run_dir).read_text()
    assert write_report(run_dir).read_text() == first, "same files, same page"
    assert [path.name for path in run_dir.glob("*report*")] == ["report.html"]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run directory"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_heavy_comes_late_or_never(make_run: Callable[..., Path]) -> None:
    code = f"""
import sys
import esper.nissa
heavy = [name for name in ("torch", "matplotlib", "rich", "scipy", "numpy", "jinja2") if name in sys.modules]
assert not heavy, heavy
esper.nissa.write_report({str(make_run(members=1, epochs=3, rollback=None))!r})
assert "matplotlib" not in sys.modules and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


class Texts(HTMLParser):
    """Where each text of each picture lies: (left, top, right, bottom, text), as wide as in a wide font."""

    def __init__(self, svg: str) -> None:
        super().__init__()
        self.corner, self.look, self.boxes = (0.0, 0.0), {}, list[tuple[float, float, float, float, str]]()
        self.feed(svg)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        look = {name: value or "" for name, value in attrs}
        if tag == "svg":
            _, _, self.width, self.height = map(float, look["viewbox"].split())
        if "transform" in look:
            x, y = look["transform"].removeprefix("translate(").removesuffix(")").split()
            self.corner = float(x), float(y)
        self.look = look if tag == "text" else {}

    def handle_endtag(self, tag: str) -> None:
        self.look = {}

    def handle_data(self, data: str) -> None:
        if not self.look:
            return
        width = _width(data, int(self.look["font-weight"]))
        x = (
            self.corner[0]
            + float(self.look["x"])
            - width * {"start": 0, "middle": 0.5, "end": 1}[self.look["text-anchor"]]
        )
        y = self.corner[1] + float(self.look["y"])
        self.boxes.append((x, y - 8.5, x + width, y + 2.5, data))


@pytest.mark.parametrize(
    "options",
    [
        {"members": 3},
        {"members": 1, "twins": False, "rollback": None},
        {"members": 64, "epochs": 4},
        {"members": 2, "epochs": 1, "rollback": None},
        {"members": 2, "epochs": 1_234_567, "last_epoch": 6, "status": "interrupted"},
        {"members": 2, "slots": ("a_slot_whose_name_is_longer_than_a_plot_is_wide_" * 2, "W" * 99, "<&>" * 20, "d")},
    ],
    ids=["few", "one", "many", "one epoch", "long", "long names"],
)
def test_no_text_is_cut_off_or_covers_another(make_run: Callable[..., Path], options: dict[str, Any]) -> None:
    run_dir = make_run(**options)
    _make_wide(run_dir)
    svgs = re.findall(r"<svg.*?</svg>", write_report(run_dir).read_text(), flags=re.S)
    assert len(svgs) >= 9
    for svg in svgs:
        texts = Texts(svg)
        assert texts.boxes
        for left, top, right, bottom, text in texts.boxes:
            assert left >= 0 and right <= texts.width and top >= 0 and bottom <= texts.height, text
            assert not re.search(r"\d…|^…", text), "a name may be cut short, a number never"
        for one, other in itertools.combinations(texts.boxes, 2):
            apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            assert apart, (one[4], other[4])


@cache
def _width(text: str, weight: int) -> float:
    return TextPath((0, 0), text, size=11, prop=FontProperties(family="DejaVu Sans", weight=weight)).get_extents().x1


def _make_wide(run_dir: Path) -> None:
    """Great numbers, long names and updates of a policy, in a run directory that has none."""
    names = ["plant_" * 20, "W" * 60, "conv"]
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        record |= {"samples_per_s": record["samples_per_s"] and 1e9 * record["samples_per_s"]}
        for row in record["members"]:
            row |= {"parameter_count": 1_234_567 + row["parameter_count"], "flops_per_sample": 123_456_789_012}
            row["action"] = {"operation": "GERMINATE", "blueprint": names[(record["epoch"] + row["member"]) % 3]}
            for slot in row["slots"].values():
                slot["contribution"] = slot["contribution"] and -1_234_567 * slot["contribution"]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    updates = [
        {
            "update": 1_234_567 + update,
            "return_mean": 1_234_567 + update,
            "return_std": 1.0,
            "episodes_finished": 4,
            "validation_return": 1_234_567.0,
            "entropy": -1_234_567.8 + update / 100,
            "approx_kl": 0.0,
            "value_loss": 1_234_567.0 * 10**update,
            "explained_variance": -12_345.6 * update,
            "policy_loss": -1e-9 * update,
            "learning_rate": 1.23456e-5 * (1 - update / 9),
        }
        for update in range(6)
    ]
    (run_dir / "learning.jsonl").write_text("".join(json.dumps(update) + "\n" for update in updates))
