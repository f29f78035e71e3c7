"""An evaluation measures what an ordinary run on that seed would have measured, once, and what fails is a row."""

import json
import shutil

import pytest

from esper.cli import main as esper
from esper.run import main as run
from esper.study.evaluate.database import Evaluations
from tests.own_data import csv_file

pytestmark = pytest.mark.slow  # it grows hosts throughout

EXACT = ["engine.precision=float64", "engine.kind=fused", "engine.threads=1", "telemetry=none"]
GROWING = ["policy=random", "policy.act_probability=1.0", "gates=permissive", "engine.members=2", "epochs=3", *EXACT]
TEXT = ["experiment=language", "epochs=2", "engine.members=1", "task.epoch_windows=32", "task.train_bytes=8000"]
TEXT += ["task.val_bytes=2000", "task.test_bytes=2000", "host.n_layer=3", "host.n_embd=16"]


def start(path, *overrides):
    assert run([*overrides, f"hydra.run.dir={path}"]) == 0
    return path


def summary(path):
    return json.loads((path / "run.json").read_text())["summary"]


@pytest.fixture(scope="session")
def grown(tmp_path_factory):
    return start(tmp_path_factory.mktemp("grown") / "run", *GROWING)


@pytest.fixture(scope="session")
def learned(tmp_path_factory):
    small = ["policy=ppo", "policy.updates=2", "policy.members=2", "engine.members=2", "epochs=3"]
    small += ["policy.learning_rate=0.3", "policy.final_learning_rate=0.3", "policy.target_kl=null"]
    return start(
        tmp_path_factory.mktemp("learned") / "run",
        *small,
        *EXACT,
        "checkpoint.every_epochs=1",
        "checkpoint.keep_last=9",
    )


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    return start(tmp_path_factory.mktemp("text") / "run", *TEXT, *EXACT)


@pytest.fixture
def database(tmp_path):
    return tmp_path / "evaluations.sqlite"


def own_suite(folder, **values):
    """A suite of one's own, "mine"."""
    growth = {"kind": "growth", "first_seed": 9101, "seeds": 2, "members": 2, "overrides": []}
    still = {"rotation_degrees": 0.0, "scale_range": [1.0, 1.0], "shift_pixels": 0.0, "noise_std": 0.0}
    hosts = {"kind": "hosts", "first_seed": 9101, "seeds": 2, "replaced_share": 0.0} | still
    path = folder / "mine.yaml"
    path.write_text(json.dumps((hosts if values.get("kind") == "hosts" else growth) | values))
    return str(path)


def evaluate(database, *arguments):
    return esper(["evaluate", *map(str, arguments), "--db", str(database)])


def samples(database, version=1):
    """(seed, metric) -> values by member."""
    with Evaluations(database, is_new=False) as opened:
        found = opened._base.execute(
            "SELECT seed, metric, value FROM samples JOIN evaluations ON id = evaluation WHERE version = ?"
            " ORDER BY seed, metric, member",
            (version,),
        )
        values: dict = {}
        for seed, metric, value in found:
            values.setdefault((seed, metric), []).append(value)
    return values


def rows(database):
    with Evaluations(database, is_new=False) as opened:
        versions, suites = opened.versions(), opened.suites()
        return opened.evaluations([one["id"] for one in versions], [one["id"] for one in suites])


@pytest.mark.parametrize("kind", ["a rule", "a policy"])
def test_every_seed_is_an_ordinary_run_on_it(kind, grown, learned, database, tmp_path):
    stored, acting = grown, GROWING
    if kind == "a policy":
        stored = learned
        acting = ["policy=ppo", f"policy.load={learned}", "policy.updates=0", "engine.members=2", "epochs=3", *EXACT]
    assert evaluate(database, stored, "--seeds", 3) == 0
    found = samples(database)
    for seed in (9101, 9103):
        expected = summary(start(tmp_path / f"{seed}", *acting, f"seed={seed}", "controls=[]"))
        for metric in ("test_accuracy", "val_accuracy", "parameters"):
            assert found[seed, metric] == pytest.approx(expected["grown"][metric], rel=1e-9), metric
        for what, count in expected["seeds"].items():
            assert sum(found[seed, what]) == count
    assert sum(found[9101, "planted"]) > 0
    assert found[9101, "training_flops"] != found[9102, "training_flops"]


