"""What a model's card is asked before the model is worked on."""

import pytest
from tokenizers import Tokenizer, models

from esper.checkpoint.bundle import amend_metadata
from esper.errors import CheckpointError, ForgeError
from esper.forge.bundles import load_language_model, save_language_model
from esper.forge.card import MOST_LESSONS
from esper.tasks.text.tokenizer import get_tokenizer
from tests.forge.models import network, tokenizer


def test_a_model_that_reads_by_another_tokenizer_is_refused_with_what_would_do(tmp_path):
    file = tmp_path / "tokens.json"
    made = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="</s>"))
    made.add_special_tokens(["</s>"])
    made.save(str(file))
    save_language_model(tmp_path / "model", network(), tokenizer(), phase="cognate", seed=0, data_fingerprint="f")
    card = load_language_model(tmp_path).card
    card.check_tokenizer(tokenizer(), "bitnet: model")
    with pytest.raises(ForgeError, match=r"^bitnet: model reads by .* bytes, .*tokens\.json\n.*tokenizer=bytes$"):
        card.check_tokenizer(get_tokenizer(str(file)), "bitnet: model")


def test_a_card_with_more_lessons_than_could_ever_be_measured_is_refused(tmp_path):
    save_language_model(tmp_path / "model", network(), tokenizer(), phase="cognate", seed=0, data_fingerprint="f")
    lesson = {"phase": "x", "families": {"copy": [1]}, "style": "answer"}
    amend_metadata(tmp_path / "model", lessons=[lesson] * (MOST_LESSONS + 1))
    with pytest.raises(CheckpointError, match=f"has {MOST_LESSONS + 1} lessons; at most {MOST_LESSONS} are read"):
        load_language_model(tmp_path)
