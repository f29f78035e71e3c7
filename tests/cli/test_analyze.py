"""`esper analyze`: what is printed, written and drawn, and the exit codes that a CI goes by."""

import csv
import io
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from esper.cli import main
from esper.config.suite import suites
from esper.printing.tables import Console
from esper.study.analyze.analysis import summarize
from esper.study.analyze.terminal import print_result
from esper.study.evaluate.database import Evaluations, Measured
from esper.study.evaluate.measures import MEASURES
from tests.study.filling import failed, fill, finished, sha

NAMES = ("planted", "fossilized", "culled")


def measured(seed, accuracy):
    numbers = {"test_accuracy": accuracy, "val_accuracy": accuracy + 1, "parameters": 2549.0, "training_flops": 1.14e10}
    return Measured(seed, {name: [value] for name, value in {**numbers, **dict.fromkeys(NAMES, 3.0)}.items()}, 1.5)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "evaluations.sqlite"
    fill(path, [measured(seed, 87.0 + seed / 10) for seed in range(20)], sha("a"), "heuristic", run="outputs/a/one")
    fill(path, [measured(seed, 80.0) for seed in range(20)], sha("b"), "static", run="outputs/a/two")
    return path


def analyze(path, *arguments):
    return main(["analyze", *map(str, arguments), "--db", str(path)])


def test_the_table_says_what_is_known(path, capsys):
    assert analyze(path) == 0
    out = capsys.readouterr().out
    assert "88.0 [87.7, 88.2]" in out and "-8.0 [-8.2, -7.7]" in out and "yes" in out
    assert "11.40" in out and "2,549" in out
    assert f"{sha('a')[:8]}  outputs/a/one@epoch-25" in out
    assert "95% intervals (Student's t)" in out


def test_the_table_fits_a_terminal(path):
    with Evaluations(path) as database:
        (result,) = summarize(database, [], None)
    for width in (80, 100, 160):
        out = io.StringIO()
        print_result(result, [], Console(file=out, width=width, force_terminal=True, color_system=None))
        lines = out.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        assert "…" not in out.getvalue()
        assert any("88.0 [87.7, 88.2]" in line for line in lines)
        assert ("validation" in out.getvalue()) == (width == 160)


def test_every_metric_that_is_asked_for_is_shown_whole(path):
    with Evaluations(path) as database:
        (result,) = summarize(database, [], None)
    out = io.StringIO()
    names = ["test_accuracy", "val_accuracy", "training_flops", "parameters"]
    print_result(result, names, Console(file=out, width=70, force_terminal=True, color_system=None))
    assert max(map(len, out.getvalue().splitlines())) <= 70 and "…" not in out.getvalue()
    for cell in ("88.0 [87.7, 88.2]", "89.0 [88.7, 89.2]", "11.40 [11.40, 11.40]", "2549 [2549, 2549]"):
        assert cell in out.getvalue()


@pytest.mark.parametrize("title", ["heuristic", "ppo, learning_rate 0.0003, members 16"])
@pytest.mark.parametrize("width", [30, 60, 80, 120, 160])
def test_words_are_wrapped_and_no_figure_is_cut(tmp_path, width, title):
    path = tmp_path / "evaluations.sqlite"
    for name in "ab":
        fill(path, [measured(seed, 87.0 + seed / 10) for seed in range(20)], sha(name), title, run=f"outputs/a/{name}")
    with Evaluations(path) as database:
        (result,) = summarize(database, [], None)
    for metrics in ([], ["test_accuracy", "training_flops"]):
        out = io.StringIO()
        print_result(result, metrics, Console(file=out, width=width, force_terminal=True, color_system=None))
        text = out.getvalue()
        assert "…" not in text and "\\" not in text
        for whole in (sha("a")[:8], sha("b")[:8], "88.0 [87.7, 88.2]", "0.0 [0.0, 0.0]"):
            assert whole in text
        longest = max(map(len, text.splitlines()))
        assert longest <= max(width, 62)


