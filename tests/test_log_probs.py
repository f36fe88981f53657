"""The chunked log-probs against `log_softmax` of all logits at once: values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmsafe.scoring.log_probs import linear_log_probs


def plain(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """The oracle: every logit in memory."""
    logits = torch.nn.functional.linear(hidden, weight)
    exact = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(exact).log_softmax(-1).gather(1, target[:, None]).squeeze(1)


def inputs(tokens: int, vocabulary: int, width: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(tokens * 1000 + vocabulary)
    hidden = torch.randn(tokens, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(vocabulary, (tokens,), generator=generator)


def gradients(found: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    upstream = torch.linspace(-1, 2, len(found), dtype=found.dtype)
    return torch.autograd.grad((found * upstream).sum(), leaves, retain_graph=True)


def test_a_value_by_hand():
    # Logits (ln 2, ln 3, ln 5): probabilities 0.2, 0.3, 0.5; d log p(2) / d logits = (-0.2, -0.3, 1 - 0.5)
    weight = torch.tensor([[2.0], [3.0], [5.0]]).log().requires_grad_()
    hidden = torch.tensor([[1.0]], requires_grad=True)
    found = linear_log_probs(hidden, weight, torch.tensor([2]))
    assert found.tolist() == pytest.approx([-0.6931472])
    found.backward()
    assert weight.grad.flatten().tolist() == pytest.approx([-0.2, -0.3, 0.5])
    expected = -0.2 * 0.6931472 - 0.3 * 1.0986123 + 0.5 * 1.6094379
    assert hidden.grad.item() == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(tokens=st.integers(1, 40), vocabulary=st.integers(1, 30), width=st.integers(1, 9), chunk=st.integers(1, 400))
def test_any_chunk_gives_the_values_and_gradients_of_all_logits_at_once(
    tokens: int, vocabulary: int, width: int, chunk: int
):
    hidden, weight, target = inputs(tokens, vocabulary, width)
    expected, found = plain(hidden, weight, target), linear_log_probs(hidden, weight, target, chunk)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, hidden, weight), gradients(expected, hidden, weight))


@pytest.mark.parametrize("trained", ["hidden", "weight", "both", "none"])
def test_gradients_reach_what_wants_them(trained: str):
    hidden, weight, target = inputs(11, 7, 5)
    hidden.requires_grad_(trained in ("hidden", "both"))
    weight.requires_grad_(trained in ("weight", "both"))
    leaves = [leaf for leaf in (hidden, weight) if leaf.requires_grad]
    expected, found = plain(hidden, weight, target), linear_log_probs(hidden, weight, target, 21)
    torch.testing.assert_close(found, expected)
    assert found.requires_grad == bool(leaves)
    for _ in range(2 if leaves else 0):  # a second backward gives the same
        torch.testing.assert_close(gradients(found, *leaves), gradients(expected, *leaves))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_low_precision_weights_give_fp32_values_and_gradients_of_their_own_type(dtype: torch.dtype):
    hidden, weight, target = inputs(33, 17, 8, dtype)
    expected, found = plain(hidden, weight, target), linear_log_probs(hidden, weight, target, 100)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    for mine, theirs, leaf in zip(
        gradients(found, hidden, weight), gradients(expected, hidden, weight), (hidden, weight), strict=True
    ):
        assert mine.dtype == leaf.dtype
        assert (mine - theirs).norm() <= (2e-2 if dtype == torch.bfloat16 else 1e-6) * theirs.norm()


def test_under_autocast_the_product_is_taken_in_its_type():
    hidden, weight, target = inputs(33, 17, 8, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, found = plain(hidden, weight, target), linear_log_probs(hidden, weight, target, 100)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    exact = plain(hidden, weight, target)
    assert not torch.allclose(found, exact, atol=1e-6), "bf16 rounds"
    mine, theirs = gradients(found, hidden, weight), gradients(exact, hidden, weight)
    for rough, fine in zip(mine, theirs, strict=True):
        assert rough.dtype == torch.float32
        assert (rough - fine).norm() <= 1e-2 * fine.norm()


def test_never_more_logits_than_the_chunk(monkeypatch: pytest.MonkeyPatch):
    hidden, weight, target = inputs(100, 50, 4)
    sizes: list[int] = []
    original = Tensor.logsumexp
    monkeypatch.setattr(Tensor, "logsumexp", lambda self, *a: sizes.append(self.numel()) or original(self, *a))
    linear_log_probs(hidden, weight, target, 500)
    assert sizes == [500] * 10
