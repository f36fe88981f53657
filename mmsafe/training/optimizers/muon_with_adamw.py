"""One optimiser of two: PyTorch's Muon for some matrices, and its AdamW for all else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from typing import Any

import torch
from torch import nn


class MuonWithAdamW(torch.optim.Optimizer):
    """Its groups are those that it is given, each without, then with the weights that are in `matrices`."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float,
        matrices: Set[nn.Parameter],
        momentum: float,
        betas: tuple[float, float],
        fused: bool | None,
    ) -> None:
        split: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
        for group in groups:
            for muon, kept in split.items():
                if params := [p for p in group["params"] if (p in matrices) == muon]:
                    kept.append({**group, "params": params, "muon": muon})
        self.algorithms = {
            False: torch.optim.AdamW(split[False], lr, betas, weight_decay=weight_decay, fused=fused),
            True: torch.optim.Muon(split[True], lr, weight_decay, momentum, adjust_lr_fn="match_rms_adamw"),
        }
        super().__init__([*self.algorithms[False].param_groups, *self.algorithms[True].param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Both steps, on groups and state as they are now: loading a checkpoint puts new ones in their place."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for muon, algorithm in self.algorithms.items():
            algorithm.state = self.state
            algorithm.param_groups = [group for group in self.param_groups if group["muon"] == muon]
            algorithm.step()
        return loss
