"""Phase 2 from end to end: the champion is the merge that its record says, and scores what it says."""

import pytest
import torch

from esper import load_language_model
from esper.errors import EsperError
from esper.forge import run_phase
from tests.e2e.forge_runs import corpus_of, forge, result

pytestmark = pytest.mark.timeout(1200)
DOMAINS = ("cpp", "prose", "python")


@pytest.fixture(scope="module")
def metrics(nano_run):
    return result(nano_run, "evomerge")["result"]["metrics"]


def test_the_champion_is_the_trunk_and_weighted_differences_to_it(nano_run, metrics):
    parents = {
        name: load_language_model(nano_run / "1-cognate" / name).host.state_dict() for name in ("model", *DOMAINS)
    }
    champion = load_language_model(nano_run / "2-evomerge").host.state_dict()

    def group(name):
        parts = name.split(".")
        if parts[0] != "layers":
            return "embedding" if parts[0] == "embedding" else "head"
        return f"layers.{parts[1]}.{parts[2].removesuffix('_norm')}"

    for name, tensor in champion.items():
        trunk = parents["model"][name]
        merged = trunk + sum(
            metrics[f"weight/{domain}/{group(name)}"] * (parents[domain][name] - trunk) for domain in DOMAINS
        )
        torch.testing.assert_close(tensor, merged, rtol=0, atol=2e-6, msg=name)


def test_it_is_better_than_trunk_and_soup_on_text_that_chose_nothing(nano_run, metrics):
    from tests.e2e.forge_runs import bits_per_byte

    corpus, length = corpus_of(nano_run)
    trunk, champion = (load_language_model(nano_run / each) for each in ("1-cognate", "2-evomerge"))
    for domain in DOMAINS:
        text = corpus.domains[domain].test
        assert bits_per_byte(champion, text, length) < bits_per_byte(trunk, text, length)
    assert metrics["bits_below_soup"] >= 0


def test_searches_and_their_control_had_as_many_evaluations(metrics):
    searched = {name for name in metrics if name.startswith("cma_es_") and name.endswith("/val")}
    control = {name for name in metrics if name.startswith("random_") and name.endswith("/val")}
    assert len(searched) == len(control) == 3


@pytest.mark.parametrize("given", ["4-bitnet", "2-evomerge"])
def test_an_input_without_specialists_is_refused(nano_run, tmp_path, given):
    done = forge(tmp_path, "size=nano", "phase=evomerge", f"input={nano_run / given}", "hydra.run.dir=run")
    assert done.code == 2
    assert len(done.err.splitlines()) <= 2
    assert not (tmp_path / "run").exists()
    with pytest.raises(EsperError):
        run_phase("evomerge", nano_run / given, tmp_path / "out", ["size=nano"])
    assert not (tmp_path / "out").exists()
