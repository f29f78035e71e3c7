"""Episodes: problems thought about and answered, and what the answers were worth."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esper.errors import ForgeError
from esper.forge.examples import think_tokens
from esper.forge.lessons import answer_of
from esper.forge.sampling import sample
from esper.tasks.procedural import Problem, is_right
from esper.tasks.text.tokenizer import Tokenizer

_SLACK = 2  # tokens more than the longest right answer that may be written


@dataclass(frozen=True, slots=True)
class Episodes:
    """What was written behind prompts, token by token, as the actions of a policy.

    tokens [B, T]: prompts, and what was written. places [B, N]: where in `tokens` stands what each action was chosen
    after. actions [B, N]: the token that was chosen. taken [B, N] bool: whether there was such an action. rewards [B]:
    of the whole, when its last token is written.
    """

    tokens: Tensor
    places: Tensor
    actions: Tensor
    taken: Tensor
    rewards: Tensor

    @classmethod
    def of(
        cls, prompts: Sequence[Sequence[int]], written: Sequence[Sequence[int]], rewards: Sequence[float]
    ) -> "Episodes":
        """Args: written: behind each prompt; at least one token."""
        most = max(map(len, written))
        length = max(len(prompt) + len(text) for prompt, text in zip(prompts, written, strict=True)) - 1
        tokens = torch.zeros(len(prompts), length, dtype=torch.int64)
        actions = torch.zeros(len(prompts), most, dtype=torch.int64)
        for row, (prompt, text) in enumerate(zip(prompts, written, strict=True)):
            tokens[row, : len(prompt) + len(text) - 1] = torch.tensor([*prompt, *text[:-1]])
            actions[row, : len(text)] = torch.tensor(text)
        steps = torch.arange(most)
        first = torch.tensor([len(prompt) - 1 for prompt in prompts])
        taken = steps < torch.tensor([len(text) for text in written])[:, None]
        places = (first[:, None] + steps).clamp(max=length - 1)
        return cls(tokens, places, actions, taken, torch.tensor(rewards, dtype=torch.float32))

    def logits(self, network: nn.Module) -> Tensor:
        """What a network would have chosen each action by [B, N, V]."""
        found = network(self.tokens)
        return found.gather(1, self.places[..., None].expand(-1, -1, found.shape[-1]))


def known_tokens(network: nn.Module, tokenizer: Tokenizer) -> int:
    """V; raises ForgeError where the network does not know the tokens of a thought."""
    most = max(*think_tokens(tokenizer), tokenizer.eos_token_id)
    with torch.no_grad():
        known = network(torch.zeros(1, 1, dtype=torch.int64)).shape[-1]
    if most >= known:
        raise ForgeError(
            f"quietstar: the model knows {known} tokens, and a thought begins and ends with others "
            f"of tokenizer={tokenizer.name}\n  expected the tokenizer that the model was trained with"
        )
    return int(known)


def longest_answer(problems: Sequence[Problem], tokenizer: Tokenizer) -> int:
    """Tokens that an answer with its thought may take."""
    return _SLACK + max(len(tokenizer.encode(f"{problem.thought}{problem.answer}")) + 2 for problem in problems)


def think_aloud(
    network: nn.Module,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    max_new_tokens: int,
    generator: torch.Generator,
    thoughts: Sequence[Sequence[int]] | None = None,
) -> tuple[list[list[int]], list[list[int]]]:
    """Sample an answer to each problem, after a thought.

    Args: thoughts: put in instead of the network's own; it writes the answer alone. Returns: prompts, up to where it
    begins to write, and what it wrote.
    """
    think, end_think = think_tokens(tokenizer)
    prompts = [[*tokenizer.encode(problem.prompt), think] for problem in problems]
    if thoughts is not None:
        prompts = [[*prompt, *thought, end_think] for prompt, thought in zip(prompts, thoughts, strict=True)]
    return prompts, sample(network, prompts, max_new_tokens, tokenizer.eos_token_id, 1.0, generator)


def rewards_of(
    problems: Sequence[Problem], written: Sequence[Sequence[int]], tokenizer: Tokenizer, thinks: bool = True
) -> list[float]:
    """1 for each right answer, 0 else, by the family's verifier; only what was written counts, never the prompt.

    Args: thinks: an answer stands behind the end of a thought, and without one is none.
    """
    end_think = think_tokens(tokenizer)[1] if thinks else None
    answers = [answer_of(list(text), tokenizer, end_think) for text in written]
    return [float(is_right(problem, answer)) for problem, answer in zip(problems, answers, strict=True)]
