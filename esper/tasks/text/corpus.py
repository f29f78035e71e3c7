"""The corpus: text of several domains as tokens, each split three ways."""

import hashlib
from dataclasses import dataclass

from torch import Tensor

from esper.errors import TaskError
from esper.tasks.settings import CorpusConfig
from esper.tasks.text.sources import TextFile, installed_files, own_files
from esper.tasks.text.splits import TEST, TRAIN, Texts, shared_share, split_files
from esper.tasks.text.tokenizer import Tokenizer
from esper.tasks.text.windows import draw_windows, every_window

__all__ = ["Corpus", "Domain", "build_corpus", "draw_windows", "every_window"]

_MOST_TEXT_BYTES, _LEAST_TEXT_BYTES = 16_384, 1024  # of one text that is installed
_TEXTS_IN_TEST = 8  # at the least


@dataclass(frozen=True)
class Domain:
    """Text of one kind, as tokens: each split is [L] int32."""

    name: str
    train: Tensor
    val: Tensor
    test: Tensor


@dataclass(frozen=True)
class Corpus:
    """Text of several kinds.

    fingerprint: sha256 of all of it, and of the tokenizer. overlap: the share of the test texts' 64-byte shingles that
    training has, too, whatever the domain.
    """

    domains: dict[str, Domain]
    fingerprint: str
    overlap: float
    tokenizer: Tokenizer


def build_corpus(config: CorpusConfig, tokenizer: Tokenizer, seed: int = 0) -> Corpus:
    """Read, split and tokenise text; the same in every process.

    A file falls into one split for all domains, and into training where much of it stands in other files, too.

    Args:
        seed: decides, with the files' names, which file falls into which split.

    Raises: ConfigError where a path has no text, or cannot be read. TaskError where a split of a domain is shorter than
        a window and the token after it.
    """
    texts = split_files(_files(config, seed), config.sizes())
    domains = {name: Domain(name, *map(tokenizer.encode_bytes, texts[name])) for name in sorted(texts)}
    for domain in domains.values():
        _check_length(config, domain)
    train, test = (b"".join(texts[name][split] for name in domains) for split in (TRAIN, TEST))
    return Corpus(domains, _fingerprint(texts, tokenizer), shared_share(test, train), tokenizer)


def _files(config: CorpusConfig, seed: int) -> list[TextFile]:
    if config.name == "installed":
        text_bytes = min(_MOST_TEXT_BYTES, max(_LEAST_TEXT_BYTES, config.test_bytes // _TEXTS_IN_TEST))
        return installed_files(seed, sum(config.sizes()), text_bytes)
    return [
        file
        for domain, path in config.domain_paths().items()
        for file in own_files(config.paths_key, [path], domain, seed, sum(config.sizes()))
    ]


def _check_length(config: CorpusConfig, domain: Domain) -> None:
    for name, stream in zip(("training", "validation", "test"), (domain.train, domain.val, domain.test), strict=True):
        if len(stream) <= config.block_size:
            raise TaskError(
                f"domain {domain.name}: {len(stream)} tokens to make a {name} split of, and a window takes "
                f"{config.key}.block_size + 1 = {config.block_size + 1}\n  more text will do, or a shorter window"
            )


def _fingerprint(texts: dict[str, Texts], tokenizer: Tokenizer) -> str:
    digest = hashlib.sha256(tokenizer.sha256.encode())
    for name in sorted(texts):
        for text in (name.encode("utf-8", "surrogateescape"), *texts[name]):
            digest.update(len(text).to_bytes(8, "big"))
            digest.update(text)
    return digest.hexdigest()
