"""Discovery: how many kinds of text there are for a model, and which prefix is of which kind."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from esper.errors import ForgeError
from esper.forge.experts.router import mean_features
from esper.forge.lessons import Lesson
from esper.tasks.task import named_generator
from esper.tasks.text.corpus import Corpus
from esper.tasks.text.tokenizer import Tokenizer
from esper.tasks.text.windows import draw_windows

_COMPONENTS = 3


@dataclass(frozen=True, slots=True)
class Prefixes:
    """First tokens of texts, [n] each, and what each was taken from: a domain's name, or that of a lesson."""

    tokens: list[Tensor]
    sources: list[str]


@dataclass(frozen=True, slots=True)
class Clusters:
    """labels: of each prefix, [N] int64. silhouettes: by how many clusters were asked for."""

    labels: Tensor
    silhouettes: dict[int, float]

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.labels.max()) + 1


def draw_prefixes(
    corpus: Corpus, lessons: Sequence[Lesson], tokenizer: Tokenizer, count: int, length: int, seed: int
) -> Prefixes:
    """First tokens of `count` windows of each domain's validation text, and of as many prompts of each lesson."""
    generator = named_generator(seed, "experts/prefixes")
    tokens: list[Tensor] = []
    sources: list[str] = []
    for name, domain in corpus.domains.items():
        tokens += draw_windows(domain.val, count, length, generator)[0].unbind()
        sources += [name] * count
    for lesson in lessons:
        prompts = [lesson.prompt(problem) for problem in lesson.problems(count, generator)]
        tokens += [torch.tensor(tokenizer.encode(prompt)[:length]) for prompt in prompts]
        sources += [lesson.name] * count
    return Prefixes(tokens, sources)


def check_enough(most: int, prefixes: int) -> None:
    """Raise ForgeError where more experts may be asked for than there are prefixes to discover them from."""
    if most >= prefixes:
        raise ForgeError(
            f"experts.max_experts={most}: there are {prefixes} prefixes to discover experts from\n"
            "  take fewer experts, or more experts.prefixes"
        )


def discover(base: Any, prefixes: Sequence[Tensor], most: int, seed: int) -> Clusters:
    """K-means on directions of mean features, for the number of clusters from 2 to `most` whose silhouette is highest.

    Directions from the mean of all, in their few principal components: as they are, a few odd texts are a cluster each.
    Source: Rousseeuw 1987, "Silhouettes: a graphical aid to the interpretation and validation of cluster analysis".
    Args: base: has `features`. prefixes: [n] tokens each. Raises: ForgeError where there are too few.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.metrics import silhouette_score

    check_enough(most, len(prefixes))
    features = mean_features(base, prefixes)
    directions = torch.nn.functional.normalize(features - features.mean(0), dim=1).numpy()
    features = PCA(min(_COMPONENTS, *directions.shape), random_state=seed).fit_transform(directions)
    found = {
        count: KMeans(count, n_init=4, random_state=seed).fit_predict(features).tolist() for count in range(2, most + 1)
    }
    silhouettes = {
        count: float(silhouette_score(features, labels)) for count, labels in found.items() if len(set(labels)) == count
    }
    if not silhouettes:
        raise ForgeError("experts: all prefixes are alike to the model, and no experts follow from them")
    return Clusters(torch.tensor(found[max(silhouettes, key=silhouettes.__getitem__)]), silhouettes)
