"""Damaged and hostile runs and bundles: told in a line, nothing run, nothing lost, nothing written elsewhere."""

import json
import shutil

import pytest

from esper.checkpoint.plain import fingerprint
from esper.errors import CheckpointError, ConfigError, EsperError, ForgeError
from esper.forge.bundles import load_language_model, save_language_model
from esper.forge.composing import compose, read_config
from esper.forge.compression.lineage import find_plain
from esper.forge.launch import resume, run_phase, start
from esper.forge.records import input_folder, read_phase
from esper.forge.report import write_report
from esper.study.compare.comparison import Comparison
from esper.study.compare.groups import read_groups
from esper.study.compare.page import write_comparison
from tests.forge.models import network, tokenizer

TINY = (
    "size=nano",
    "phases=[cognate]",
    "telemetry.console=off",
    "model.n_embd=16",
    "model.n_layer=1",
    "cognate.trunk_training.steps=2",
    "cognate.specialist_training.steps=1",
    "corpus.train_bytes=20000",
    "corpus.val_bytes=1000",
    "corpus.test_bytes=1000",
    "cognate.baseline_order=1",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of cognate alone, which is said to have passed: nothing that is so small passes a gate."""
    run = tmp_path_factory.mktemp("forge") / "run"
    run.mkdir()
    start(compose(TINY), run)
    alter(run / "1-cognate", lambda plain: plain.update(status="finished"))
    alter(run / "1-cognate", lambda plain: plain["result"].update(success=True, error=None))
    return run


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def alter(folder, change):
    path = folder / "phase.json"
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))
    return plain


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda phase: (phase / "phase.json").write_text("{"),
        lambda phase: (phase / "phase.json").unlink(),
        lambda phase: alter(phase, lambda plain: plain["result"]["metrics"].update(x=float("nan"))),
        lambda phase: alter(phase, lambda plain: plain.update(result={"success": "yes"})),
    ],
)
def test_what_lies_beside_a_damaged_record_is_kept_and_the_phase_run_anew(run, damage):
    phase = run / "1-cognate"
    damage(phase)
    before = (phase / "model.json").read_bytes()
    resume(run)
    assert (run / "1-cognate.1" / "model.json").read_bytes() == before
    assert read_phase(phase).result is not None


@pytest.mark.slow
def test_a_phase_that_ended_without_a_result_goes_on(run):
    alter(run / "1-cognate", lambda plain: plain.update(result=None))
    resume(run)
    assert read_phase(run / "1-cognate").result is not None
    assert not (run / "1-cognate.1").exists()


@pytest.mark.parametrize("is_dangling", [False, True])
def test_nothing_is_written_through_a_link_in_a_phases_place(run, tmp_path, is_dangling):
    elsewhere = tmp_path / "elsewhere"
    if not is_dangling:
        elsewhere.mkdir()
    shutil.rmtree(run / "1-cognate")
    (run / "1-cognate").symlink_to(elsewhere)
    resume(run)
    assert is_dangling or not list(elsewhere.iterdir())
    assert read_phase(run / "1-cognate").result is not None


@pytest.mark.parametrize("file", ["model.json", "prose.json"])
def test_a_model_that_was_finished_and_is_gone_is_told_with_what_mends_it(run, file):
    (run / "1-cognate" / file).unlink()
    with pytest.raises(ForgeError, match=r"is missing.*\n.*mv .*1-cognate"):
        resume(run)


def test_a_file_of_somebody_elses_in_a_phases_folder_changes_nothing(run):
    (run / "1-cognate" / "notes.json").write_text("[]")
    assert resume(run) == 0


def test_a_phase_that_cannot_run_is_not_moved_aside(run, tmp_path):
    tokenizer = tmp_path / "missing.json"
    with pytest.raises(EsperError):
        resume(run, [f"tokenizer={tokenizer}"])
    assert (run / "1-cognate").is_dir() and not (run / "1-cognate.1").exists()


@pytest.mark.parametrize("override", ["size=small", "name=other"])
def test_what_a_run_was_composed_from_is_not_changed(run, override):
    with pytest.raises(ConfigError, match="a run keeps its"):
        read_config(run / "config.yaml", [override])


@pytest.mark.parametrize(("value", "shown"), [(None, "-"), (0.03751, "0.03751"), (3.0, "3"), (42_334.0, "42.3k")])
def test_figures_are_reported_as_they_are(run, value, shown):
    alter(run / "1-cognate", lambda plain: plain["result"]["metrics"].update(figure=value))
    assert f'<td>figure</td><td class="n">{shown}</td>' in write_report(run).read_text()


def test_of_a_whole_run_a_phase_works_on_what_was_passed_before_it(run):
    shutil.copytree(run / "1-cognate", run / "4-bitnet")
    assert input_folder(run) == run / "4-bitnet"
    assert input_folder(run, before="bitnet") == run / "1-cognate"
    with pytest.raises(ForgeError):
        input_folder(run, before="cognate")


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "name",
    [
        "phase",
        "trunk",
        "checkpoints",
        "model",
        "grown",
        "a.json",
        "字" * 40,
        "e\x1b[31m",
        "new\nline",
        "b\udcff",
        "l" * 200,
    ],
)
def test_a_domain_that_would_take_a_files_place_is_refused(tmp_path, name):
    for each in (name, "plain"):
        (tmp_path / f"{each}.txt").write_text("".join(f"{each[0]} {n * n} {n % 7} words\n" for n in range(900)))
    paths = f"['{tmp_path}/{name}.txt','{tmp_path}/plain.txt']"
    with pytest.raises(ForgeError, match="cannot be called") as told:
        run_phase("cognate", None, tmp_path / "out", [*TINY[:1], *TINY[3:], "corpus=text", f"corpus.paths={paths}"])
    assert len(str(told.value).splitlines()) == 2


@pytest.mark.parametrize("parents", [[1], [{}], [{"path": 1, "sha256": "", "relation": ""}]])
def test_parents_of_another_shape_are_refused(tmp_path, parents):
    path = sign(tmp_path, parents)
    for read in (load_language_model, find_plain):
        with pytest.raises(CheckpointError, match="parents"):
            read(path)


@pytest.mark.parametrize("path", ["\0", "a" * 100_000, "/dev/zero"])
def test_parents_by_no_name_of_a_file_are_none(tmp_path, path):
    assert find_plain(sign(tmp_path, [{"path": path, "sha256": "", "relation": "trunk"}])) is None


@pytest.mark.parametrize("name", ["it's here", "x]y,z"])
def test_an_input_is_found_by_any_name(tmp_path, name):
    with pytest.raises(ForgeError, match="there is no model"):
        run_phase("bitnet", tmp_path / name, tmp_path / "out", TINY[:1])


@pytest.mark.slow
def test_an_output_that_is_a_file_is_told(run, tmp_path):
    with pytest.raises(EsperError, match="File exists"):
        run_phase("cognate", None, run / "config.yaml", [*TINY[:1], *TINY[3:]])


def test_runs_of_the_forge_are_compared(run, tmp_path):
    resume(run)
    other = shutil.copytree(run, tmp_path / "other")
    (other / "config.yaml").write_text((other / "config.yaml").read_text().replace("seed: 0", "seed: 1"))
    comparison = Comparison(read_groups([str(run), str(other)], tmp_path))
    assert [measure.name for measure in comparison.measures] == ["test_accuracy", "test_bits_per_byte"]
    assert write_comparison(comparison, tmp_path / "page.html").exists()


def sign(folder, parents):
    """A bundle whose card says this of its parents, with a checksum that holds."""
    save_language_model(folder / "model", network(), tokenizer(), phase="cognate", seed=0, data_fingerprint="")
    path = folder / "model.json"
    card = json.loads(path.read_text())
    card.pop("self_sha256")
    card["metadata"] |= {"parents": parents, "quantizer": {}}
    path.write_text(json.dumps(card | {"self_sha256": fingerprint(card)}))
    return folder
