"""Random draws as pure functions of their purpose."""

import torch

from dist_sparse.seeding import derive_seed, generator, seed_torch


def test_a_seed_is_fixed_for_ever() -> None:
    """A resumed run repeats its draws only if the seed is the same in every process and version."""
    assert derive_seed("grow", 0, 100, "fc.weight") == 3139670467737915960


def test_every_part_of_a_purpose_counts() -> None:
    purposes = [
        ("grow", 0, 1),
        ("grow", 1, 0),
        ("drop", 0, 1),
        ("grow", 0),
        ("grow", 0, 1, ""),
        ("grow", "0", 1),
        ("grow", 0, 11),
    ]
    seeds = [derive_seed(*purpose) for purpose in purposes]
    assert len(set(seeds)) == len(purposes)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_generator_draws_the_same_for_the_same_purpose() -> None:
    first, again, other = (torch.rand(5, generator=generator("order", epoch)) for epoch in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_torch_s_generator_is_seeded_as_by_torch_itself() -> None:
    torch.manual_seed(derive_seed("forward", 0, 7))
    expected = torch.rand(5)
    seed_torch("forward", 0, 7)
    assert torch.equal(torch.rand(5), expected)
