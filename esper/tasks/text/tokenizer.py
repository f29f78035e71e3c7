"""The tokenizer: text to the numbers that a language model reads, and back; bytes, or a Hugging Face tokenizer file.

The specials of a file are found by their usual names. Text is never read as a special: what looks like one in a text
stays the letters that it is.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from esper.errors import ConfigError, FormatError
from esper.files import as_unicode, parse_json, read_bytes

if TYPE_CHECKING:
    import tokenizers

BYTES = "bytes"
SPECIALS = ("<pad>", "<bos>", "<eos>", "<think>", "</think>", "<spare1>", "<spare2>", "<spare3>")
_USUAL: dict[str, tuple[str, ...]] = {  # names of a special in files of others, ours first
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|endoftext|>"),
    "bos": ("<bos>", "<s>", "<|begin_of_text|>", "[CLS]", "<|endoftext|>"),
    "eos": ("<eos>", "</s>", "<|end_of_text|>", "<|im_end|>", "[SEP]", "<|endoftext|>"),
    "think": ("<think>",),
    "end_think": ("</think>",),
}
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # one byte, where a file falls back on them
_MOST_TOKENS = 1 << 24


class Tokenizer:
    """Text to token ids and back. Made by `get_tokenizer`.

    name: "bytes", or the path it was read from. sha256: of what defines it. vocab_size: V, above every id.
    token_bytes: [V] int64, how many bytes of text each token stands for (specials: 0): what bits per byte divide by.
    think_token_id, end_think_token_id: None where a file has no such tokens.
    """

    def __init__(self, name: str, definition: bytes | None = None) -> None:
        """Args: definition: what the tokenizer file holds; None for bytes. Raises: ConfigError where it is none."""
        self.name = name
        self._backend: tokenizers.Tokenizer | None = None
        if definition is None:
            self.sha256 = hashlib.sha256(" ".join((BYTES, "256", *SPECIALS)).encode()).hexdigest()
            specials = {token: 256 + place for place, token in enumerate(SPECIALS)}
            self.vocab_size = 256 + len(SPECIALS)
            self.token_bytes = (torch.arange(self.vocab_size) < 256).long()
        else:
            self.sha256 = hashlib.sha256(definition).hexdigest()
            self._backend, specials, self.token_bytes = _read(name, definition)
            self.vocab_size = len(self.token_bytes)
        ids = {kind: _first(names, specials) for kind, names in _USUAL.items()}
        eos = ids["bos"] if ids["eos"] is None else ids["eos"]
        if eos is None:
            known = ", ".join(_USUAL["eos"])
            raise ConfigError(
                f"{_spoken(name)}: no token in it ends a text\n  expected one of {known}, added as special"
            )
        self.eos_token_id: int = eos
        self.bos_token_id: int = eos if ids["bos"] is None else ids["bos"]
        self.pad_token_id: int = eos if ids["pad"] is None else ids["pad"]
        self.think_token_id, self.end_think_token_id = ids["think"], ids["end_think"]
        self._special_ids = frozenset(specials.values())

    def encode(self, text: str) -> list[int]:
        """The tokens of a text; of bytes that are no UTF-8, as surrogates stand for them, too."""
        if self._backend is None:
            return list(text.encode("utf-8", "surrogateescape"))
        return list(self._backend.encode(as_unicode(text), add_special_tokens=False).ids)

    def encode_bytes(self, text: bytes) -> Tensor:
        """As `encode`, of text as it lies in a file. Returns: [N] int32."""
        if self._backend is None:
            return torch.from_numpy(np.frombuffer(text, np.uint8).astype(np.int32))
        return torch.tensor(self.encode(text.decode("utf-8", "surrogateescape")), dtype=torch.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of tokens, without specials. Raises: ConfigError on an id that there is not."""
        tokens = [int(token) for token in ids]
        if wrong := [token for token in tokens if not 0 <= token < self.vocab_size]:
            raise ConfigError(
                f"token {wrong[0]}: expected 0 to {self.vocab_size - 1}, as {_spoken(self.name)} has them"
            )
        kept = [token for token in tokens if token not in self._special_ids]
        if self._backend is None:
            return bytes(kept).decode("utf-8", "surrogateescape")
        return self._backend.decode(kept, skip_special_tokens=False)


