"""The LightningModule: score, reference, objective, sum, log."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from mmsafe.core.errors import UserError
from mmsafe.core.precision import forward_dtype
from mmsafe.core.ranks import gathered
from mmsafe.objectives.base import Scores, Terms
from mmsafe.scoring.collate import Batch
from mmsafe.scoring.slices import Slice
from mmsafe.training.metrics import means, over_ranks, step_metrics
from mmsafe.training.optimizers.optimizer import Optimizer
from mmsafe.training.recipe import Loss
from mmsafe.training.strategies.parallel import Parallel

START_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}


class PreferenceModule(pl.LightningModule):
    """Trains `policy` with any objective; metrics are averages over an optimiser step, all its micro-batches.

    `policy` is a model, or a function that loads one once the processes know each other, each its part of the weights.
    """

    def __init__(
        self,
        policy: nn.Module | Callable[[], nn.Module],
        loss: Loss,
        optimizer: Optimizer,
        total_steps: int,
        parallel: Parallel,
        slices: Sequence[Slice] = (),
    ) -> None:
        super().__init__()
        self.load = None if isinstance(policy, nn.Module) else policy
        self.policy: Any = None if self.load else policy
        self.parallel = parallel
        self.objective = loss.objective
        self.scoring = loss.scoring
        self.reference = loss.reference
        self.features = loss.features
        self.start = loss.objective.start if loss.starts_equal else {}
        self.options = optimizer
        self.total_steps = total_steps
        self.slices = slices
        self.strict_loading = False  # checkpoints leave frozen weights out
        self._window: dict[str, list[Tensor]] = defaultdict(list)
        self._once: dict[str, Any] = {}
        self._unread: tuple[dict[str, list[Tensor]], dict[str, Any]] | None = None
        self.latest: dict[str, float] = {}
        self.weights: dict[str, Tensor] | None = None
        """Those of a policy that was trained in parts, on the first process."""
        self.trained_steps = 0
        self._ended = False

    def setup(self, stage: str) -> None:
        """Load the policy, where it was not given."""
        if self.load is not None:
            self.policy = self.parallel.load(self.trainer.strategy, self.load).train()

    def configure_model(self) -> None:
        """Split the policy over the devices, where the strategy wants it done by hand."""
        self.parallel.shard(self)

    def forward(self, batch: Batch) -> dict[str, Scores]:
        """Policy and, where the objective needs them, reference log-probs of every row."""
        batch = self.scoring.with_features(self.policy, batch, self.features)
        policy = self.scoring.log_probs(self.policy, batch)
        if self.reference is None:
            return {name: Scores(*row) for name, row in policy.items()}
        reference = self.reference.log_probs(batch)
        return {name: Scores(*row, reference[name].log_probs) for name, row in policy.items()}

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Loss of one micro-batch."""
        scores: dict[str, Scores] = self(batch)  # not `forward`: FSDP gathers weights on the way
        plain = self.objective(scores)
        terms = {name: batch.weight * term for name, term in plain.items()}
        loss = torch.stack([term.mean() for term in terms.values()]).sum()
        if self.global_step == 0:
            self._check_start(plain)
        for name, value in self.measured(batch, scores, plain, self.slices).items():
            self._window[name].append(value)  # left on its device: no waiting for the GPU
        return loss

    def measured(
        self, batch: Batch, scores: Mapping[str, Scores], terms: Terms, slices: Sequence[Slice]
    ) -> dict[str, Tensor]:
        """Sums and counts of a batch; what was repeated for a rank that had no item left does not count."""
        group = batch.group.masked_fill(batch.weight == 0, -1)
        return step_metrics(self.objective, group, scores, terms, batch.members, slices)

    def on_train_end(self) -> None:
        """Put the weights together while every process still has its part.

        Raises `UserError` if a trained one is not finite: the loss of the last step was found before that changed them.
        """
        self.read()
        if not self.parallel.whole:
            self.weights = self.parallel.whole_weights(self)
        weights = self.policy.state_dict() if self.weights is None else self.weights
        trained = [name for name, p in self.policy.named_parameters() if p.requires_grad and name in weights]
        bad = [name for name in trained if not weights[name].isfinite().all()]
        if not_finite := {name for names in gathered(bad) for name in names}:
            self._refuse(f"{len(not_finite)} weights are not finite, such as {min(not_finite)}")
        self._ended = True

    def on_fit_end(self) -> None:
        """Where no step was left to take, Lightning has not called the hook above."""
        if not self._ended:
            self.on_train_end()

    def teardown(self, stage: str) -> None:
        """Let go of Lightning's trainer, which would keep the optimiser's state for as long as there is the module."""
        self.trainer = None

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Keep the gradient norm before clipping, and the learning rates of this step."""
        rates = zip(self.rates, optimizer.param_groups, strict=True)
        self._once = {name: float(group["lr"]) for name, group in rates}
        self._once["train/grad_norm"] = self.parallel.gradient_norm(self)

    def log_step(self, batch_idx: int, timing: Mapping[str, float], due: bool) -> None:
        """End an optimiser step, and log it where that is `due`; called before checkpoints are written."""
        self.trained_steps = self.global_step
        epoch = self.current_epoch + (batch_idx + 1) / self.trainer.num_training_batches
        self._unread = dict(self._window), {**self._once, "train/epoch": epoch}
        self._window.clear()
        if due:
            self.read()
            for logger in self.loggers:
                logger.log_metrics({**self.latest, **timing}, step=self.global_step)

    def read(self) -> None:
        """Have the last step's metrics in `latest`: waits for the device and the other ranks, which have to call it.

        Raises `UserError` if the loss is not finite.
        """
        if self._unread is None:
            return
        (window, once), self._unread = self._unread, None
        norm = once["train/grad_norm"]
        totals, norms = over_ranks(window, *([] if norm is None else [norm]))
        self.latest = {**means(totals), **once, "train/grad_norm": (norms or [self.parallel.stepped_norm(self)])[0]}
        if not math.isfinite(self.latest["train/loss"]):
            self._refuse(f"the loss is {self.latest['train/loss']}")

    def configure_optimizers(self) -> Any:
        """The optimiser of what is trained, with a per-step schedule."""
        optimizer = self.parallel.optimizer(self.policy, self.options)
        parts = self.options.parts(self.policy)
        of_groups = (parts[group["params"][0]] for group in optimizer.param_groups)
        self.rates = ["train/learning_rate" + (f"/{part}" if part else "") for part in of_groups]
        schedule = self.options.scheduled(optimizer, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out the reference and all frozen weights: they come from the model that training starts from."""
        trained = {f"policy.{name}" for name, p in self.policy.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {name: w for name, w in checkpoint["state_dict"].items() if name in trained}
        self.read()
        checkpoint["latest"] = (self.trained_steps, self.latest)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the metrics of the last step, for a run that was stopped after it.

        Raises `UserError` if the weights are not those that are trained: Lightning looks at no name that is missing.
        """
        held = checkpoint.get("state_dict", {}) if self.parallel.whole else {}
        trained = {f"policy.{name}": p.shape for name, p in self.policy.named_parameters() if p.requires_grad}
        if held and {name: weight.shape for name, weight in held.items()} != trained:
            raise UserError(
                "its checkpoint is of another model; delete the folder checkpoints to train from the beginning"
            )
        self.trained_steps, self.latest = checkpoint["latest"]

    def _refuse(self, what: str) -> NoReturn:
        raise UserError(
            f"step {self.global_step}: {what}; lower optimizer.lr, or use a trainer.precision with a wider range"
        )

    def _check_start(self, terms: dict[str, Tensor]) -> None:
        """Policy and reference are equal before the first optimiser step, so every term has a known value."""
        dtype = forward_dtype(self.parallel.precision, self.policy.dtype)
        for name, expected in self.start.items():
            measured = float(terms[name].detach().mean())
            if not abs(measured - expected) <= START_TOLERANCE.get(dtype, 1e-4) * max(1.0, expected):  # NaN too
                raise UserError(
                    f"step 0: the {name} term is {measured:.6f} instead of {expected:.6f}, so the reference is not the "
                    "model that training starts from; check model.path and reference"
                )
