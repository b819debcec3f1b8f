"""Every sample once an epoch, in the same order for any number of workers, and going on exactly where one stopped."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage_trainer.recipe.sampler import Sampler, share, split

SIZES = st.integers(1, 200)


def steps(sampler: Sampler, world: int) -> list[list[int]]:
    """For each step of an epoch the samples that all ranks saw together."""
    return [sorted(torch.cat([share(part, rank, world) for rank in range(world)]).tolist()) for part in sampler]


@settings(max_examples=60, deadline=None)
@given(count=SIZES, batch=SIZES, seed=st.integers(0, 2**31 - 1), world=st.integers(1, 9))
def test_the_samples_of_each_step_do_not_depend_on_the_number_of_workers(
    count: int, batch: int, seed: int, world: int
) -> None:
    together = steps(Sampler(count, batch, seed), world)
    assert together == steps(Sampler(count, batch, seed), 1)
    assert sorted(sample for step in together for sample in step) == list(range(count))
    assert len(together) == Sampler(count, batch, seed).steps_per_epoch


@settings(max_examples=60, deadline=None)
@given(count=st.integers(2, 100), batch=st.integers(1, 20), before=st.integers(1, 4), after=st.integers(1, 4))
def test_resumed_with_other_workers_no_sample_is_lost_or_repeated(
    count: int, batch: int, before: int, after: int
) -> None:
    whole = steps(Sampler(count, batch, 5), 1)
    first = Sampler(count, batch, 5)
    seen: list[list[int]] = []
    for part in first:
        seen.append(sorted(torch.cat([share(part, rank, before) for rank in range(before)]).tolist()))
        if len(seen) >= 2:
            break
    state = (first.epoch, first.consumed)
    seen += steps(Sampler(count, batch, 5, *state), after)
    assert seen[: len(whole)] == whole


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    sampler = Sampler(50, 50, 1)
    orders = [tuple(part.tolist()) for _ in range(3) for part in sampler]
    orders += [tuple(part.tolist()) for part in Sampler(50, 50, 2)]
    assert len(set(orders)) == 4
    assert (sampler.epoch, sampler.consumed) == (3, 0)


def test_split_keeps_both_sides_apart() -> None:
    train, held = split(100, 0.1, 3)
    assert (len(train), len(held)) == (90, 10)
    assert sorted(train.tolist() + held.tolist()) == list(range(100))
    assert [len(part) for part in split(2, 0.9, 0)] == [1, 1]
    assert [len(part) for part in split(10, 0.001, 0)] == [9, 1]
    assert [len(part) for part in split(10, 0.0, 0)] == [10, 0]
