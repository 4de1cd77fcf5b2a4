"""The order of samples is the same for any batch size and number of ranks, from any position of an epoch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.sampler import EpochBatchSampler


def batches(n, batch_size, epoch=0, seen=0, shuffle=True, seed=3, **ranks):
    sampler = EpochBatchSampler(n, batch_size, shuffle=shuffle, seed=seed, **ranks)
    sampler.set_position(epoch, seen)
    result = list(sampler)
    assert len(result) == len(sampler) == len(sampler.batch_sizes())
    return result


def flat(batches):
    return [key for batch in batches for key in batch]


def test_one_epoch_covers_every_sample_once_and_keeps_the_short_batch():
    result = batches(10, 4, epoch=7)
    assert [len(batch) for batch in result] == [4, 4, 2]
    assert sorted(flat(result)) == [(7, i) for i in range(10)]
    assert all(type(i) is int for key in flat(result) for i in key)


def test_order_depends_on_seed_and_epoch_alone():
    assert flat(batches(6, 4, shuffle=False)) == [(0, i) for i in range(6)]
    order = [[i for _, i in flat(batches(50, 8, epoch=epoch, seed=seed))] for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(map(tuple, order))) == 4, "seeds and epochs share an order"
    np.random.seed(0)
    assert order[0] == [i for _, i in flat(batches(50, 5, epoch=0, seed=0))], "batch size or global state matters"


def test_order_is_not_the_stream_the_data_set_draws_from():
    drawn = np.random.default_rng(np.random.SeedSequence((3, 5, 0))).permutation(50).tolist()
    assert [i for _, i in flat(batches(50, 8, epoch=5, seed=3))] != drawn


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 7), st.integers(0, 30))
def test_ranks_share_the_batches_of_one_process(n, batch_size, world_size, seen):
    seen = min(seen, n)
    whole = batches(n, batch_size, epoch=2, seen=seen)
    parts = [batches(n, batch_size, epoch=2, seen=seen, rank=r, world_size=world_size) for r in range(world_size)]
    for step, batch in enumerate(whole):
        for rank, part in enumerate(parts):
            sampler = EpochBatchSampler(n, batch_size, shuffle=True, seed=3, rank=rank, world_size=world_size)
            own = batch[rank::world_size]
            assert sampler.share(len(batch)) == len(own)
            assert part[step] == (own or [batch[0]]), "share or placeholder"
    assert {len(part) for part in parts} == {len(whole)}


def test_a_rank_without_a_sample_gets_a_placeholder():
    parts = [batches(9, 4, shuffle=False, rank=r, world_size=4) for r in range(4)]
    assert [part[2] for part in parts] == [[(0, 8)]] * 4
    sampler = EpochBatchSampler(9, 4, shuffle=False, seed=0, rank=1, world_size=4)
    assert sampler.batch_sizes() == [4, 4, 1]
    assert [sampler.share(n) for n in sampler.batch_sizes()] == [1, 1, 0]


def test_an_epoch_resumes_with_another_batch_size():
    whole = flat(batches(23, 5, epoch=4))
    assert flat(batches(23, 5, epoch=4, seen=10)) == whole[10:]
    assert flat(batches(23, 7, epoch=4, seen=10)) == whole[10:]
    sampler = EpochBatchSampler(23, 7, shuffle=True, seed=3)
    sampler.set_position(4, samples_seen=10)
    assert sampler.batch_sizes() == [7, 6]
    assert batches(23, 5, epoch=4, seen=23) == []
    sampler.set_position(5)
    assert len(flat(sampler)) == 23


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="must be at least 1, got 0 and 4"):
        EpochBatchSampler(0, 4, shuffle=False, seed=0)
    with pytest.raises(ValueError, match="rank must be from 0 to 1, got 2"):
        EpochBatchSampler(9, 4, shuffle=False, seed=0, rank=2, world_size=2)
    with pytest.raises(ValueError, match="samples seen must be from 0 to 9, got 10"):
        EpochBatchSampler(9, 4, shuffle=False, seed=0).set_position(0, 10)
