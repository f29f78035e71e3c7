"""Kinds of text that were planted are found, and the router knows them by the prefix alone."""

import pytest
import torch

from esper.errors import ForgeError
from esper.forge.bundles import load_language_model
from esper.forge.experts.discovery import discover, draw_prefixes
from esper.forge.experts.kinds import Dealer, kinds_of
from esper.forge.experts.router import fit_router, mean_features
from esper.tasks.task import named_generator

STAGES = (4, 8)


class Planted:
    """Features that are those of the first token's group, and a little noise."""

    def __init__(self, groups: int, width: int = 12) -> None:
        self.centres = 3 * torch.randn(groups, width, generator=named_generator(0, "centres"))

    def features(self, tokens):
        noise = torch.randn(*tokens.shape, self.centres.shape[1], generator=named_generator(0, "noise"))
        return self.centres[tokens] + 0.3 * noise


@pytest.mark.parametrize("groups", [2, 3, 4])
def test_as_many_as_were_planted(groups):
    planted = [place % groups for place in range(60)]
    found = discover(Planted(groups), [torch.full((8,), group) for group in planted], most=6, seed=0)
    assert found.count == groups == max(found.silhouettes, key=found.silhouettes.__getitem__)
    pairs = set(zip(planted, found.labels.tolist(), strict=True))
    assert len(pairs) == groups


def test_more_experts_than_prefixes_are_refused():
    with pytest.raises(ForgeError, match=r"experts\.max_experts=6: there are 6 prefixes") as refused:
        discover(Planted(2), [torch.full((8,), place % 2) for place in range(6)], most=6, seed=0)
    assert len(str(refused.value).splitlines()) == 2


def test_mean_features_of_prefixes_of_many_lengths(plain):
    base = load_language_model(plain).host
    prefixes = [torch.arange(length) + 60 for length in (3, 8, 3, 5)]
    found = mean_features(base, prefixes)
    for prefix, mean in zip(prefixes, found, strict=True):
        assert torch.allclose(mean, base.features(prefix[None]).mean(1)[0], atol=1e-6)


@pytest.fixture(scope="module")
def dealt(corpus, plain, lesson):
    base = load_language_model(plain).host
    prefixes = draw_prefixes(corpus, [lesson], corpus.tokenizer, 40, STAGES[-1], seed=0)
    clusters = discover(base, prefixes.tokens, 3, seed=0)
    router = fit_router(base, prefixes.tokens, clusters.labels, STAGES)
    return base, prefixes, clusters, router, kinds_of(clusters, prefixes, [lesson])


def test_prefixes_are_of_validation_text_and_of_prompts(corpus, dealt):
    _, prefixes, *_ = dealt
    assert len(prefixes.tokens) == 120 and {len(prefix) for prefix in prefixes.tokens} == {STAGES[-1]}
    text = bytes(corpus.domains["digits"].val.tolist())
    taken = [prefix for prefix, source in zip(prefixes.tokens, prefixes.sources, strict=True) if source == "digits"]
    assert all(bytes(prefix.tolist()) in text for prefix in taken)


def test_the_router_knows_what_was_found(dealt):
    base, prefixes, clusters, router, _ = dealt
    found = router(mean_features(base, prefixes.tokens)[:, None])
    assert (found == clusters.labels).float().mean() > 0.9


def test_windows_are_dealt_by_their_prefix_alone(corpus, dealt):
    base, _, _, router, kinds = dealt
    dealer = Dealer(base, router, corpus.tokenizer, STAGES[-1])
    streams = [domain.train for domain in corpus.domains.values()]
    x, y, numbers = dealer.windows(streams, 32, 20, named_generator(0, "windows"))
    assert torch.equal(x[:, 1:], y[:, :-1]) and int(numbers.max()) < len(kinds)
    changed = x.clone()
    changed[:, STAGES[-1] :] = 7
    assert torch.equal(dealer.kinds(changed), numbers)
    changed = x.flip(0)
    assert torch.equal(dealer.kinds(changed), numbers.flip(0)) and len(numbers.unique()) > 1


def test_problems_of_a_kind_are_of_that_kind(corpus, dealt, lesson):
    base, _, _, router, kinds = dealt
    dealer = Dealer(base, router, corpus.tokenizer, STAGES[-1])
    found = [dealer.problems(kind, lesson, 6, named_generator(0, "problems")) for kind in kinds]
    for kind, problems in zip(kinds, found, strict=True):
        for problem in problems:
            prefix = torch.tensor(corpus.tokenizer.encode(lesson.prompt(problem))[: STAGES[-1]])
            assert int(router(base.features(prefix[None]))) == kind.number
    assert sum(map(len, found)) >= 6
