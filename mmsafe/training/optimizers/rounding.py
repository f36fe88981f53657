"""Updates of bf16 weights that no rounding loses: in fp32, one tensor at a time, with any optimiser.

`stochastic` keeps nothing else. `kahan` keeps the lower 16 bits, so that both are the fp32 weight, without loss: like
Kahan's sum, it adds next time what rounding took. Gradients stay bf16.
"""

from typing import Any

import torch
from torch import Tensor

HALF = 1 << 15
"""Half of the distance between neighbours in bf16, in the lower bits of fp32."""
SEED_STEP = 2654435761
"""Knuth's multiplier, which sets the seeds of neighbouring steps far apart."""


def keeping_types(base: Any) -> Any:
    """The optimiser `base`, whose state has after loading the types that it was saved in, not those of the weights."""

    class Keeping(base):  # type: ignore[misc]
        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            super().load_state_dict(state_dict)
            params = [p for group in self.param_groups for p in group["params"]]
            for number, state in state_dict["state"].items():
                ours = self.state[params[number]]
                ours |= {
                    name: value.to(ours[name].device) for name, value in state.items() if isinstance(value, Tensor)
                }

    return Keeping


def with_rounding(base: Any, *, kahan: bool) -> Any:
    """The optimiser `base`, to whom bf16 weights and their gradients are fp32 for the time of an update."""

    class Rounded(keeping_types(base)):  # type: ignore[misc]
        """Random numbers depend on the run's seed and the step alone, so they are the same on every device."""

        param_groups: list[dict[str, Any]]

        def step(self, closure: Any = None) -> Any:
            loss = None if closure is None else closure()
            groups = self.param_groups
            count = groups[0]["steps"] = groups[0].get("steps", 0) + 1  # in the checkpoint with the group
            generator = torch.Generator(groups[0]["params"][0].device)
            generator.manual_seed((torch.initial_seed() + SEED_STEP * count) % 2**32)
            for group in groups:
                for p in group["params"]:
                    if p.grad is not None:
                        self.param_groups = [{**group, "params": [p]}]
                        self._update(p, generator)
            self.param_groups = groups
            return loss

        @torch.no_grad()
        def _update(self, p: Any, generator: torch.Generator) -> None:
            """A step of `base` on its only weight of this moment, which is fp32 for it."""
            if p.dtype != torch.bfloat16:
                super().step()
                return
            weight, gradient, p.grad = p.data, p.grad, None
            p.data = (_bits(weight.float()) + self.state.get(p, {}).get("lost", 0)).view(torch.float32)
            p.grad = gradient.float()
            super().step()
            exact, p.grad = p.data, None
            weight.copy_(rounded(exact, HALF) if kahan else stochastic(exact, generator))
            if kahan:
                self.state[p]["lost"] = (_bits(exact) - _bits(weight.float())).short()
            p.data, p.grad = weight, gradient

    return Rounded


def stochastic(exact: Tensor, generator: torch.Generator) -> Tensor:
    """fp32 to bf16: to one of the two neighbours, the nearer one more often, so that the mean is exact."""
    noise = torch.randint(2 * HALF, exact.shape, generator=generator, dtype=torch.int32, device=exact.device)
    return rounded(exact, noise)


def rounded(exact: Tensor, added: Tensor | int) -> Tensor:
    """The upper bits of fp32 numbers as bf16, after `added` was added to their lower 16 bits."""
    bits = (_bits(exact) + added).bitwise_and_(-2 * HALF)
    return torch.where(exact.isfinite(), bits.view(torch.float32), exact).bfloat16()


def _bits(exact: Tensor) -> Tensor:
    return exact.view(torch.int32)
