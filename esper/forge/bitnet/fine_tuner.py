"""Training of a quantised language model beside the model that it was, its teacher."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from esper.checkpoint import Checkpoint, read_bundle, restoring, write_bundle
from esper.checkpoint.bundle import bundle_paths
from esper.errors import DivergedError, ForgeError
from esper.forge.bitnet.config import BitnetConfig
from esper.forge.bitnet.distillation import distillation_loss
from esper.forge.bitnet.optimizers import GradientFilter, Muon, even_gradients
from esper.forge.bitnet.quantizer import LAYERS, quantized_layers, set_strength
from esper.forge.bitnet.wandb_log import wandb_log
from esper.forge.phase import Interrupted, nothing
from esper.forge.training import BETAS, WARMUP_SHARE, Batches
from esper.forge.training_state import TrainingState, by_prefix
from esper.simic.on_policy.schedules import schedule

FINAL_RATE_SHARE = 0.02
CHECKPOINT = "fine_tuning"
KEPT = 0.99  # of the likelihood, with which there is nothing to win back
_SMALLER = "try a smaller bitnet.learning_rate"


class FineTuner:
    """Trains a network, quantised or plain, on text and on what its teacher says of it.

    It keeps a copy of the weights of the best epoch, by perplexity on validation; only epochs with the quantiser at
    full strength count. A run that is interrupted and goes on from its checkpoint ends bit for bit where it would have.

    Args:
        model: trained in place. teacher: left as it is; [B, T] -> logits [B, T, V].
        batches: what is trained on. validate: network -> mean nats a token on the validation split.
        use_mixed_precision: bfloat16 where the device gains by it, which is CUDA's: on CPUs it takes longer.
        wandb_enabled: log each epoch to Weights & Biases, too, which keeps its files in `checkpoint_dir`.
        save_every_n_epochs, checkpoint_dir: where there is a folder, a checkpoint `fine_tuning` is kept in it.
    """

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module,
        batches: Batches,
        validate: Callable[[nn.Module], float],
        config: BitnetConfig,
        *,
        use_mixed_precision: bool = True,
        max_grad_norm: float = 1.0,
        wandb_enabled: bool = False,
        save_every_n_epochs: int = 1,
        checkpoint_dir: str | Path | None = None,
    ) -> None:
        self.model, self.teacher, self.batches = model, teacher, batches
        self.use_mixed_precision, self.max_grad_norm = use_mixed_precision, max_grad_norm
        self.wandb_enabled, self.save_every_n_epochs = wandb_enabled, save_every_n_epochs
        self.checkpoint_dir = None if checkpoint_dir is None else Path(checkpoint_dir)
        self.current_epoch = 0
        self.best_perplexity: float | None = None
        self.training_history: list[dict[str, float]] = []
        self.gradient_norms: dict[str, float] = {}
        self._validate, self._config, self._step = validate, config, 0
        self._parameters = dict(model.named_parameters())
        self._hidden = [p for name, p in self._parameters.items() if name.startswith(LAYERS) and p.dim() == 2]
        self._optimizers = self._build_optimizers()
        self._state = TrainingState(self._parameters, self._optimizers, batches.generator)
        self._filter = GradientFilter(self._parameters) if config.grokfast else None
        self._best: dict[str, Tensor] = {}
        self._sums: dict[str, float] = {}
        self._device = next(iter(self._parameters.values())).device
        self._steps = config.epochs * config.steps_per_epoch
        rate = config.learning_rate
        self._rate = schedule(
            "warmup_cosine", rate, FINAL_RATE_SHARE * rate, self._steps, int(WARMUP_SHARE * self._steps)
        )

    def _build_optimizers(self) -> list[torch.optim.Optimizer]:
        config, parameters = self._config, list(self._parameters.values())
        optimizers: list[torch.optim.Optimizer] = []
        if config.optimizer == "muon":
            optimizers.append(Muon(self._hidden, config.learning_rate, config.weight_decay))
            hidden = set(self._hidden)
            parameters = [parameter for parameter in parameters if parameter not in hidden]
        decay = config.weight_decay
        return [*optimizers, torch.optim.AdamW(parameters, config.learning_rate, BETAS, weight_decay=decay, fused=True)]

    def should_fine_tune(self, before: float, after: float) -> bool:
        """Whether quantising has cost a hundredth of a token's likelihood, or more.

        Args: before, after: perplexity before and after quantising.
        """
        return not before / after > KEPT

    def train(
        self,
        log: Callable[..., None] = nothing,
        progress: Callable[[int, int, str], None] = nothing,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, float]:
        """Train from wherever it is to the last epoch, and leave the best weights in the model.

        Args: log: gets (step, **figures) after each epoch; progress: (done, total, what), now and then; should_stop: is
        asked after each step. Returns: figures of it all. Raises: Interrupted, once a checkpoint is written, where that
        is asked for; DivergedError where no epoch has a finite perplexity.
        """
        config = self._config
        self.teacher.eval()
        with wandb_log(self.wandb_enabled, vars(config), self.checkpoint_dir) as log_epoch:
            while self.current_epoch < config.epochs:
                self.model.train()
                while self._step < (self.current_epoch + 1) * config.steps_per_epoch:
                    self._one_step()
                    if self._step % 10 == 0:
                        progress(self._step, self._steps, "fine-tuning")
                    if should_stop():
                        self._save()
                        raise Interrupted(CHECKPOINT)
                figures = self._end_epoch()
                log_epoch(self._step, figures)
                log(self._step, **figures)
                if self.current_epoch % self.save_every_n_epochs == 0 or self.current_epoch == config.epochs:
                    self._save()
        if self.best_perplexity is None:
            raise DivergedError(f"bitnet: no epoch left a finite perplexity\n  {_SMALLER}")
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(self._best[name])
        self.model.eval()
        return {"steps": self._step, "epochs": self.current_epoch, "best_perplexity": self.best_perplexity}

    def _one_step(self) -> None:
        config = self._config
        ramp = config.quantize_share * self._steps
        set_strength(self.model, min(1.0, (self._step + 1) / ramp) if ramp else 1.0)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._rate(self._step)
        tokens, targets = (drawn.to(self._device) for drawn in self.batches.draw())
        mixed = self.use_mixed_precision and self._device.type == "cuda"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=mixed):
            with torch.no_grad():
                wanted = self.teacher(tokens) if config.distill else None
            logits = self.model(tokens)
        # The cross-entropy alone needs no teacher; the divergence from itself is nothing.
        wanted = logits.detach() if wanted is None else wanted
        loss, cross_entropy, divergence = distillation_loss(logits, wanted, targets, config.distill)
        if not loss.isfinite():
            raise DivergedError(f"bitnet: the loss is {loss.item()} at step {self._step}\n  {_SMALLER}")
        for parameter in self._parameters.values():
            parameter.grad = None
        loss.backward()
        norms = self._note_gradients()
        if self._filter is not None:
            self._filter.apply()
        if config.even_gradients:
            even_gradients(self._hidden)
        nn.utils.clip_grad_norm_(self._parameters.values(), self.max_grad_norm)
        for optimizer in self._optimizers:
            optimizer.step()
        self._step += 1
        parts = {"loss": loss, "cross_entropy": cross_entropy, "divergence": divergence}
        for name, value in ({key: part.item() for key, part in parts.items()} | norms).items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def _note_gradients(self) -> dict[str, float]:
        """The root mean square of every quantised layer's gradient: how unevenly they reach the layers."""
        named = [(name, layer.weight.grad) for name, layer in quantized_layers(self.model)]
        found = [(name, grad) for name, grad in named if grad is not None]
        if not found:
            return {}
        sizes = torch.stack([grad.square().mean().sqrt() for _, grad in found]).tolist()
        return {f"gradient/{name}": size for (name, _), size in zip(found, sizes, strict=True)}

    def _end_epoch(self) -> dict[str, float]:
        count = self._config.steps_per_epoch
        means = {name: total / count for name, total in self._sums.items()}
        prefix = "gradient/"
        self.gradient_norms = {name.removeprefix(prefix): size for name, size in means.items() if prefix in name}
        strengths = [layer.strength for _, layer in quantized_layers(self.model)]
        self.model.eval()
        nats = self._validate(self.model)
        figures = {name: size for name, size in means.items() if prefix not in name}
        if norms := self.gradient_norms.values():
            figures["gradient_spread"] = max(norms) / max(min(norms), 1e-30)
        figures |= {"strength": min(strengths, default=1.0), "perplexity": math.exp(min(nats, 700.0))}
        is_whole = figures["strength"] == 1.0 or self.current_epoch + 1 == self._config.epochs
        if is_whole and math.isfinite(nats) and figures["perplexity"] < (self.best_perplexity or math.inf):
            self.best_perplexity = figures["perplexity"]
            self._best = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self.training_history.append({"step": self._step, **figures})
        self.current_epoch += 1
        self._sums = {}
        return figures

    # ---- what is kept

    def _save(self) -> None:
        if self.checkpoint_dir is not None:
            self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
            self.save_checkpoint(self.checkpoint_dir / CHECKPOINT)

    def resume(self) -> bool:
        """Go on from the checkpoint in `checkpoint_dir`, where there is one; whether there was."""
        if self.checkpoint_dir is None or not bundle_paths(self.checkpoint_dir / CHECKPOINT)[1].exists():
            return False
        self.load_checkpoint(self.checkpoint_dir / CHECKPOINT)
        return True

    def save_checkpoint(self, path: str | Path) -> None:
        """Write all that training needs to go on: PATH.safetensors and PATH.json."""
        tensors = self._state.tensors()
        tensors |= {f"best.{name}": weight for name, weight in self._best.items()}
        tensors |= {f"filter.{name}": mean for name, mean in (self._filter.means if self._filter else {}).items()}
        state = {
            "step": self._step,
            "best": self.best_perplexity,
            "history": self.training_history,
            "sums": self._sums,
            "gradients": self.gradient_norms,
        }
        write_bundle(path, Checkpoint(tensors=tensors, kind=CHECKPOINT, epoch=self.current_epoch, state=state))

    def load_checkpoint(self, path: str | Path) -> None:
        """Take over what `save_checkpoint` wrote. Raises: CheckpointError where it is none of this training's."""
        checkpoint = read_bundle(path, device=self._device)
        with restoring(checkpoint):
            if checkpoint.kind != CHECKPOINT:
                raise ForgeError(f"{path} is a checkpoint of {checkpoint.kind}, not of {CHECKPOINT}")
            self._state.restore(checkpoint.tensors)
            if self._filter is not None:
                self._filter.means = by_prefix(checkpoint.tensors, "filter.")
            self._best = by_prefix(checkpoint.tensors, "best.")
            kept = checkpoint.state
            self._step, self.current_epoch = int(kept["step"]), int(checkpoint.epoch or 0)
            self.best_perplexity, self.training_history = kept["best"], list(kept["history"])
            self._sums, self.gradient_norms = dict(kept["sums"]), dict(kept["gradients"])
