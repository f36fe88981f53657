"""Muon (Jordan et al., 2024; scaled as in arXiv 2502.16982) beside AdamW, as PyTorch has them."""

from itertools import product
from typing import Any, ClassVar

from mmsafe.core.options import Share, options
from mmsafe.core.settings import Peft, Trainer
from mmsafe.models.model_options import ModelOptions
from mmsafe.training.optimizers.optimizer import Optimizer


@options
class Muon(Optimizer):
    """A matrix of the decoder moves by its momentum, made orthogonal, as far as by AdamW, which has the rest."""

    name: ClassVar[str] = "muon"

    momentum: Share = 0.95
    beta1: Share = 0.9
    beta2: Share = 0.999

    def refusal(self, sharded_by: str | None, trainer: Trainer, model: ModelOptions, peft: Peft) -> str:
        if not model.train.language or peft.method != "none":
            return "optimizer=muon: trains the language model's own matrices; set peft=none model.train.language=true"
        return super().refusal(sharded_by, trainer, model, peft)

    def algorithm(self, model: Any, *, sharded: bool, precision: str) -> tuple[Any, dict[str, Any]]:
        """One optimiser of two; its groups are those that it is given, first without, then with the matrices."""
        from torch import nn, optim

        from mmsafe.models.family import family_of

        decoder = family_of(model.config.model_type).parts.language_model(model)
        matrices = {module.weight for module in decoder.modules() if isinstance(module, nn.Linear)}

        class MuonBesideAdamW(optim.Optimizer):
            def __init__(self, groups: Any, momentum: float, betas: Any, **rates: Any) -> None:
                split: dict[bool, list[Any]] = {False: [], True: []}
                for group, muon in product(groups, split):
                    if params := [p for p in group["params"] if (p in matrices) == muon]:
                        split[muon].append({**group, "params": params, "muon": muon})
                ours = optim.Muon(split[True], momentum=momentum, adjust_lr_fn="match_rms_adamw", **rates)
                self.both: dict[bool, Any] = {False: optim.AdamW(split[False], betas=betas, **rates), True: ours}
                super().__init__([group for each in self.both.values() for group in each.param_groups], {})

            def step(self, closure: Any = None) -> Any:
                loss = None if closure is None else closure()
                for muon, each in self.both.items():  # on what they are now: a checkpoint brings new ones
                    each.state = self.state
                    each.param_groups = [group for group in self.param_groups if group["muon"] == muon]
                    each.step()
                return loss

        return MuonBesideAdamW, {"momentum": self.momentum, "betas": (self.beta1, self.beta2)}

    def moments(self, weight: int, matrices: float) -> float:
        """One for a matrix, two for the rest."""
        return weight * (2 - matrices)
