"""Every answer is written down as the verifier judges it, and gates are counted from that."""

import json

import pytest

from esper.errors import CheckpointError
from esper.forge.curriculum.verifier_log import VerifierLog, answer, counted
from esper.tasks.procedural import draw_problem
from esper.tasks.task import named_generator
from tests.forge.curriculum.oracles import TOKENIZER, Copier


def problems(count, level=1, family="copy"):
    generator = named_generator(0, "log")
    return [draw_problem(family, level, generator) for _ in range(count)]


def test_answers_are_verified_not_believed(tmp_path):
    log = VerifierLog(tmp_path / "verifier.jsonl", TOKENIZER)
    asked = [*problems(20), *problems(20, family="sort")]
    found = log.verify("attempt", 3, asked, Copier(), hints=range(40))
    assert all(right for _, right in found[:20]) and not all(right for _, right in found[20:])
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [(line["prompt"], line["answer"], line["right"], line["hints"]) for line in lines] == [
        (problem.prompt, given, right, hints)
        for problem, (given, right), hints in zip(asked, found, range(40), strict=True)
    ]
    assert {(line["kind"], line["round"]) for line in lines} == {("attempt", 3)}
    assert log.length == log.path.stat().st_size


def test_shares_are_counted_by_kind_family_and_level(tmp_path):
    log = VerifierLog(tmp_path / "verifier.jsonl", TOKENIZER)
    log.verify("exam", 0, problems(4), Copier(most=0))
    log.examine("final", 1, problems(64), Copier())
    log.examine("final", 1, problems(8, level=2), Copier(most=3))
    found = counted(log.path, "final")
    assert {place: (share.mean, share.n) for place, share in found.items()} == {
        ("copy", 1): (1.0, 64),
        ("copy", 2): (0.0, 8),
    }


def test_what_came_after_the_checkpoint_is_cut_off(tmp_path):
    path = tmp_path / "verifier.jsonl"
    log = VerifierLog(path, TOKENIZER)
    log.verify("attempt", 0, problems(3), Copier())
    kept, data = log.length, path.read_bytes()
    log.verify("attempt", 1, problems(3), Copier())
    path.write_bytes(path.read_bytes()[:-5])  # killed within a line
    again = VerifierLog(path, TOKENIZER)
    again.cut_back(kept)
    assert again.length == kept and path.read_bytes() == data
    with pytest.raises(CheckpointError, match="shorter than its checkpoint says"):
        again.cut_back(kept + 1)


def test_a_damaged_log_is_no_ground_for_gates(tmp_path):
    path = tmp_path / "verifier.jsonl"
    path.write_text('{"kind": "final", "right": 1}\n')
    with pytest.raises(CheckpointError, match="line 1 is damaged"):
        counted(path, "final")


def test_an_answer_without_an_end_is_none():
    assert answer(Copier(), problems(2), TOKENIZER) == [problem.answer for problem in problems(2)]
    longer = [problem.prompt.replace("=", "123=") for problem in problems(2)]
    assert answer(Copier(), problems(2), TOKENIZER, longer) == ["", ""]
