"""Batches: every index once, order by seed and epoch, resumable."""

import random
from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsafe.data.example import Example, Turn
from mmsafe.scoring.sampler import ALONE, POOL, EpochBatches, Part, text_length
from mmsafe.scoring.token_batches import TokenBatches

LENGTHS = random.Random(0).choices(range(1, 500), k=1000)
lengths = st.lists(st.integers(0, 1000), min_size=1, max_size=200)
sizes = st.integers(1, 9)


def grouped(lengths: list[int], batch_size: int, seed: int) -> EpochBatches:
    return EpochBatches(len(lengths), batch_size, seed, lengths)


@given(lengths, sizes, st.integers(0, 2**31))
def test_every_index_comes_once_in_an_epoch(lengths: list[int], size: int, seed: int):
    sampler = grouped(lengths, size, seed)
    batches = list(sampler)
    assert sorted(draw.item for draw in chain(*batches)) == list(range(len(lengths)))
    assert len(batches) == len(sampler)
    assert all(1 <= len(batch) <= size for batch in batches)
    assert sum(len(batch) < size for batch in batches) <= 1


@given(lengths, sizes, st.booleans(), st.data())
def test_goes_on_where_it_is_told_to(lengths: list[int], size: int, by_length: bool, data: st.DataObject):
    def sampler() -> EpochBatches:
        return EpochBatches(len(lengths), size, 7, lengths if by_length else None)

    whole = sampler()
    epochs = [list(whole) for _ in range(3)]
    resumed = sampler()
    resumed.epoch = data.draw(st.integers(0, 2))
    resumed.position = data.draw(st.integers(0, len(whole)))
    left = [epochs[resumed.epoch][resumed.position :], *epochs[resumed.epoch + 1 :]]
    assert [list(resumed) for _ in left] == left


def test_the_order_is_a_function_of_seed_and_epoch():
    first, second = grouped(LENGTHS, 8, 1), grouped(LENGTHS, 8, 1)
    epochs = [list(first), list(first)]
    assert epochs == [list(second), list(second)]
    assert epochs[0] != epochs[1]
    assert epochs[0] != list(grouped(LENGTHS, 8, 2))


def test_a_new_iterator_after_the_last_batch_begins_the_next_epoch():
    """A loop that knows its length takes the last batch and never asks for the one after it."""
    sampler = grouped(LENGTHS[:20], 4, 0)
    expected = list(grouped(LENGTHS[:20], 4, 0))
    iterator = iter(sampler)
    assert [next(iterator) for _ in range(5)] == expected
    second = list(sampler)
    assert sorted(draw.item for draw in chain(*second)) == list(range(20))
    assert second != expected


def test_batches_are_of_similar_length():
    def padded(batches: list[list[int]]) -> int:
        return sum(max(LENGTHS[i] for i in batch) * len(batch) for batch in batches)

    similar = [[draw.item for draw in batch] for batch in grouped(LENGTHS, 8, 0)]
    order = list(range(len(LENGTHS)))
    random.Random(0).shuffle(order)
    shuffled = [order[i : i + 8] for i in range(0, len(order), 8)]
    assert padded(similar) < 1.2 * sum(LENGTHS) < 1.5 * sum(LENGTHS) < padded(shuffled)


def test_batches_are_not_in_order_of_length():
    means = [sum(LENGTHS[draw.item] for draw in batch) / len(batch) for batch in grouped(LENGTHS, 8, 0)]
    rising = sum(a < b for a, b in pairwise(means))
    assert 0.35 < rising / len(means) < 0.65


def test_company_changes_with_the_epoch():
    """Grouping leaves enough chance that an example does not meet the same others every time."""
    sampler = grouped(LENGTHS, 8, 0)
    assert len(LENGTHS) > POOL * 8, "more than one pool"
    together = [{frozenset(draw.item for draw in batch) for batch in sampler} for _ in range(2)]
    assert not together[0] & together[1]


@given(lengths, st.integers(1, 3000), st.integers(1, 4), st.integers(1, 3), st.data())
def test_batches_of_tokens_have_every_item_once_and_are_a_function_of_seed_and_epoch(
    tokens: list[int], limit: int, world: int, accumulate: int, data: st.DataObject
):
    def samplers() -> list[TokenBatches]:
        return [TokenBatches(tokens, limit, 7, Part(rank, world, accumulate)) for rank in range(world)]

    whole = samplers()
    for _ in range(2):
        ranks = [list(sampler) for sampler in whole]
        assert {len(batches) for batches in ranks} == {len(whole[0])}, "every rank and epoch has as many"
        drawn = [draw for batches in ranks for batch in batches for draw in batch if draw.weight]
        assert sorted(draw.item for draw in drawn) == list(range(len(tokens)))
        for batch in chain(*ranks):
            assert len(batch) == 1 or sum(tokens[draw.item] for draw in batch) <= limit
    resumed, position = samplers(), data.draw(st.integers(0, len(whole[0])))
    for sampler, batches in zip(resumed, ranks, strict=True):
        sampler.epoch, sampler.position = 1, position
        assert list(sampler) == batches[position:]