def test_training_flops_are_those_of_the_record(grown, database, tmp_path):
    assert evaluate(database, grown, "--seeds", 1) == 0
    path = start(tmp_path / "run", *GROWING, "seed=9101", "controls=[]", "telemetry=local", "telemetry.report=false")
    epochs = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()][1:]
    spent = [3 * 1088 * sum(epoch["members"][member]["flops_per_sample"] for epoch in epochs) for member in (0, 1)]
    assert samples(database)[9101, "training_flops"] == spent


def test_again_does_only_what_is_missing(grown, database, capsys):
    assert evaluate(database, grown, "--seeds", 2) == 0
    first = rows(database)
    assert evaluate(database, f"{grown}@latest", "--seeds", 3) == 0
    assert "1 of 3 to do" in capsys.readouterr().out
    assert rows(database)[:2] == first and len(rows(database)) == 3
    assert evaluate(database, grown, "--seeds", 3) == 0
    assert "0 of 3 to do" in capsys.readouterr().out


def test_a_moved_or_copied_run_is_the_same_version(grown, database, tmp_path):
    assert evaluate(database, grown, "--seeds", 1) == 0
    shutil.copytree(grown, tmp_path / "copy")
    assert evaluate(database, tmp_path / "copy", "--seeds", 1) == 0
    assert len(rows(database)) == 1


def test_a_rule_is_measured_once_whatever_seed_its_runs_had(grown, database, tmp_path, capsys):
    other = start(tmp_path / "other", *GROWING, "seed=7", "reward=sparse")
    shorter = start(tmp_path / "shorter", *GROWING, "epochs=2")
    hosts = shutil.move(own_suite(tmp_path, kind="hosts", seeds=1), tmp_path / "hosts.yaml")
    suite = own_suite(tmp_path, seeds=1)
    capsys.readouterr()

    def versions():
        with Evaluations(database, is_new=False) as opened:
            of_suite = opened.evaluations([version["id"] for version in opened.versions()], [1])
            return [len(version["sources"]) for version in opened.versions()], [row["version"] for row in of_suite]

    assert evaluate(database, grown, other, shorter, "--suite", suite) == 0
    said = capsys.readouterr().out
    assert f"{other}@epoch-3: the same rule, whatever seed its run had: measured once, with {grown}" in said
    assert said.count("1 of 1 to do") == 2
    assert versions() == ([2, 1], [1, 2])
    assert evaluate(database, other, "--suite", suite) == 0
    assert "0 of 1 to do" in capsys.readouterr().out and versions() == ([2, 1], [1, 2])
    assert esper(["analyze", str(other), "--db", str(database), "--format", "csv"]) == 0
    assert {line.split(",")[0] for line in capsys.readouterr().out.splitlines()[1:]} == {"mine"}
    assert evaluate(database, grown, other, "--suite", hosts) == 0  # of stored hosts, each run has its own
    assert versions()[0] == [2, 1, 1]


def test_what_cannot_grow_is_a_row_with_its_error_and_can_be_tried_again(grown, database, tmp_path, capsys):
    suite = own_suite(tmp_path, overrides=["slots.names=[nowhere]"])
    assert evaluate(database, grown, "--suite", suite) == 1
    assert [row["status"] for row in rows(database)] == ["failed", "failed"]
    assert all("nowhere" in row["error"] and row["metrics"] == {} for row in rows(database))
    assert "2 failed; to try them again: --retry-failed" in capsys.readouterr().err
    assert evaluate(database, grown, "--suite", suite) == 1
    assert "0 of 2 to do" in capsys.readouterr().out
    assert evaluate(database, grown, "--suite", suite, "--retry-failed") == 1
    assert "2 of 2 to do" in capsys.readouterr().out


