"""What can be chosen of DeepSpeed's ZeRO."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mmsafe.core.options import Count, options


@options
class ZeroOptions:
    """DeepSpeed's ZeRO (1910.02054): 1 splits the optimiser, 2 the gradients too, 3 the weights as well."""

    stage: Literal[1, 2, 3]
    offload: bool = False
    """Stage 3: keep optimiser and weights in the host's memory; slow, and fits where nothing else does."""
    bucket_size: Count = 200_000_000
    """Elements that are reduced or gathered at once."""
    zero_optimization: dict[str, Any] = Field(default_factory=dict)
    """Further entries of the section `zero_optimization` of DeepSpeed's config, as DeepSpeed names them."""

    def __post_init__(self) -> None:
        if self.offload and self.stage < 3:
            raise ValueError(f"offload works in stage 3 only, not in stage {self.stage}")
