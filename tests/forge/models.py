"""Small language models, for tests of what is done with them."""

import torch

from esper.kasmina import Decoder
from esper.tasks.text.tokenizer import Tokenizer, get_tokenizer

SIZES = {"n_embd": 16, "n_head": 2, "n_layer": 2, "block_size": 32}


def tokenizer() -> Tokenizer:
    return get_tokenizer("bytes")


def network(seed: int = 0, **sizes: int) -> Decoder:
    generator = torch.Generator().manual_seed(seed)
    return Decoder(tokenizer().vocab_size, **{**SIZES, **sizes}, generator=generator).eval()