@given(lengths, st.integers(500, 3000), st.integers(1, 4), st.integers(1, 3))
def test_a_step_of_tokens_is_the_mean_over_its_items(tokens: list[int], limit: int, world: int, accumulate: int):
    ranks = [list(TokenBatches(tokens, limit, 7, Part(rank, world, accumulate))) for rank in range(world)]
    for begin in range(0, len(ranks[0]), accumulate):
        step = [batch for batches in ranks for batch in batches[begin : begin + accumulate]]
        items = [draw.item for batch in step for draw in batch if draw.weight]
        means = [sum(draw.weight * tokens[draw.item] for draw in batch) / len(batch) for batch in step]
        assert items
        assert sum(means) / len(step) == pytest.approx(sum(tokens[item] for item in items) / len(items))


def test_batches_of_tokens_are_full_and_so_alike_on_all_ranks():
    filled = [sum(LENGTHS[draw.item] for draw in batch) for batch in TokenBatches(LENGTHS, 4000, 0)]
    assert sorted(filled)[POOL] > 0.97 * 4000, "all but those left open at the end"
    assert sum(filled) > 0.95 * 4000 * len(filled)


def test_company_in_batches_of_tokens_changes_with_the_epoch():
    sampler = TokenBatches(LENGTHS, 4000, 0)
    together = [{frozenset(draw.item for draw in batch) for batch in sampler} for _ in range(2)]
    assert not together[0] & together[1]


def test_larger_items_are_batches_of_their_own_and_told(caplog: pytest.LogCaptureFixture):
    batches = [[draw.item for draw in batch] for batch in TokenBatches([50, 500, 40, 600], 100, 0, ALONE)]
    assert sorted(map(sorted, batches)) == [[0, 2], [1], [3]]
    assert "data.max_tokens=100: 2 of 4 questions are larger" in caplog.text


@given(st.integers(1, 60), sizes, st.integers(1, 5), st.integers(1, 4), st.data())
def test_a_step_is_the_mean_over_its_items_however_it_is_shared(
    size: int, batch_size: int, world: int, accumulate: int, data: st.DataObject
):
    """Over their tokens, where an item counts as often as it has such."""
    values = data.draw(st.lists(st.floats(-9, 9), min_size=size, max_size=size))
    tokens = data.draw(st.lists(st.integers(1, 9), min_size=size, max_size=size) | st.just([1] * size))
    parts = [Part(rank, world, accumulate) for rank in range(world)]
    ranks = [list(EpochBatches(size, batch_size, 3, part=part, share=tokens.__getitem__)) for part in parts]
    alone = list(EpochBatches(size, batch_size * world * accumulate, 3))
    assert len({len(batches) for batches in ranks}) == 1, "every rank takes as many batches"
    assert all(batch for batches in ranks for batch in batches), "and none is empty"
    for step, expected in enumerate(alone):
        parts = [batches[step * accumulate : (step + 1) * accumulate] for batches in ranks]
        drawn = [draw for batches in parts for batch in batches for draw in batch if draw.weight]
        assert sorted(draw.item for draw in drawn) == sorted(draw.item for draw in expected)
        means = [sum(d.weight * values[d.item] for d in batch) / len(batch) for part in parts for batch in part]
        total = sum(values[draw.item] * tokens[draw.item] for draw in expected)
        assert sum(means) / (world * accumulate) == pytest.approx(
            total / sum(tokens[draw.item] for draw in expected), abs=1e-9
        )


def test_a_full_batch_has_weight_one_exactly():
    batches = EpochBatches(48, 3, 0, part=Part(1, 4, 2))
    assert {draw.weight for batch in batches for draw in batch} == {1.0}


@pytest.mark.parametrize(
    ("turns", "responses", "length"),
    [
        ((Turn("user", "abc"),), {"chosen": "12", "rejected": "12345"}, 8),
        ((Turn("user", "abc", images=(0,)), Turn("assistant", "de"), Turn("user", "f")), {"chosen": ""}, 6),
        ((Turn("user", "abc"),), {}, 3),
    ],
)
def test_text_length_is_the_prompt_and_its_longest_response(turns: tuple[Turn, ...], responses: dict, length: int):
    assert text_length(Example("x", turns, (), responses)) == length
