"""Small models, text and budgets for tests of baking."""

from pathlib import Path
from types import SimpleNamespace

import torch

from esper.forge.baking.config import BakingConfig
from esper.forge.baking.tasks import PrefixedTasks
from esper.forge.bitnet.bundle import quantizer_card
from esper.forge.bitnet.quantizer import quantize_layers
from esper.forge.budget import TrainingBudget
from esper.forge.bundles import save_language_model
from esper.forge.card import ModelCard
from esper.forge.phase import PhaseContext
from esper.forge.trainable import Trainable
from esper.tasks.text.corpus import Corpus, Domain
from tests.forge.models import network, tokenizer

FAMILIES = ["copy", "reverse", "complement", "increment"]
BLOCK = 32


def config(**changed) -> BakingConfig:
    budget = {"batch_size": 4, "learning_rate": 0.01}
    given = {
        "families": FAMILIES,
        "levels": [1],
        "min_taught": 0.9,
        "teaching": TrainingBudget(steps=4, **budget),
        "baking": TrainingBudget(steps=4, **budget),
        "half_baking": TrainingBudget(steps=3, **budget),
        "rank": 2,
        "alpha": 4.0,
        "lesson_rows": 4,
        "text_rows": 2,
        "trajectories": 8,
        "max_rounds": 1,
        "candidates": 2,
        "prefix_tokens": 4,
        "selection_problems": 8,
        "selection_windows": 2,
        "test_problems": 8,
        "max_loss": 1.0,
        "stacked": 2,
        "checkpoint_every_steps": 2,
        "min_baked": 0.0,
        "min_unprompted": 0.0,
        "max_unprompted_before": 1.0,
        "max_text_ratio": 10.0,
        "max_task_loss": 1.0,
    }
    return BakingConfig(**given | changed)


def corpus() -> Corpus:
    text = torch.tensor(tokenizer().encode(Path(__file__).read_text(encoding="utf-8")))
    domains = {
        name: Domain(name, stream[:1500], stream[1500:1700], stream[1700:1900])
        for name, stream in {"there": text, "back": text.flip(0)}.items()
    }
    return Corpus(domains=domains, fingerprint="f" * 64, overlap=0.0, tokenizer=tokenizer())


def context(**settings) -> PhaseContext:
    sizes = SimpleNamespace(block_size=BLOCK)
    made = PhaseContext(seed=0, model=sizes, tokenizer_name="bytes", corpus_config=None, **settings)
    made.corpus = corpus()
    return made


def tasks(families=FAMILIES, levels=(1,)) -> PrefixedTasks:
    return PrefixedTasks(families, levels, tokenizer())


def written(folder: Path, ternary: bool) -> Path:
    """A model as an earlier phase leaves it: plain, or packed with its masters beside it."""
    folder.mkdir(parents=True)
    given = {"phase": "cognate", "seed": 0, "data_fingerprint": "f" * 64}
    if not ternary:
        save_language_model(folder / "model", network(), tokenizer(), **given)
        return folder
    source = folder / "source"
    save_language_model(source, network(), tokenizer(), **given)
    card = ModelCard(
        architecture=network().architecture(),
        tokenizer={"name": "bytes", "sha256": tokenizer().sha256},
        quantizer=quantizer_card("int8"),
        **given,
    )
    Trainable(quantize_layers(network()), card, source).save(folder / "model", context(), "bitnet")
    return folder
