"""The project's one tokenizer, where users of the forge look for it."""

from esper.tasks.text.tokenizer import Tokenizer, get_tokenizer

__all__ = ["Tokenizer", "get_tokenizer"]
