"""`GrowthCallback` under the Hugging Face Trainer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper.errors import ConfigError
from esper.leyline import GateConfig

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of others, to themselves
IDS = torch.randint(0, 20, (64, 6), generator=torch.Generator().manual_seed(0))
LABELS = (IDS[:, 0] > 9).long()
DATA = [{"input_ids": ids, "labels": label} for ids, label in zip(IDS, LABELS, strict=True)]
OPEN = GateConfig(min_training_improvement=-100, min_gradient_ratio=0, min_contribution=-100)
EPOCHS = {"plant_epochs": [2], "blend_epochs": [3], "fossilize_epochs": [5], "blending_epochs": 1}
TIMETABLE = {"policy": "scheduled", "blueprints": ["lora"], **EPOCHS}
SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}


def accuracy(model: nn.Module) -> Tensor:
    return (model(IDS[32:]).logits.argmax(1) == LABELS[32:]).float().mean()


def train(folder: Path, monitor: str = "eval_accuracy", save: str = "no") -> Any:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from esper.integrations.transformers import GrowthCallback

    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=20, max_position_embeddings=8, num_labels=2, **SIZES)
    slots = {"mid": "bert.encoder.layer.0"}
    growing = GrowthCallback(slots, IDS[:1], accuracy, monitor, gates=OPEN, **TIMETABLE)
    quiet = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "logging_strategy": "no"}
    trainer = transformers.Trainer(
        model=transformers.BertForSequenceClassification(config),
        args=transformers.TrainingArguments(
            str(folder), num_train_epochs=5, eval_strategy="epoch", save_strategy=save, learning_rate=1e-2, **quiet
        ),
        train_dataset=DATA[:32],
        eval_dataset=DATA[32:],
        compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())},
        callbacks=[growing],
    )
    trainer.train()
    return growing


def test_a_model_grows_at_each_evaluation(tmp_path: Path) -> None:
    growing = train(tmp_path)
    report = growing.grower.report
    assert report.epoch == 5 and report.slots["mid"].stage.name == "FOSSILIZED"
    assert report.val_accuracy == pytest.approx(100 * float(accuracy(growing.grower.model.eval())))
    seed = growing.grower.slots["mid"].seed
    assert all(parameter in growing.grower.optimizer.state for parameter in seed.parameters())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"save": "epoch"}, 'use save_strategy="no"'),
        ({"monitor": "eval_acc"}, "evaluation has no such figure, but eval_loss"),
    ],
)
def test_mistakes_are_answered(given: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        train(tmp_path, **given)
    assert message in str(raised.value)
