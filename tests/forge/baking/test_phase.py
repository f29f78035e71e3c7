"""The phase: what it reads, writes and measures, and how it ends."""

import copy
import itertools
import json
import shutil

import pytest
import torch

from esper.errors import ConfigError, EsperError, ForgeError, TaskError
from esper.forge.baking.baker import Baker
from esper.forge.baking.measuring import Before
from esper.forge.baking.phase import build_baking
from esper.forge.baking.selection import NO_PROMPT, Selection
from esper.forge.bundles import load_language_model
from esper.forge.lessons import Lesson
from esper.forge.phase import Interrupted
from esper.forge.trainable import Trainable
from tests.forge.baking.parts import FAMILIES, config, context, tasks, written
from tests.forge.models import network


@pytest.fixture(scope="module", params=["plain", "ternary"])
def done(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    given = written(folder / "given", request.param == "ternary")
    made = context()
    phase = build_baking(config(), made)
    phase.check(given)
    return given, folder / "out", phase.run(given, folder / "out"), made


def baker(tmp_path, **changed) -> Baker:
    return Baker(config(**changed), context(), tasks(), tmp_path)


def family_of(result) -> str:
    lessons = load_language_model(result.artifacts["model"]).card.lessons
    (unprompted,) = [lesson for lesson in lessons if lesson.style == "unprompted"]
    (family,) = unprompted.families
    return family


@pytest.mark.slow
def test_it_passes_on_what_it_read_with_its_lessons(done):
    given, out, result, made = done
    assert result.success == (result.metrics["baked"] >= 0)  # so brief a bake of a ternary model may do harm
    assert (out / "masters.safetensors").exists() == (given / "masters.safetensors").exists()
    assert load_language_model(out).card.format == load_language_model(given).card.format
    styles = {lesson.style: lesson for lesson in load_language_model(out).card.lessons}
    assert list(styles) == ["answer", "unprompted"]
    assert list(styles["answer"].families) == FAMILIES  # it knew none of them
    assert styles["unprompted"].families == {family_of(result): [1]}
    assert made.notes[0].startswith(f"The prefix of {family_of(result)} is baked in")
    Trainable.load(out, context(), "experts")


@pytest.mark.slow
def test_its_figures_are_those_of_the_files(done):
    _, out, result, _ = done
    made = Baker(config(), context(), tasks(), out)
    before = Before(made, out / "taught", family_of(result))
    measured = before.plain() | before.compare(out / "model")
    assert measured == {name: result.metrics[name] for name in measured}
    assert measured["baked"] == 1 - measured["divergence"] / measured["divergence_before"]
    again = Before(made, out / "model", family_of(result)).compare(out / "model")
    assert again["text_ratio"] == 1.0 and again["task_loss"] == 0.0


@pytest.mark.slow
def test_the_log_has_every_round(done):
    _, out, result, _ = done
    rounds = [json.loads(line) for line in (out / "cycles.jsonl").read_text().splitlines()]
    assert len(rounds) == result.metrics["rounds"] >= 4
    assert [entry["round"] for entry in rounds] == list(range(len(rounds)))
    assert {entry["cycle"] for entry in rounds} == {"A", "B"}
    assert rounds[0]["cycle"] == "A" and len(rounds[0]["candidates"]) == 2 * len(FAMILIES)
    for entry in rounds:
        if entry["winner"]:
            assert entry["winner"] in entry["candidates"] and entry["winner"]["score"] > 0
            assert 0 <= entry["scale"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("ternary", [False, True], ids=["plain", "ternary"])
def test_stopped_at_every_training_it_ends_bit_for_bit_as_if_it_had_not_been(tmp_path, ternary):
    given = written(tmp_path / "given", ternary)
    wanted = build_baking(config(), context()).run(given, tmp_path / "once")
    stops = set()
    for _ in range(100):
        asked = itertools.count()
        try:
            stopping = context(should_stop=lambda asked=asked: next(asked) >= 3)
            found = build_baking(config(), stopping).run(given, tmp_path / "stopped")
            break
        except Interrupted as stopped:
            stops.add(str(stopped))
    assert {"teaching", "full_bake"} <= stops
    assert found.metrics == wanted.metrics
    for name in ("model.safetensors", "cycles.jsonl", "taught/model.safetensors"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "once" / name).read_bytes()


@pytest.mark.slow
def test_a_model_that_can_do_the_tasks_is_not_taught(tmp_path):
    given = written(tmp_path / "given", ternary=False)
    result = build_baking(config(min_taught=0.0), context()).run(given, tmp_path / "out")
    assert result.metrics["teaching/steps"] == 0
    assert not (tmp_path / "out" / "taught").exists()
    assert [lesson.style for lesson in load_language_model(tmp_path / "out").card.lessons] == ["unprompted"]


@pytest.mark.slow
def test_a_gate_that_fails_says_its_figure(tmp_path):
    given = written(tmp_path / "given", ternary=False)
    result = build_baking(config(min_unprompted=0.9), context()).run(given, tmp_path / "out")
    assert not result.success and result.error == "unprompted 0, at least 0.9 is asked"


@pytest.mark.slow
def test_all_controls_stand_in_folders_of_their_own(tmp_path):
    given = written(tmp_path / "given", ternary=True)
    result = build_baking(config(), context(controls="all")).run(given, tmp_path / "out")
    names = {"full_fine_tuning", "lora", "no_replay", "stacked_1", "stacked_2"}
    assert {path.name for path in (tmp_path / "out" / "controls").iterdir()} == names
    for name in ("full_fine_tuning", "lora", "no_replay", "stacked/1", "stacked/2"):
        assert {f"{name}/{figure}" for figure in ("baked", "unprompted", "text_ratio", "task_loss")} <= set(
            result.metrics
        )
    for name in names:
        load_language_model(tmp_path / "out" / "controls" / name)


def test_baking_makes_the_divergence_smaller_and_leaves_the_teacher(tmp_path):
    made = baker(tmp_path)
    teacher, student = network(0), network(0)
    untouched = copy.deepcopy(teacher.state_dict())
    prompt = made.tasks.prompt("copy")
    pool = made.pool(teacher, prompt, 32, "pool")
    budget = copy.copy(made.config.baking)
    budget.steps = 60
    before = made.divergence(student, teacher, prompt, pool)
    made.bake(student, teacher, prompt, pool, budget, "bake", ())
    assert made.divergence(student, teacher, prompt, pool) < 0.5 * before
    assert all(torch.equal(value, untouched[name]) for name, value in teacher.state_dict().items())


@pytest.mark.slow
def test_what_is_replayed_keeps_text_and_tasks(tmp_path):
    made = baker(tmp_path)
    budget = copy.copy(made.config.baking)
    budget.steps = 40
    teacher = network(0)
    prompt = made.tasks.prompt("copy")
    pool = made.pool(teacher, prompt, 32, "pool")
    selection, bits = Selection(made), {}
    for name, kept in (("kept", [made.tasks.lesson("answer")]), ("lost", [])):
        student = network(0)
        made.bake(student, teacher, prompt, pool, budget, name, kept)
        bits[name] = selection.text_bits(student, NO_PROMPT)
    assert bits["kept"] < bits["lost"]


@pytest.mark.parametrize(
    ("changed", "error", "wanted"),
    [
        ({"families": ["copy", "revers", "sort", "increment"]}, TaskError, "did you mean reverse"),
        ({"levels": [11]}, ConfigError, "level of copy"),
        ({"levels": [1, 1]}, ConfigError, "each once"),
        ({"levels": [10]}, ForgeError, "the model reads 32"),
        ({"prefix_tokens": 16}, ForgeError, "expected at most 15"),
    ],
    ids=str,
)
def test_what_does_not_fit_the_model_is_refused_before_anything_is_written(tmp_path, changed, error, wanted):
    given = written(tmp_path / "given", ternary=False)
    with pytest.raises(error, match=wanted) as refused:
        build_baking(config(**changed), context()).check(given)
    assert isinstance(refused.value, EsperError) and len(str(refused.value).splitlines()) <= 2


def test_a_packed_model_without_masters_is_refused(tmp_path):
    given = written(tmp_path / "given", ternary=True)
    for name in ("masters.json", "masters.safetensors"):
        (given / name).unlink()
    with pytest.raises(ForgeError, match="masters"):
        build_baking(config(), context()).check(given)
    with pytest.raises(ForgeError, match="name its folder"):
        build_baking(config(), context()).check(None)


def test_masters_of_another_model_are_refused(tmp_path):
    given, other = written(tmp_path / "given", ternary=True), tmp_path / "other"
    build_baking(config(), context()).check(given)
    model = Trainable.load(given, context(), "baking")
    model.network.embedding.weight.data += 0.1
    model.save(other / "model", context(), "baking")
    for name in ("masters.json", "masters.safetensors"):
        shutil.copy(other / name, given)
    with pytest.raises(ForgeError, match="are not those that its model was packed from"):
        build_baking(config(), context()).check(given)


@pytest.mark.slow
def test_what_was_taught_before_is_replayed(tmp_path):
    given = written(tmp_path / "given", ternary=False)
    model = Trainable.load(given, context(), "baking")
    before = Lesson(phase="curriculum", families={"running_sum": [1]})
    (tmp_path / "curriculum").mkdir()
    model.save(tmp_path / "curriculum" / "model", context(), "curriculum", taught=[before])
    able = config(min_taught=0.0)  # nothing is taught, and the bake alone replays
    result = build_baking(able, context()).run(tmp_path / "curriculum", tmp_path / "out")
    assert load_language_model(result.artifacts["model"]).card.lessons[0] == before
    plain = build_baking(able, context()).run(given, tmp_path / "plain")
    assert plain.metrics["divergence"] != result.metrics["divergence"]
