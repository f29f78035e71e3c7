"""Tokenizer files made from text: byte-level BPE (Sennrich et al. 2016, on bytes as in Radford et al. 2019)."""

from collections.abc import Sequence
from itertools import chain

from esper.errors import ConfigError
from esper.files import as_unicode
from esper.tasks.settings import check_paths
from esper.tasks.text.sources import own_files
from esper.tasks.text.tokenizer import SPECIALS, Tokenizer, require_tokenizers

MOST_TEXT_BYTES = 1 << 28


def train_tokenizer(paths: Sequence[str], vocab_size: int) -> tuple[bytes, int]:
    """A tokenizer file that loses nothing of any text; from the same text, the same bytes each time.

    Args:
        paths: files of text, and folders of them; of more than 256 MiB, about so much is taken.
        vocab_size: tokens at most, the 256 bytes and the specials among them.

    Returns: what the file is to hold, and how many tokens there are.

    Raises: ConfigError where there is no text, or the library is not installed.
    """
    require_tokenizers()
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    check_paths("TEXT", list(paths))
    files = own_files("TEXT", paths, "text", 0, MOST_TEXT_BYTES)
    texts = [as_unicode(text.decode("utf-8", "surrogateescape")) for file in files for text in file.texts.values()]
    if not any(texts):
        raise ConfigError(f"{' '.join(paths)}: there is no text to make a tokenizer from")
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(chain.from_iterable(text.splitlines(keepends=True) for text in texts), trainer)
    definition = made.to_str(pretty=True).encode()
    return definition, Tokenizer("", definition).vocab_size