def test_one_seed_that_fails_costs_no_other(grown, database, tmp_path, monkeypatch):
    from esper.study.evaluate import evaluating as module

    def fails_at(stored, configs):
        if any(config.seed == 9102 for config in configs):
            raise RuntimeError("no memory")
        return grow(stored, configs)

    grow = module.grow
    monkeypatch.setattr(module, "grow", fails_at)
    assert evaluate(database, grown, "--seeds", 2) == 1
    assert [(row["seed"], row["error"]) for row in rows(database)] == [
        (9101, None),
        (9102, "RuntimeError: no memory"),
    ]
    monkeypatch.undo()
    assert evaluate(database, grown, "--seeds", 2, "--retry-failed") == 0
    assert {row["status"] for row in rows(database)} == {"finished"}


def test_a_suite_changes_the_run_s_configuration(grown, database, tmp_path):
    suite = own_suite(tmp_path, seeds=1, members=1, overrides=["epochs=1", "host.channels=[2,4,4]"])
    assert evaluate(database, grown, "--suite", suite) == 0
    (one,) = samples(database)[9101, "parameters"]
    assert one < 1000


def test_stored_hosts_are_tested_as_they_are(grown, database, tmp_path):
    assert evaluate(database, grown, "--suite", own_suite(tmp_path, kind="hosts")) == 0
    found = samples(database)
    for seed in (9101, 9102):
        for metric in ("test_accuracy", "parameters"):
            assert found[seed, metric] == pytest.approx(summary(grown)["grown"][metric], abs=0.15)


def test_distortions_are_the_seed_s_own_and_cost_accuracy(text, grown, database, tmp_path):
    assert evaluate(database, grown, text, "--suite", "distorted_heavily", "--seeds", 3) == 0
    images, words = samples(database, 1), samples(database, 2)
    accuracies = [sum(images[seed, "test_accuracy"]) for seed in (9101, 9102, 9103)]
    assert len(set(accuracies)) == 3
    assert max(accuracies) < sum(summary(grown)["grown"]["test_accuracy"])
    (clean,) = summary(text)["grown"]["test_bits_per_byte"]
    bits = [words[seed, "test_bits_per_byte"][0] for seed in (9101, 9102, 9103)]
    assert len(set(bits)) == 3 and min(bits) > clean
    again = tmp_path / "again.sqlite"
    assert evaluate(again, grown, "--suite", "distorted_heavily", "--seeds", 3) == 0
    assert samples(again) == images


def test_text_is_told_in_bits_per_byte(text, database, tmp_path):
    hosts = own_suite(tmp_path, kind="hosts", seeds=1)
    assert evaluate(database, text, "--suite", hosts) == 0
    (found,) = samples(database)[9101, "test_bits_per_byte"]
    assert found == pytest.approx(summary(text)["grown"]["test_bits_per_byte"][0], rel=1e-9)
    assert evaluate(tmp_path / "growth.sqlite", text, "--seeds", 1) == 0
    assert len(samples(tmp_path / "growth.sqlite")[9101, "test_bits_per_byte"]) == 2


def test_checkpoints_are_chosen_as_they_are_named(learned, database, capsys):
    assert evaluate(database, f"{learned}@epoch-2", f"{learned}@best:val_accuracy", "--seeds", 1) == 0
    out = capsys.readouterr().out
    assert f"{learned}@epoch-2\n" in out
    with Evaluations(database) as opened:
        assert {source["epoch"] for version in opened.versions() for source in version["sources"]} <= {2, 3, 4, 5}


