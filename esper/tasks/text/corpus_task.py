"""A corpus as one task: the domains that the forge trains on, to grow a trunk on."""

import torch

from esper.tasks.settings import TASKS, CorpusTaskConfig
from esper.tasks.task import Task
from esper.tasks.text.corpus import build_corpus
from esper.tasks.text.tokenizer import get_tokenizer
from esper.tasks.text.windows import build_streams_task


@TASKS.register("corpus", CorpusTaskConfig)
def build_corpus_task(settings: CorpusTaskConfig, device: torch.device, dtype: torch.dtype, split_seed: int) -> Task:
    """All domains as a task, by the splits that `build_corpus` makes: what the forge tests on is not trained on."""
    corpus = build_corpus(settings.corpus_config(), get_tokenizer(settings.tokenizer), split_seed)
    streams = [(domain.train, domain.val, domain.test) for domain in corpus.domains.values()]
    task = build_streams_task(settings, streams, device, corpus.tokenizer)
    if settings.val_windows is not None:
        kept = torch.linspace(0, len(task.val_x) - 1, min(settings.val_windows, len(task.val_x))).long().to(device)
        task.val_x, task.val_y = task.val_x[kept], task.val_y[kept]
    return task
