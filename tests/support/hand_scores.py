"""Scores small enough to work out by hand, for golden tests of objectives.

The one example that most tests use, in token log-probs (masked positions are zero):

    row       policy            reference          log-ratio
    chosen    -1.0 -2.0         -1.5 -2.5          +1.0
    rejected  -3.0 -1.0         -2.0 -1.0          -1.0
    blind     -0.5              -1.0               +0.5

so the margin over `rejected` is m = 2 and the margin over `blind` is b = 0.5.
"""

import pytest
import torch

from mmsafe.objectives.base import Scores

LN2 = 0.6931471805599453
# ln(1 + e^-x) and σ(-x) at x = β·m = 0.2 and x = β·b = 0.05, for β = 0.1
LOSS_02, SIGMOID_02 = 0.5981388693815918, 0.45016600268752216
LOSS_005, SIGMOID_005 = 0.6684596480132862, 0.48750260351578967
PRECISIONS = pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])


def row(policy: list[list[float]], reference: list[list[float]] | None = None, dtype=torch.float64) -> Scores:
    """Scores of a batch from ragged lists of token log-probs."""
    width = max(map(len, policy))

    def padded(rows: list[list[float]]) -> torch.Tensor:
        return torch.tensor([[*values, *[0.0] * (width - len(values))] for values in rows], dtype=dtype)

    mask = torch.tensor([[i < len(values) for i in range(width)] for values in policy])
    return Scores(padded(policy).requires_grad_(), mask, None if reference is None else padded(reference))


def example(dtype: torch.dtype = torch.float64) -> dict[str, Scores]:
    return {
        "chosen": row([[-1.0, -2.0]], [[-1.5, -2.5]], dtype),
        "rejected": row([[-3.0, -1.0]], [[-2.0, -1.0]], dtype),
        "blind": row([[-0.5]], [[-1.0]], dtype),
    }


def with_log_ratios(**ratios: list[float]) -> dict[str, Scores]:
    """One token per sequence, reference zero: the policy's log-prob is the log-ratio."""
    return {name: row([[value] for value in values], [[0.0]] * len(values)) for name, values in ratios.items()}


def gradient(score: Scores) -> list[float]:
    """Of the response tokens, after `backward`."""
    assert score.policy.grad is not None
    return score.policy.grad[score.mask].tolist()
