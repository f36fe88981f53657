"""Updates of bf16 weights that no rounding loses: in fp32, a few tensors at a time, with any optimiser.

`stochastic` keeps nothing else. `kahan` keeps the lower 16 bits, so that both are the fp32 weight, without loss: like
Kahan's sum, it adds next time what rounding took. Gradients stay bf16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

CHUNK = 1 << 25
"""Weights that are updated together, but for tensors that are larger."""
HALF = 1 << 15
"""Half of the distance between neighbours in bf16, in the lower bits of fp32."""
SEED_STEP = 2654435761
"""Knuth's multiplier, which sets the seeds of neighbouring steps far apart."""


def with_rounding(base: type[torch.optim.Optimizer], *, kahan: bool) -> type[torch.optim.Optimizer]:
    """The optimiser `base`, to whom bf16 weights and their gradients are fp32 for the time of an update."""

    class Rounded(base):  # type: ignore[misc,valid-type]
        """Random numbers depend on the run's seed and the step alone, so they are the same on every device."""

        param_groups: list[dict[str, Any]]

        @torch.no_grad()
        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            groups = self.param_groups
            count = groups[0]["steps"] = groups[0].get("steps", 0) + 1  # in the checkpoint with the group
            device = groups[0]["params"][0].device
            generator = torch.Generator(device).manual_seed((torch.initial_seed() + SEED_STEP * count) % 2**32)
            for group in groups:
                for params in _chunks([p for p in group["params"] if p.grad is not None]):
                    self.param_groups = [{**group, "params": params}]
                    self._update([p for p in params if p.dtype == torch.bfloat16], generator)
            self.param_groups = groups
            return loss

        def _update(self, narrow: Sequence[Any], generator: torch.Generator) -> None:
            """A step of `base` on the groups of this moment, of which `narrow` are the bf16 weights."""
            kept = [(p.data, p.grad) for p in narrow]
            for p, (weight, gradient) in zip(narrow, kept, strict=True):
                p.grad = None
                p.data = (_bits(weight.float()) + self.state.get(p, {}).get("lost", 0)).view(torch.float32)
                p.grad = gradient.float()
            super().step()
            for p, (weight, gradient) in zip(narrow, kept, strict=True):
                exact, p.grad = p.data, None
                weight.copy_(rounded(exact, HALF) if kahan else stochastic(exact, generator))
                if kahan:
                    self.state[p]["lost"] = (_bits(exact) - _bits(weight.float())).short()
                p.data, p.grad = weight, gradient

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            super().load_state_dict(state_dict)
            keep_types(self, state_dict)

    return Rounded


def keep_types(optimizer: torch.optim.Optimizer, loaded: dict[str, Any]) -> None:
    """Give the state the types that it was saved in: PyTorch has cast it to the type of the weights."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for number, state in loaded["state"].items():
        own = optimizer.state[params[number]]
        own |= {name: value.to(own[name].device) for name, value in state.items() if isinstance(value, Tensor)}


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


def _chunks(params: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    chunk: list[Tensor] = []
    for p in params:
        if chunk and sum(q.numel() for q in chunk) + p.numel() > CHUNK:
            yield chunk
            chunk = []
        chunk.append(p)
    if chunk:
        yield chunk
