"""A callback that lets a model grow under the Hugging Face Trainer."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from esper.api.grower import Grower
from esper.api.scores import Number
from esper.errors import ConfigError, EsperError

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise EsperError("the package transformers is not installed\n  pip install 'esper[transformers]'") from error


class GrowthCallback(TrainerCallback):
    """Plants seeds in the Trainer's model, after each evaluation; use `eval_strategy="epoch"`.

    Seeds are in no checkpoint of the Trainer's, whose format has no place for them: use `save_strategy="no"`; what
    `callback.grower.state_dict()` gives has everything.

    Args:
        slots: slot name -> path of a submodule in the model.
        example: an input [B, ...] that the model takes as its only argument, such as token ids [B, T].
        evaluate: gives what is monitored of the model it is handed, as `Grower.end_epoch` asks for it.
        monitor: the figure of `compute_metrics` that decides, with the Trainer's prefix; it grows.
        scale: points that one of what is monitored is worth: 100 for an accuracy of 0 to 1; -1 for a loss.
        options: as for `esper.Grower`: policy (a rule), epochs, gates, governor, first_plant_epoch, ...
    """

    def __init__(
        self,
        slots: Mapping[str, str],
        example: Tensor,
        evaluate: Callable[[nn.Module], Number],
        monitor: str = "eval_accuracy",
        scale: float = 100.0,
        **options: Any,
    ) -> None:
        self.slots, self.example, self.options = slots, example, options
        self.evaluate, self.monitor, self.scale = evaluate, monitor, scale
        self.grower: Grower | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Put slots into the model. Raises: ConfigError where the Trainer would save it, or has."""
        if args.save_strategy != "no" or state.global_step:
            raise ConfigError('GrowthCallback: the Trainer\'s checkpoints hold no seeds; use save_strategy="no"')
        if self.grower is None:
            self.grower = Grower(given["model"], self.slots, self.example, **self.options)
        self.grower.optimizer = given["optimizer"]

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """A step; gradients are still there."""
        assert self.grower is not None
        self.grower.step()

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Decide, by what evaluation has said."""
        metrics: Mapping[str, float] = given["metrics"]
        if self.grower is None:  # nothing was trained yet
            return
        if self.monitor not in metrics:
            raise ConfigError(f"monitor={self.monitor!r}: evaluation has no such figure, but {', '.join(metrics)}")
        score = self.scale * float(metrics[self.monitor])
        self.grower.end_epoch(score, lambda model: self.scale * float(self.evaluate(model)))