def test_training_runs_of_one_policy_are_one_line_and_each_is_named_below(path, capsys):
    for seed in range(3):
        values = [measured(held_out, 84.5 + 2 * seed + held_out / 10) for held_out in range(20)]
        config = {"task": {"name": "digits"}, "seed": seed}
        fill(path, values, sha(f"ppo{seed}"), "ppo", config, run=f"outputs/p/{seed}")
    assert analyze(path) == 0
    out = capsys.readouterr().out
    assert re.search(r"3 versions +ppo +3 +20 +87\.\d \[85\.\d, 89\.\d\] +87\.\d \[85\.\d, 89\.\d\]", out)
    assert re.search(r"ppo +20 +-0\.5 \[-2\.\d, \+1\.\d\] +no +0\.33 \[0\.00, 1\.00\]", out)
    assert f"{sha('ppo0')[:8]}  85.5%  outputs/p/0@epoch-25\n" in out and f"{sha('ppo2')[:8]}  89.5%  " in out
    assert "several training runs" in out and "\\n" not in out
    assert analyze(path, "--format", "json") == 0
    (suite,) = json.loads(capsys.readouterr().out)["suites"]
    policy = next(row for row in suite["policies"] if row["title"] == "ppo")
    figures = policy["metrics"]["test_accuracy"]
    assert policy["versions"] == [sha(f"ppo{seed}") for seed in range(3)] and len(suite["versions"]) == 5
    assert (figures["runs"], figures["seeds"], figures["n"]) == (3, 20, 3)
    assert figures["iqm"]["low"] < figures["iqm"]["mean"] < figures["iqm"]["high"]
    assert analyze(path, "--format", "csv", "--metric", "test_accuracy") == 0
    (row,) = [row for row in csv.DictReader(io.StringIO(capsys.readouterr().out)) if row["policy"] == "ppo"]
    assert (row["runs"], row["n"], float(row["iqm_mean"])) == ("3", "20", pytest.approx(figures["iqm"]["mean"]))
    assert analyze(path, "--format", "md", "--require", "test_accuracy>0.865") == 1  # one of the runs is below
    assert f"not met: test_accuracy > 86.5: 85.45 over 20 seeds ({sha('ppo0')[:8]}, ppo" in capsys.readouterr().out


def test_failures_are_shown_with_their_reason(path, capsys):
    fill(path, [failed(50), failed(51), failed(52, "another one")], sha("b"), "static")
    assert analyze(path) == 0
    out = capsys.readouterr().out
    assert "20 (3 failed)" in out
    assert "failed: no memory (seed 50 and 1 more)" in out and "failed: another one (seed 52)" in out