@pytest.mark.parametrize("named", ["root/named/sweep-12", "named/sweep-12", "sweep-12", "eep-1", "root/named"])
def test_a_sweep_stands_for_its_finished_runs(named, grown, learned, database, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sweep = tmp_path / "root" / "named" / "sweep-12"
    for name, run_of in (("aaaaaa", learned), ("bbbbbb", grown), ("cccccc", grown), ("aaaaaa.1", grown)):
        shutil.copytree(run_of, sweep / name)
    (sweep / "sweep.json").write_text("{}")
    stopped = sweep / "cccccc" / "run.json"
    stopped.write_text(json.dumps(json.loads(stopped.read_text()) | {"status": "failed"}))
    assert evaluate(database, f"{named}@epoch-3", "--seeds", 1, "--root", "root") == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines() == ["left out: root/named/sweep-12/cccccc: failed"]
    # In the order in which they began.
    shown = [line.partition("  ")[2] for line in printed.out.splitlines() if "@epoch-3" in line]
    places = {"random": "bbbbbb", "ppo": "aaaaaa"}
    began = sorted(
        places, key=lambda policy: json.loads((sweep / places[policy] / "run.json").read_text())["started_at"]
    )
    assert shown == [f"{policy}, root/named/sweep-12/{places[policy]}@epoch-3" for policy in began]


def test_a_sweep_without_a_finished_run_is_refused(grown, database, tmp_path, capsys):
    for name in ("aaaaaa", "bbbbbb"):
        shutil.copytree(grown, tmp_path / "sweep-1" / name)
        stopped = tmp_path / "sweep-1" / name / "run.json"
        stopped.write_text(json.dumps(json.loads(stopped.read_text()) | {"status": "interrupted"}))
    assert evaluate(database, tmp_path / "sweep-1") == 2
    assert "none of its 2 runs has finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "suite", "wanted"),
    [
        ("RUN@best:val_acuracy", "default", "did you mean val_accuracy?"),
        ("RUN@epoch-99", "default", "no checkpoint of epoch 99"),
        ("LEARNED@epoch-99", "default", "the policy's 2 updates, too: that of epoch 1 is epoch-3"),
        ("RUN@newest", "default", "expected RUN@latest, RUN@best:METRIC or RUN@epoch-12"),
        ("nowhere", "default", "no run"),
        ("RUN", "defualt", "did you mean default?"),
        ("RUN", {"first_seed": 0}, "seed 0 is one that this run learned on"),
        ("RUN", {"overrides": ["gates=strict"]}, "gates.KEY=VALUE"),
        ("RUN", {"overrides": ["epocs=3"]}, "did you mean epochs?"),
        ("RUN", {"overrides": ["epochs.x=3"]}, "suite mine: epochs"),
        ("LEARNED@epoch-1", {"kind": "hosts"}, "its hosts have not been trained yet"),
    ],
)
def test_bad_input_is_answered_in_short_and_leaves_nothing(
    target, suite, wanted, grown, learned, database, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    target = target.replace("RUN", str(grown)).replace("LEARNED", str(learned))
    suite = suite if isinstance(suite, str) else own_suite(tmp_path, **suite)
    assert evaluate(database, target, "--suite", suite) == 2
    said = capsys.readouterr().err
    assert wanted in said and len(said.splitlines()) <= 2
    assert not database.exists() or rows(database) == []


def test_a_count_of_seeds_is_a_count(grown, database, capsys):
    for count in ("0", "-1", "many"):
        with pytest.raises(SystemExit):
            evaluate(database, grown, f"--seeds={count}")
        assert "--seeds: " in capsys.readouterr().err


def test_what_cannot_be_distorted_is_said(database, tmp_path, capsys):
    table = ["task=table", f"task.path={csv_file(tmp_path / 'own.csv')}", "task.target=kind", "host=mlp"]
    path = start(tmp_path / "run", *table, "policy=static", "engine.members=1", "epochs=1", "batch_size=8", *EXACT[2:])
    assert evaluate(database, path, "--suite", "distorted") == 1
    said = capsys.readouterr()
    assert "task=table: 36 training, 12 validation, 12 test; validation" in said.err  # the run, once
    assert said.err.count("kept apart") == 1
    assert "a suite distorts text and square images, and these are vectors [4]" in said.out + said.err
