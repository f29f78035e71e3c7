"""`GrowthCallback` under Lightning's own Trainer."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from esper.errors import ConfigError
from esper.leyline import GateConfig

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of others, to themselves
X = torch.randn(96, 1, 6, 6, generator=torch.Generator().manual_seed(0))
Y = (X.mean((1, 2, 3)) > 0).long()
OPEN = GateConfig(min_training_improvement=-100, min_gradient_ratio=0, min_contribution=-100)
TIMETABLE = {
    "policy": "scheduled",
    "plant_epochs": [2],
    "blend_epochs": [3],
    "fossilize_epochs": [5],
    "blending_epochs": 1,
}


def classifier(optimizers: int = 1) -> Any:
    """A LightningModule; the library is loaded by the first test that needs it."""
    lightning = pytest.importorskip("lightning")

    class Classifier(lightning.LightningModule):
        def __init__(self, optimizers: int = 1) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)
            )
            self.optimizers_made, self.automatic_optimization = optimizers, optimizers == 1

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: list[Tensor], index: int) -> None:
            self.log("val_acc", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            return [torch.optim.AdamW(self.parameters(), 0.01) for _ in range(self.optimizers_made)]

    return Classifier(optimizers)


def accuracy(net: nn.Module) -> Tensor:
    return (net(X[64:]).argmax(1) == Y[64:]).float().mean()


def callback(**changes: Any) -> Any:
    pytest.importorskip("lightning")
    from esper.integrations.lightning import GrowthCallback

    given = {"network": "net", "slots": {"mid": "1"}, "example": X[:1], "evaluate": accuracy, "gates": OPEN}
    return GrowthCallback(**given | TIMETABLE | changes)


def fit(epochs: int, growing: Any, checkpoint: Path | None = None, **changes: Any) -> Any:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    module = classifier(changes.pop("optimizers", 1))
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = pytest.importorskip("lightning").Trainer(
        max_epochs=epochs, callbacks=[growing], accelerator="cpu", num_sanity_val_steps=1, **quiet, **changes
    )
    loaders = (DataLoader(TensorDataset(X[rows], Y[rows]), 16) for rows in (slice(64), slice(64, 96)))
    trainer.fit(module, *loaders, ckpt_path=checkpoint)
    return module, trainer


def test_a_network_grows_and_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole, first, second = callback(), callback(), callback()
    module, _ = fit(5, whole)
    assert whole.grower.report.slots["mid"].stage.name == "FOSSILIZED"
    assert whole.grower.report.val_accuracy == pytest.approx(100 * float(accuracy(module.net.eval())))
    _, trainer = fit(2, first)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again, _ = fit(5, second, tmp_path / "a.ckpt")
    for one, other in zip(module.state_dict().values(), again.state_dict().values(), strict=True):
        assert not isinstance(one, Tensor) or torch.equal(one, other)
    assert second.state_dict()["log"] == whole.state_dict()["log"]
    assert second.grower.report.slots == whole.grower.report.slots


def test_accumulated_gradients_are_one_step() -> None:
    growing, steps = callback(), []
    growing.on_train_epoch_end = lambda trainer, module: steps.append(growing.grower.growth_state()["steps"])
    fit(1, growing, accumulate_grad_batches=2)
    assert steps == [2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "body"}, "network='body': the module has no such submodule; it has net"),
        ({"monitor": "val_acuracy"}, "monitor='val_acuracy': validation logged nothing of that name; known: val_acc"),
        ({"policy": "ppo"}, "name the run that it has learned in"),
        ({"optimizers": 2}, "expected one optimizer, and this module has 2"),
    ],
)
def test_mistakes_are_answered(changes: dict, message: str) -> None:
    optimizers = changes.pop("optimizers", 1)
    with pytest.raises(ConfigError) as raised:
        fit(1, callback(**changes), optimizers=optimizers)
    assert message in str(raised.value)