def get_tokenizer(name: str = BYTES) -> Tokenizer:
    """The tokenizer of this name.

    Args: name: "bytes", or the path of a Hugging Face tokenizer.json.

    Raises: ConfigError where the file is missing, or no tokenizer; or where the library for it is not installed.
    """
    if name == BYTES:
        return Tokenizer(name)
    try:
        definition = read_bytes(Path(name).expanduser())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{_spoken(name)}: cannot be read ({reason})\n  expected bytes, or a tokenizer file, as made by: "
            "esper tokenizer train TEXT --out FILE.json"
        ) from None
    return Tokenizer(name, definition)


def require_tokenizers() -> None:
    """Raises ConfigError where the library that reads and trains tokenizer files is not installed."""
    try:
        import tokenizers  # noqa: F401
    except ImportError:
        raise ConfigError("tokenizer files need a library: pip install 'esper[tokenizers]'") from None


def _first(names: Iterable[str], specials: Mapping[str, int]) -> int | None:
    return next((specials[name] for name in names if name in specials), None)


def _spoken(name: str) -> str:
    return f"tokenizer={name}"


def _read(name: str, definition: bytes) -> tuple["tokenizers.Tokenizer", dict[str, int], Tensor]:
    """What encodes, the ids of the special tokens, and how many bytes of text each token stands for."""
    require_tokenizers()
    import tokenizers

    try:
        values = parse_json(definition)
        _check(values)
        backend = tokenizers.Tokenizer.from_str(definition.decode())
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library's is no Exception
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ConfigError(f"{_spoken(name)}: it is no tokenizer file ({reason})") from None
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # of what looks like a special in a text, its letters
    ids = backend.get_vocab(with_added_tokens=True)
    size = max(ids.values(), default=-1) + 1
    if not 0 < size <= _MOST_TOKENS:
        raise ConfigError(f"{_spoken(name)}: it has {size:,} tokens; expected 1 to {_MOST_TOKENS:,}")
    specials = {token.content: id_ for id_, token in backend.get_added_tokens_decoder().items() if token.special}
    counts = torch.zeros(size, dtype=torch.int64)
    ordinary = {token: id_ for token, id_ in ids.items() if token not in specials}
    _count_bytes(backend, values.get("decoder") or {}, ordinary, counts)
    return backend, specials, counts


def _check(values: Any) -> None:
    """Raise FormatError on what the library answers with a panic instead of an error."""
    model = values.get("model") if isinstance(values, dict) else None
    if not isinstance(model, dict):
        raise FormatError("it has no model")
    vocab, merges = model.get("vocab"), model.get("merges")
    if isinstance(vocab, dict) and isinstance(merges, list):
        prefix = model.get("continuing_subword_prefix") or ""
        for merge in merges:
            pair = merge.split(" ") if isinstance(merge, str) else merge
            if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
                raise FormatError("it merges what is no pair of tokens")
            left, right = pair
            if not {left, right, f"{left}{right.removeprefix(prefix)}"} <= vocab.keys():
                raise FormatError(f"it merges {left!r} and {right!r}, which are not all in its vocabulary")


def _count_bytes(
    backend: "tokenizers.Tokenizer", decoder: Mapping[str, Any], ids: Mapping[str, int], counts: Tensor
) -> None:
    """Write down, by token id [V], how many bytes of text a token of these stands for.

    A byte-level token has a letter for each byte; what others stand for is seen by decoding them behind another token.
    """
    is_byte_level = "ByteLevel" in {part.get("type") for part in (decoder, *decoder.get("decoders", ()))}
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    before = [ids[token] for token in sorted(ids) if token.isalpha()][:1]
    length = len(backend.decode(before).encode())
    for token, id_ in ids.items():
        if is_byte_level and token not in added:
            counts[id_] = len(token)
        elif _BYTE_TOKEN.fullmatch(token):
            counts[id_] = 1
        else:
            counts[id_] = max(len(backend.decode([*before, id_]).encode()) - length, 0)
