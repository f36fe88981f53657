"""The LightningModule: score, reference, objective, sum, log."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from transformers import get_scheduler

from mmsafe.data.collate import Batch
from mmsafe.data.features import FeatureCache
from mmsafe.errors import UserError
from mmsafe.metrics import means, step_metrics
from mmsafe.objectives.base import Objective, Scores
from mmsafe.reference.policies import ReferencePolicy
from mmsafe.scoring import Scoring
from mmsafe.settings import AdamW

START_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}


class PreferenceModule(pl.LightningModule):
    """Trains `policy` with any objective; metrics are averages over an optimiser step, all its micro-batches."""

    def __init__(
        self,
        policy: Any,
        objective: Objective,
        scoring: Scoring,
        reference: ReferencePolicy | None,
        optimizer: AdamW,
        total_steps: int,
        features: FeatureCache | None = None,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.objective = objective
        self.scoring = scoring
        self.reference = reference
        self.options = optimizer
        self.total_steps = total_steps
        self.features = features
        self._gradients: dict[str, Tensor] = {}
        self.strict_loading = False  # checkpoints leave frozen weights out
        self._window: dict[str, list[Tensor]] = defaultdict(list)
        self.latest: dict[str, float] = {}
        self.trained_steps = 0

    def scores(self, batch: Batch) -> dict[str, Scores]:
        """Policy and, where the objective needs them, reference log-probs of every row."""
        batch = self.scoring.with_features(self.policy, batch, self.features)
        policy = self.scoring.log_probs(self.policy, batch)
        if self.reference is None:
            return {name: Scores(*row) for name, row in policy.items()}
        reference = self.reference.log_probs(batch)
        return {name: Scores(*row, reference[name].log_probs) for name, row in policy.items()}

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Loss of one micro-batch."""
        scores = self.scores(batch)
        plain = self.objective(scores)
        terms = {name: batch.weight * term for name, term in plain.items()}
        loss = torch.stack([term.mean() for term in terms.values()]).sum()
        if self.global_step == 0:
            self._check_start(plain)
        group = batch.group.masked_fill(batch.weight == 0, -1)  # repeated for a rank that had no item left
        self._remember(step_metrics(self.objective, group, scores, plain))
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=len(batch))
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Keep the gradient norm before clipping, and the learning rate of this step."""
        gradients = [p.grad for p in self.policy.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        rate = torch.tensor(optimizer.param_groups[0]["lr"])
        once = {"train/grad_norm": norm, "train/learning_rate": rate}
        self._remember({name: torch.stack([v.detach().float(), v.new_ones(())]) for name, v in once.items()})

    def on_train_start(self) -> None:
        """Take up the gradients and metrics of micro-batches whose step a stopped run did not reach."""
        for name, values in self._window.items():
            self._window[name] = [value.to(self.device) for value in values]
        for name, parameter in self.policy.named_parameters():
            if name in self._gradients:
                parameter.grad = self._gradients.pop(name).to(parameter.device)

    def log_step(self, batch_idx: int, timing: Mapping[str, float]) -> bool:
        """Log once an optimiser step is complete, and say whether it is; called before checkpoints are written."""
        if "train/grad_norm" not in self._window:
            return False
        self.trained_steps = self.global_step
        sums = {name: torch.stack(values).sum(0) for name, values in self._window.items()}
        self.latest = means(_over_ranks(sums))
        self.latest["train/epoch"] = self.current_epoch + (batch_idx + 1) / self.trainer.num_training_batches
        self._window.clear()
        if not math.isfinite(self.latest["train/loss"]):
            raise UserError(
                f"step {self.global_step}: the loss is {self.latest['train/loss']}; lower optimizer.lr, or use a "
                "trainer.precision with a wider range"
            )
        if self.global_step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            for logger in self.loggers:
                logger.log_metrics({**self.latest, **timing}, step=self.global_step)
        return True

    def configure_optimizers(self) -> Any:
        """AdamW on what is trained, with a per-step schedule."""
        options = self.options
        optimizer = torch.optim.AdamW(
            [p for p in self.policy.parameters() if p.requires_grad],
            lr=options.lr,
            betas=(options.beta1, options.beta2),
            weight_decay=options.weight_decay,
        )
        warmup = options.warmup_steps if options.warmup_steps >= 1 else options.warmup_steps * self.total_steps
        name = "constant_with_warmup" if options.schedule == "constant" else options.schedule
        schedule = get_scheduler(name, optimizer, int(warmup), self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out the reference and all frozen weights: they come from the model that training starts from."""
        trained = {f"policy.{name}" for name, p in self.policy.named_parameters() if p.requires_grad}
        state = checkpoint["state_dict"]
        for name in [name for name in state if name not in trained]:
            del state[name]
        checkpoint["latest"] = (self.trained_steps, self.latest)
        checkpoint["window"] = dict(self._window)
        if self._window:  # stopped between the micro-batches of a step
            gradients = {name: p.grad for name, p in self.policy.named_parameters() if p.grad is not None}
            checkpoint["gradients"] = gradients

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the metrics of the last step, for a run that was stopped after it."""
        self.trained_steps, self.latest = checkpoint["latest"]
        self._window.update(checkpoint["window"])
        self._gradients = checkpoint.get("gradients", {})

    def _remember(self, metrics: dict[str, Tensor]) -> None:
        for name, value in metrics.items():
            self._window[name].append(value)  # left on its device: no waiting for the GPU

    def _check_start(self, terms: dict[str, Tensor]) -> None:
        """Policy and reference are equal before the first optimiser step, so every term has a known value."""
        precise = torch.is_autocast_enabled(self.device.type)
        dtype = torch.get_autocast_dtype(self.device.type) if precise else self.policy.dtype
        for name, expected in self.objective.start.items():
            found = float(terms[name].detach().mean())
            if not abs(found - expected) <= START_TOLERANCE.get(dtype, 1e-4) * max(1.0, expected):  # NaN too
                raise UserError(
                    f"step 0: the {name} term is {found:.6f} instead of {expected:.6f}, so the reference is not the "
                    "model that training starts from; check model.path and reference"
                )


def _over_ranks(sums: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sums and counts of all ranks together; a rank whose batch was of one group only may lack some."""
    if not torch.distributed.is_initialized():
        return sums
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, {name: value.cpu() for name, value in sums.items()})
    names = dict.fromkeys(name for own in found for name in own)
    return {name: torch.stack([own[name] for own in found if name in own]).sum(0) for name in names}
