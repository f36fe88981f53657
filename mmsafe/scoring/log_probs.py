"""Token log-probs from hidden states without a `[tokens, vocabulary]` tensor of the whole batch."""

from typing import Any, cast

import torch
from torch import Tensor

from mmsafe.core.errors import UserError

CHUNK = 1 << 24
"""Logits computed at once: 64 MiB in fp32."""


def head_log_probs(head: Any, hidden: Tensor, target: Tensor) -> Tensor:
    """`linear_log_probs` of a language-model head, which is called as a module, so that ZeRO-3 and FSDP gather it.

    Raises `UserError` for a head that is more than one matrix product.
    """
    if not isinstance(head, torch.nn.Linear) or head.bias is not None or not head.weight.is_floating_point():
        raise UserError("scoring=shared_prefix: the model's lm_head is not a plain matrix; choose scoring=padded")
    # Not by catching the product inside the call: ZeRO-3 puts a function of its own in the place of `linear`.
    head.forward = lambda hidden: linear_log_probs(hidden, head.weight, target)
    try:
        return cast(Tensor, head(hidden))
    finally:
        del head.forward


def linear_log_probs(hidden: Tensor, weight: Tensor, target: Tensor, chunk: int = CHUNK) -> Tensor:
    """log softmax(hidden · weightᵀ) at `target`, differentiable in `hidden` and `weight`.

    `hidden` `[tokens, width]`, `weight` `[vocabulary, width]`, `target` `[tokens]`; returns `[tokens]` in fp32 (in fp64
    for fp64 weights). At most `chunk` logits exist at a time, in forward and backward. Under autocast the product is
    taken in the autocast type and the softmax in fp32, as `torch.nn.Linear` and `log_softmax` would.
    """
    if len(hidden) != len(target):
        raise ValueError(f"{len(hidden)} hidden states for {len(target)} targets")
    if not len(target):
        return hidden.float().sum(-1)
    if not torch.is_grad_enabled():
        hidden, weight = hidden.detach(), weight.detach()  # the function would keep what only a backward pass needs
    device = hidden.device.type
    compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    rows = max(1, chunk // weight.shape[0])
    return _LinearLogProbs.apply(hidden.to(compute), weight, target, rows)  # type: ignore[no-any-return, no-untyped-call]


class _LinearLogProbs(torch.autograd.Function):
    """Keeps the normaliser of every token and the softmax of the last chunk; the others are computed again."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor, rows: int) -> Tensor:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        log_probs, normaliser = (torch.empty(len(hidden), dtype=exact, device=hidden.device) for _ in range(2))
        logits = hidden.new_empty(0)
        with torch.autocast(hidden.device.type, enabled=False):
            matrix = weight.to(hidden.dtype)
            for part in _parts(len(hidden), rows):
                logits = (hidden[part] @ matrix.T).to(exact)
                normaliser[part] = logits.logsumexp(1)
                log_probs[part] = logits.gather(1, target[part, None]).squeeze(1) - normaliser[part]
        if any(ctx.needs_input_grad):
            last = normaliser[len(hidden) - len(logits) :, None]
            ctx.save_for_backward(hidden, weight, target, normaliser, logits.sub_(last).exp_())
            ctx.rows = rows
        return log_probs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        hidden, weight, target, normaliser, last = ctx.saved_tensors
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        matrix = weight.to(hidden.dtype)
        d_hidden = torch.empty_like(hidden) if wants_hidden else None
        d_weight = torch.zeros_like(weight) if wants_weight else None
        for part in _parts(len(hidden), ctx.rows):
            if part.stop == len(hidden):
                softmax = last.clone()  # a second backward may want it
            else:
                softmax = (hidden[part] @ matrix.T).to(last.dtype).sub_(normaliser[part, None]).exp_()
            scale = gradient[part, None]  # d log p / d logits = one-hot - softmax
            d_logits = softmax.mul_(-scale).scatter_add_(1, target[part, None], scale).to(hidden.dtype)
            if d_hidden is not None:
                torch.mm(d_logits, matrix, out=d_hidden[part])
            if d_weight is not None and d_weight.dtype == d_logits.dtype:
                d_weight.addmm_(d_logits.T, hidden[part])
            elif d_weight is not None:
                d_weight += d_logits.T @ hidden[part]
        return d_hidden, d_weight, None, None


def _parts(size: int, rows: int) -> list[slice]:
    return [slice(start, min(start + rows, size)) for start in range(0, size, rows)]
