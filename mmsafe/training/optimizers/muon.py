"""Muon (Jordan et al., 2024; scaled as in arXiv 2502.16982) for the language model's matrices, AdamW for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from mmsafe.core.options import Share, options
from mmsafe.core.settings import Peft, Trainer
from mmsafe.models.model_options import ModelOptions
from mmsafe.training.optimizers.adamw import Adam

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer as TorchOptimizer


@options
class Muon(Adam):
    """The momentum of a matrix, made orthogonal, is its update, scaled to the size of AdamW's."""

    name: ClassVar[str] = "muon"

    momentum: Share = 0.95

    def refusal(self, sharded_by: str | None, trainer: Trainer, model: ModelOptions, peft: Peft) -> str:
        """It wants matrices to train."""
        if not model.train.language or peft.method != "none":
            return "optimizer=muon: trains the language model's own matrices; set peft=none model.train.language=true"
        return super().refusal(sharded_by, trainer, model, peft)

    def algorithm(self, model: nn.Module, *, fused: bool) -> tuple[type[TorchOptimizer], dict[str, Any]]:
        """PyTorch's two, side by side."""
        from torch import nn

        from mmsafe.models.family import family_of
        from mmsafe.training.optimizers.muon_with_adamw import MuonWithAdamW

        language = family_of(model.config.model_type).parts.language_model(model)  # type: ignore[union-attr]
        matrices = {module.weight for module in language.modules() if isinstance(module, nn.Linear)}
        betas = (self.beta1, self.beta2)
        return MuonWithAdamW, {"matrices": matrices, "momentum": self.momentum, "betas": betas, "fused": fused or None}

    def moments(self, weight: int, matrices: float) -> float:
        """One for a matrix, two for the rest."""
        return weight * (2 - matrices)
