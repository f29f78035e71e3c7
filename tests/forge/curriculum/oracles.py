"""Networks that know: what tests of the curriculum have answer problems."""

import torch
from torch import Tensor, nn

from esper.forge.curriculum.config import CurriculumConfig
from esper.tasks.text.tokenizer import get_tokenizer

TOKENIZER = get_tokenizer("bytes")
SMALL = {
    "families": ["copy", "complement"],
    "rounds": 10,
    "steps_per_round": 2,
    "concepts": 16,
    "batch_size": 8,
    "text_batch_size": 2,
    "learning_rate": 0.003,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "replay_share": 0.3,
    "exam_problems": 32,
    "plateau_rounds": 3,
    "min_levels_mastered": 0,
    "min_forgetting_avoided": -1.0,
    "max_text_ratio": 100.0,
}


def config(**changed: object) -> CurriculumConfig:
    return CurriculumConfig(**{**SMALL, **changed})  # type: ignore[arg-type]


class Copier(nn.Module):
    """Answers every prompt by the digits before "=", as far as there are no more than `most`."""

    block_size = 64

    def __init__(self, most: int = 99) -> None:
        super().__init__()
        self._most = most

    def forward(self, tokens: Tensor) -> Tensor:
        logits = torch.zeros(*tokens.shape, TOKENIZER.vocab_size)
        for row, line in enumerate(tokens.tolist()):
            prompt, _, written = TOKENIZER.decode(line).partition("=")
            digits = prompt.rpartition(" ")[2]
            known = digits if len(digits) <= self._most else "?"
            wanted = TOKENIZER.encode(known[len(written) :])
            logits[row, -1, wanted[0] if wanted else TOKENIZER.eos_token_id] = 1.0
        return logits