def test_csv_is_a_line_for_each_figure(path, capsys):
    assert analyze(path, "--format", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 2 * 8
    static = next(row for row in rows if row["policy"] == "static" and row["metric"] == "test_accuracy")
    assert (float(static["mean"]), static["n"], static["pairs"], static["checkpoint"]) == (
        80.0,
        "20",
        "20",
        "outputs/a/two@epoch-25",
    )
    assert float(static["difference_low"]) < float(static["difference_mean"]) == pytest.approx(-7.95)
    assert static["reference"] == sha("a")


def test_json_holds_everything_and_nothing_else(path, capsys):
    fill(path, [failed(50)], sha("b"), "static")
    assert analyze(path, "--format", "json", "--require", "test_accuracy>0.7") == 1
    printed = capsys.readouterr()
    (suite,) = json.loads(printed.out)["suites"]
    assert (suite["suite"], suite["reference"]) == ("default", sha("a"))
    first, second = suite["versions"]
    assert first["metrics"]["test_accuracy"]["seeds"]["3"] == pytest.approx(87.3)
    assert first["metrics"]["test_accuracy"]["difference"] is None
    assert second["metrics"]["test_accuracy"]["difference"]["n"] == 20
    assert second["failed"] == {"50": "no memory"}
    assert "1 of 21 seeds failed" in printed.err


def test_markdown_is_a_page(path, capsys):
    assert analyze(path, "--format", "md", "--metric", "parameters") == 0
    out = capsys.readouterr().out
    assert out.startswith("## Suite default\n\n| version | policy | runs | seeds | parameters |\n|---|")
    assert "| heuristic | 1 | 20 | 2549 [2549, 2549] |" in out


def test_the_verdict_is_part_of_the_page_and_apart_from_what_programs_read(path, capsys):
    assert analyze(path, "--format", "md", "--require", "test_accuracy>0.85") == 1
    printed = capsys.readouterr()
    assert "\n- met: test_accuracy > 85" in printed.out and "\n- not met: test_accuracy > 85" in printed.out
    assert printed.err == ""
    assert analyze(path, "--format", "csv", "--require", "test_accuracy>0.85") == 1
    printed = capsys.readouterr()
    assert "met:" not in printed.out and "not met: test_accuracy > 85" in printed.err


@pytest.mark.slow
def test_a_picture_is_drawn_in_the_format_that_its_name_asks_for(path, tmp_path, capsys):
    fill(path, [finished(1, 50.0)], sha("b"), "static", suite="long")
    for name, begins in (("a.png", b"\x89PNG"), ("new/a.svg", b"<?xml"), ("a.pdf", b"%PDF")):
        assert analyze(path, "--plot", tmp_path / name) == 0
        assert (tmp_path / name).read_bytes().startswith(begins)
        assert f"wrote {tmp_path / name}\n" in capsys.readouterr().out
    width, height = struct.unpack(">II", (tmp_path / "a.png").read_bytes()[16:24])
    assert width == 1680 and height > 400
    drawing = (tmp_path / "new/a.svg").read_text()
    for text in (
        "suite default",
        "suite long",
        "test accuracy, %",
        "heuristic",
        "less heuristic, points",
        "88.0",
        "\N{MINUS SIGN}8.0",
    ):
        assert f">{text}<" in drawing, text
    assert analyze(path, "--plot", tmp_path / "b.svg") == 0
    assert (tmp_path / "b.svg").read_text() == analyze_again(path, tmp_path)


def test_no_text_of_a_picture_leaves_it(tmp_path, capsys):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path, name = tmp_path / "evaluations.sqlite", "2026-11-30_13-00-59_fc1e8fee"
    for version in "ab":
        run = f"outputs/a/{name}_{version}"
        fill(path, [measured(seed, 80.0) for seed in range(3)], sha(version), "heuristic", run=run)
    drawn = []
    savefig = Figure.savefig

    def look(figure, *arguments, **options):
        savefig(figure, *arguments, **options)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        axes = [part for parts in figure.subfigs for part in parts.axes]
        texts = [text for part in axes for text in (part._left_title, *part.get_yticklabels()) if text.get_text()]
        drawn.append([text.get_window_extent(renderer) for text in texts] + [figure.bbox])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", look)
        assert analyze(path, "--plot", tmp_path / "a.png") == 0
    ((*texts, whole),) = drawn
    assert len(texts) >= 4
    assert all(whole.x0 <= text.x0 and text.x1 <= whole.x1 and text.y1 <= whole.y1 for text in texts)


def analyze_again(path, folder):
    assert analyze(path, "--plot", folder / "c.svg") == 0
    return (folder / "c.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "wanted"),
    [
        (("--require", "test_accuracy>0.7"), 0, "met: test_accuracy > 70"),
        (("--require", "test_accuracy>0.85"), 1, "not met: test_accuracy > 85: 80 over 20 seeds"),
        (("one", "--require", "test_accuracy>0.85", "--require", "parameters<3000"), 0, "met: parameters < 3000"),
        (("--suite", "long", "--require", "test_accuracy>0"), 1, "nothing was evaluated"),
        (("--require", "test_bits_per_byte<9"), 1, "it was not measured"),
    ],
)
def test_the_exit_code_says_whether_it_is_met(path, arguments, code, wanted, capsys):
    assert analyze(path, *arguments) == code
    assert wanted in capsys.readouterr().out


@pytest.mark.parametrize("format", ["table", "md", "csv", "json"])
def test_where_nothing_was_evaluated_the_command_that_does_it_is_named(path, capsys, format):
    assert analyze(path, sha("a")[:8], "--suite", "long", "--format", format) == 0
    printed = capsys.readouterr()
    said = f"nothing of {sha('a')[:8]} was evaluated under the suite long; to do so: "
    said += f"esper evaluate outputs/a/one@epoch-25 --suite long --db {path}\n"
    assert (printed.out if format == "table" else printed.err).endswith(said)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("--require", "test_acuracy>0.7"), "did you mean test_accuracy?"),
        (("--metric", "acuracy"), "there is no such metric"),
        (("--suite", "logn"), "did you mean long?"),
        (("three",), "nothing of that name was evaluated"),
        (("--plot", "a.gif"), "expected a name that ends in .svg, .png, .pdf"),
        (("--plot", "/dev/null/a.svg"), "Cannot write /dev/null/a.svg"),
        (("--suite", "long", "--plot", "a.svg"), "nothing was evaluated that could be drawn"),
    ],
)
def test_bad_input_is_answered_in_short(path, arguments, wanted, capsys):
    assert analyze(path, *arguments) == 2
    said = capsys.readouterr().err
    assert wanted in said and len(said.splitlines()) <= 2


def test_a_database_that_is_not_there_is_not_made(tmp_path, capsys):
    assert analyze(tmp_path / "none.sqlite") == 2
    assert "there is no such database" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_looking_at_results_does_not_load_torch(path):
    program = f"""
import sys
from esper.cli import main
assert main(["analyze", "--db", {str(path)!r}, "--require", "test_accuracy>0.7"]) == 0
sys.exit(99 if {{"torch", "hydra", "matplotlib"}} & set(sys.modules) else 0)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(root)}, timeout=30)
    assert done.returncode == 0


def test_the_page_names_every_metric_and_every_suite():
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    rows = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert {*MEASURES, *suites()} <= rows
