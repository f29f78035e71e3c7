"""A network that predicts the next token, with what turns text into tokens: it writes on from a prompt."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from esper.checks import in_range, require, whole
from esper.forge.card import ModelCard
from esper.tasks.task import named_generator

if TYPE_CHECKING:
    from esper.tasks.text.tokenizer import Tokenizer

_HIGHEST_TEMPERATURE = 100.0
# What bytes decode to that are no character, or not yet.
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}" + "".join(map(chr, range(0xDC80, 0xDD00)))
_LONGEST = 4  # bytes of a character


class LanguageModel(nn.Module):
    """A language model as it was read; see `esper.load_language_model`.

    host: the network. tokenizer. card: what its bundle says of it.
    """

    def __init__(self, host: nn.Module, tokenizer: "Tokenizer", card: ModelCard) -> None:
        super().__init__()
        self.host: Any = host
        self.tokenizer = tokenizer
        self.card = card

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the token that follows each position. Args: tokens [B, T] int64. Returns: [B, T, V]."""
        return self.host(tokens)

    def generate(self, prompt: str, max_new_tokens: int = 128, temperature: float = 1.0, seed: int = 0) -> str:
        """The text that follows the prompt, without it; the same for the same arguments.

        Of a prompt that is longer than the network's context its end is read. Where prompt and answer come to be longer
        than the context, the older half is forgotten and the rest read anew.

        Args:
            max_new_tokens: after which it ends, if the model does not end the text before.
            temperature: what logits are divided by before one is drawn; 0: always the likeliest.
            seed: of what is drawn.

        Raises: ConfigError on an argument out of its range.
        """
        return self.tokenizer.decode(self._tokens(prompt, max_new_tokens, temperature, seed))

    def stream(self, prompt: str, max_new_tokens: int = 128, temperature: float = 1.0, seed: int = 0) -> Iterator[str]:
        """`generate`, piece by piece as it is written; no piece ends within a character."""
        tokens: list[int] = []
        told = ""
        for token in self._tokens(prompt, max_new_tokens, temperature, seed):
            tokens.append(token)
            text = self.tokenizer.decode(tokens)
            whole_text = text.rstrip(_INCOMPLETE)
            ready = whole_text if len(text) - len(whole_text) < _LONGEST else text
            if len(ready) > len(told):
                yield ready[len(told) :]
                told = ready
        if rest := self.tokenizer.decode(tokens)[len(told) :]:
            yield rest

    @torch.inference_mode()
    def _tokens(self, prompt: str, max_new_tokens: int, temperature: float, seed: int) -> Iterator[int]:
        require(isinstance(prompt, str), "prompt", prompt, "a text")
        whole("max_new_tokens", max_new_tokens, 0)
        in_range("temperature", temperature, 0.0, _HIGHEST_TEMPERATURE)
        whole("seed", seed, 0)
        host, longest = self.host, int(self.host.block_size)
        has_cache = bool(getattr(host, "caches", False))
        device = next(self.parameters()).device
        generator = named_generator(seed, "forge/generate")
        context = (self.tokenizer.encode(prompt) or [self.tokenizer.bos_token_id])[-longest:]
        unread, cache = context, None
        for _ in range(max_new_tokens):
            tokens = torch.tensor([unread if has_cache else context], device=device)
            if has_cache:
                cache = cache or host.new_cache()
                logits = host.extend(tokens, cache)[0, -1]
            else:
                logits = host(tokens)[0, -1]
            token = _pick(logits.cpu().float(), temperature, generator)
            if token == self.tokenizer.eos_token_id:
                return
            yield token
            context, unread = [*context, token], [token]
            if len(context) > longest:
                context = context[-max(1, longest // 2) :]
                unread, cache = context, None


def _pick(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
    """A token by its logits [V]."""
    if temperature == 0:
        return int(logits.argmax())
    scaled = (logits - logits.max()) / temperature
    return int(torch.multinomial(scaled.double().softmax(0), 1, generator=generator))
