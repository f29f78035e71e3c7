"""What was answered, and what the verifier said: one JSON line an answer, from which gates are counted."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from esper.errors import CheckpointError
from esper.files import read_jsonl
from esper.files.opening import open_to_append
from esper.forge.lessons import answer_of
from esper.forge.sampling import sample
from esper.nissa.statistics import Interval, wilson_interval
from esper.tasks.procedural import Problem, is_right
from esper.tasks.text.tokenizer import Tokenizer

VERIFIER_LOG = "verifier.jsonl"
# kind: what an answer was given for: assessment (where to start), attempt (to learn from), exam (of a level that may be
# mastered), kept (what is left of it at the end), final (by the model as it was written)
_SHAPE = {
    "kind": str, "round": int, "family": str, "level": int, "prompt": str, "answer": str, "right": bool, "hints": int
}  # fmt: skip


class VerifierLog:
    """Has a network answer problems, verifies the answers, and appends each to a file. length: its bytes so far."""

    def __init__(self, path: Path, tokenizer: Tokenizer) -> None:
        self.path, self.tokenizer, self.length = path, tokenizer, 0

    def cut_back(self, length: int) -> None:
        """Keep so many bytes of what an earlier process wrote. Raises: CheckpointError where there are fewer."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open_to_append(self.path) as file:
            if file.seek(0, 2) < length:
                raise CheckpointError(
                    f"{self.path} is shorter than its checkpoint says\n"
                    f"  to have the phase run anew, move its folder away: {self.path.parent}"
                )
            file.truncate(length)
        self.length = length

    def verify(
        self, kind: str, number: int, problems: Sequence[Problem], network: nn.Module, hints: Sequence[int] = ()
    ) -> list[tuple[str, bool]]:
        """The likeliest answer to each problem, and whether it is right.

        Args: number: of the round. hints: that each problem has come with before; none unless they are given.
        """
        answers = answer(network, problems, self.tokenizer)
        lines, found = [], []
        rows = zip(problems, answers, verified(problems, answers), hints or [0] * len(problems), strict=True)
        for problem, given, right, count in rows:
            found.append((given, right))
            values = (kind, number, problem.family, problem.level, problem.prompt, given, right, count)
            lines.append(json.dumps(dict(zip(_SHAPE, values, strict=True))) + "\n")
        data = "".join(lines).encode()
        with open_to_append(self.path) as file:
            file.write(data)
        self.length += len(data)
        return found

    def examine(self, kind: str, number: int, problems: Sequence[Problem], network: nn.Module) -> Interval:
        """Share of right answers, with Wilson's interval."""
        right = [said for _, said in self.verify(kind, number, problems, network)]
        return wilson_interval(sum(right), len(right))


def answer(
    network: nn.Module, problems: Sequence[Problem], tokenizer: Tokenizer, prompts: Sequence[str] | None = None
) -> list[str]:
    """What a network's likeliest answers are; the empty text where it comes to no end. prompts: None: the problems'."""
    asked = [problem.prompt for problem in problems] if prompts is None else prompts
    most = max((len(tokenizer.encode(problem.answer)) for problem in problems), default=0) + 1
    written = sample(network, [tokenizer.encode(text) for text in asked], most, tokenizer.eos_token_id)
    return [answer_of(tokens, tokenizer) for tokens in written]


def verified(problems: Sequence[Problem], answers: Sequence[str]) -> list[bool]:
    """Of each answer, what the family's verifier says."""
    return [is_right(problem, given) for problem, given in zip(problems, answers, strict=True)]


def counted(path: Path, kind: str) -> dict[tuple[str, int], Interval]:
    """Of a log: (family, level) -> share of right answers of this kind. Raises: CheckpointError where it is damaged."""
    seen: dict[tuple[str, int], list[bool]] = {}
    for line in read_jsonl(path, _SHAPE):
        record: Any = line.record
        if record is None:
            raise CheckpointError(f"{path}: line {line.number} is damaged: {line.problem}")
        if record["kind"] == kind:
            seen.setdefault((record["family"], record["level"]), []).append(record["right"])
    return {place: wilson_interval(sum(right), len(right)) for place, right in seen.items()}
