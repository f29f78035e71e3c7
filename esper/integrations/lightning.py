"""A callback that lets a network grow under Lightning's Trainer."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from esper.api.grower import Grower
from esper.api.scores import Number
from esper.errors import ConfigError, EsperError

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise EsperError("the package lightning is not installed\n  pip install 'esper[lightning]'") from error


class GrowthCallback(Callback):
    """Plants seeds in a network of a LightningModule, at the end of each epoch that was validated.

    Checkpoints hold the growth, and a Trainer goes on from one (`ckpt_path=`) as if it had not stopped, where it was
    saved at the end of an epoch.

    Args:
        network: the attribute of the module that grows, such as "net".
        slots: slot name -> path of a submodule in that network.
        example: an input [B, ...] of that network.
        evaluate: gives what is monitored of the network it is handed, as `Grower.end_epoch` asks for it.
        monitor: the logged figure that decides; it grows.
        scale: points that one of what is monitored is worth: 100 for an accuracy of 0 to 1; -1 for a loss.
        options: as for `esper.Grower`: policy (a rule), epochs, gates, governor, first_plant_epoch, ...

    Raises: ConfigError where the module has no such network, or more than one optimizer.
    """

    def __init__(
        self,
        network: str,
        slots: Mapping[str, str],
        example: Tensor,
        evaluate: Callable[[nn.Module], Number],
        monitor: str = "val_acc",
        scale: float = 100.0,
        **options: Any,
    ) -> None:
        self.network, self.slots, self.example, self.options = network, slots, example, options
        self.evaluate, self.monitor, self.scale = evaluate, monitor, scale
        self.grower: Grower | None = None
        self._steps = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put slots into the network, before a checkpoint is read."""
        if stage != "fit" or self.grower is not None:
            return
        try:
            network = pl_module.get_submodule(self.network)
        except AttributeError as error:
            known = ", ".join(name for name, _ in pl_module.named_children())
            raise ConfigError(f"network={self.network!r}: the module has no such submodule; it has {known}") from error
        self.grower = Grower(network, self.slots, self.example, **self.options)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the seeds join the optimizer, before its state is read."""
        if len(trainer.optimizers) != 1:
            raise ConfigError(f"GrowthCallback: expected one optimizer, and this module has {len(trainer.optimizers)}")
        assert self.grower is not None
        self.grower.optimizer = trainer.optimizers[0]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count steps from where training goes on."""
        self._steps = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A step, unless gradients are still accumulated."""
        if trainer.global_step != self._steps:
            self._steps = trainer.global_step
            assert self.grower is not None
            self.grower.step()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide, by what validation has said of this epoch."""
        score = trainer.callback_metrics.get(self.monitor)
        if score is None:
            known = ", ".join(trainer.callback_metrics)
            raise ConfigError(f"monitor={self.monitor!r}: validation logged nothing of that name; known: {known}")
        assert self.grower is not None
        self.grower.end_epoch(self.scale * float(score), lambda network: self.scale * float(self.evaluate(network)))

    def state_dict(self) -> dict[str, Any]:
        """What of the growth is neither in the module's state nor in the optimizer's."""
        return {} if self.grower is None else self.grower.growth_state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        if self.grower is not None and state_dict:
            self.grower.load_growth_state(state_dict)
