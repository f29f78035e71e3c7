"""A small decoder, trained briefly on two texts unlike each other, plain and ternary as earlier phases leave it."""

import string
from pathlib import Path

import pytest
import torch

from esper.forge.bitnet.bundle import quantizer_card
from esper.forge.bitnet.packing import pack_network
from esper.forge.bitnet.quantizer import quantize_layers
from esper.forge.bundles import load_language_model, parent, save_language_model
from esper.forge.lessons import Lesson
from esper.kasmina.decoder import Decoder
from esper.tasks.task import named_generator
from esper.tasks.text.corpus import Corpus, Domain
from esper.tasks.text.tokenizer import get_tokenizer
from esper.tasks.text.windows import draw_windows

LENGTH = 24


def _words(letters: str, seed: int) -> str:
    generator = named_generator(seed, letters)
    words = ["".join(letters[int(i)] for i in torch.randint(len(letters), (4,), generator=generator)) for _ in range(8)]
    return " ".join(words[int(i)] for i in torch.randint(8, (2400,), generator=generator))


@pytest.fixture(scope="package")
def corpus() -> Corpus:
    tokenizer = get_tokenizer("bytes")
    domains = {}
    for name, letters in {"low": string.ascii_lowercase, "digits": string.digits}.items():
        text = torch.tensor(tokenizer.encode(_words(letters, 1)))
        domains[name] = Domain(name, text[:6000], text[6000:9000], text[9000:])
    return Corpus(domains=domains, fingerprint="f" * 64, overlap=0.0, tokenizer=tokenizer)


@pytest.fixture(scope="package")
def plain(corpus, tmp_path_factory) -> Path:
    network = Decoder(corpus.tokenizer.vocab_size, 16, 2, 2, LENGTH, generator=named_generator(0, "base"))
    optimizer = torch.optim.AdamW(network.parameters(), 0.01)
    generator = named_generator(0, "base/text")
    for _ in range(40):
        drawn = [draw_windows(domain.train, 8, LENGTH, generator) for domain in corpus.domains.values()]
        x, y = (torch.cat(part) for part in zip(*drawn, strict=True))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x).flatten(0, 1), y.flatten()).backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("plain")
    _save(folder / "model", network.eval(), corpus)
    return folder


@pytest.fixture(scope="package")
def ternary(corpus, plain, tmp_path_factory) -> Path:
    network = quantize_layers(load_language_model(plain).host)
    quantizer = quantizer_card("int8")
    folder = tmp_path_factory.mktemp("ternary")
    before = [parent(plain, "teacher")]
    _save(folder / "masters", network, corpus, quantizer=quantizer, parents=before)
    packed = pack_network(network, "int8")
    _save(folder / "model", network, corpus, quantizer=quantizer, format="ternary", tensors=packed, parents=before)
    return folder


@pytest.fixture(scope="package")
def lesson() -> Lesson:
    return Lesson(phase="curriculum", families={"parity": [1]})


def _save(path, network, corpus, **given) -> None:
    given = {"phase": "bitnet", "seed": 0, "data_fingerprint": corpus.fingerprint, **given}
    save_language_model(path, network, corpus.tokenizer, **given)
