"""The owner of the masks."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from dist_sparse.sparsity import bits
from dist_sparse.sparsity.masks import Masks, together


def random_masks(seed: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=draws) < 0.3 for name, shape in shapes.items()}


SHAPES = {"conv": (4, 3, 3, 3), "linear": (5, 7)}


@pytest.fixture
def masks() -> Masks:
    return Masks({name: torch.empty(shape) for name, shape in SHAPES.items()})


def test_replace_takes_masks_and_counts_changes(masks: Masks) -> None:
    first, second = random_masks(0, SHAPES), random_masks(1, SHAPES)
    masks.replace(first)
    before = masks.packed()
    masks.replace(second)
    changed = masks.changed_since(before)
    for name in SHAPES:
        assert torch.equal(masks[name], second[name])
        assert changed[name] == int((first[name] ^ second[name]).sum())
        assert masks.active()[name] == int(second[name].sum())
    before = masks.packed()
    masks.replace(second)
    assert set(masks.changed_since(before).values()) == {0}


def test_replacing_one_layer_leaves_the_others(masks: Masks) -> None:
    first, second = random_masks(0, SHAPES), random_masks(1, SHAPES)
    masks.replace(first)
    masks.replace({"linear": second["linear"]})
    assert torch.equal(masks["conv"], first["conv"]) and torch.equal(masks["linear"], second["linear"])


def test_densities(masks: Masks) -> None:
    masks.replace({"conv": torch.arange(108).view(4, 3, 3, 3) < 27, "linear": torch.arange(35).view(5, 7) < 7})
    assert masks.densities() == {"conv": 0.25, "linear": 0.2}
    assert masks.density() == 34 / 143
    assert masks.shares({"linear": 35}) == {"linear": 1.0}
    assert (len(masks), masks.names) == (2, ("conv", "linear"))


def test_without_masks_all_is_active() -> None:
    masks = Masks({})
    assert (masks.density(), masks.exploration(), masks.densities(), masks.digests()) == (1.0, 1.0, {}, {})


def test_exploration_of_the_itop_sequence(vectors) -> None:
    reference = vectors("itop")["Rs"]
    rounds = [torch.tensor(mask).bool() for mask in reference["masks"]]
    masks = Masks({"layer": torch.empty(rounds[0].shape)})
    rates = []
    for mask in rounds:
        masks.replace({"layer": mask})
        rates.append(masks.exploration())
    assert rates == pytest.approx(reference["Rs"], abs=1e-6)
    assert rates[0] == int(rounds[0].sum()) / rounds[0].numel(), "the first mask counts"


def test_exploration_never_falls(masks: Masks) -> None:
    seen = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in SHAPES.items()}
    for seed in range(8):
        new = random_masks(seed, SHAPES)
        masks.replace(new)
        seen = {name: seen[name] | new[name] for name in SHAPES}
        assert masks.exploration() == sum(int(mask.sum()) for mask in seen.values()) / 143
    masks.replace(random_masks(0, SHAPES))
    assert masks.exploration() == sum(int(mask.sum()) for mask in seen.values()) / 143


def test_digest_follows_contents_and_names(masks: Masks) -> None:
    masks.replace(random_masks(0, SHAPES))
    before = masks.digest()
    masks.replace(random_masks(1, SHAPES))
    assert masks.digest() != before
    masks.replace(random_masks(0, SHAPES))
    assert masks.digest() == before and len(before) == 16
    renamed = Masks({"other": torch.empty(4, 3, 3, 3), "linear": torch.empty(5, 7)})
    renamed.replace(dict(zip(renamed.names, random_masks(0, SHAPES).values(), strict=True)))
    assert renamed.digest() != before


def test_digest_sees_what_is_in_memory_if_asked(masks: Masks) -> None:
    masks.replace(random_masks(0, SHAPES))
    before = masks.digests()
    assert masks.digests(in_memory=True) == before
    masks._multiplier("conv").view(-1)[5] = 1 - masks._multiplier("conv").view(-1)[5]
    found = masks.digests(in_memory=True)
    assert found["conv"] != before["conv"] and found["linear"] == before["linear"]
    assert masks.digests() == before, "the bits beside it are as they were"


def test_masks_with_their_bits_are_not_packed_again(masks: Masks, monkeypatch: pytest.MonkeyPatch) -> None:
    new = random_masks(0, SHAPES)
    buffer = torch.cat([bits.pack(mask) for mask in new.values()])
    parts = dict(zip(SHAPES, buffer.split([14, 5]), strict=True))
    unpacked = bits.Unpacked(parts, {name: mask.shape for name, mask in new.items()})
    monkeypatch.delattr(bits, "pack")
    masks.replace(unpacked)
    assert all(torch.equal(masks[name], new[name]) for name in SHAPES)
    monkeypatch.undo()
    assert masks.digests() == masks.digests(in_memory=True)
    buffer.zero_()
    assert masks.digests() == masks.digests(in_memory=True), "the bits are its own"
    assert all(part.untyped_storage().nbytes() == len(part) for part in masks.state_dict()["masks"].values())


def test_together_tells_of_a_difference_in_either() -> None:
    one, other = {"a": 1, "b": 2}, {"a": 5, "b": 6}
    found = together(one, other)
    assert found.keys() == one.keys()
    assert together({**one, "a": 0}, other)["a"] != found["a"] != together(one, {**other, "a": 0})["a"]
    assert together(one, {**other, "a": 0})["b"] == found["b"] and together(other, one)["a"] != found["a"]


def test_digest_is_fixed() -> None:
    """It is compared between processes, runs and versions; memory format and dtype play no part."""
    conv = torch.empty(4, 3, 3, 3)
    for weight in (conv, conv.to(memory_format=torch.channels_last), conv.double()):
        masks = Masks({"conv": weight, "linear": torch.empty(5, 7)})
        masks.replace({"conv": torch.arange(108).view(4, 3, 3, 3) % 5 == 0, "linear": torch.arange(35).view(5, 7) % 3 == 0})
        assert masks.digest() == "d70a7dd59d83010e"


def test_state_dict_brings_back_everything_in_one_bit_a_weight(masks: Masks) -> None:
    masks.replace(random_masks(0, SHAPES))
    masks.replace(random_masks(1, SHAPES))
    state = masks.state_dict()
    for packed in (state["masks"], state["explored"]):
        assert {name: (each.dtype, len(each)) for name, each in packed.items()} == {
            "conv": (torch.uint8, 14),
            "linear": (torch.uint8, 5),
        }
    other = Masks({name: torch.empty(shape) for name, shape in SHAPES.items()})
    other.replace(random_masks(2, SHAPES))
    other.load_state_dict(state)
    assert other.digest() == masks.digest()
    assert other.exploration() == masks.exploration()
    assert other.active() == masks.active()


def test_state_dict_is_a_copy(masks: Masks) -> None:
    masks.replace(random_masks(0, SHAPES))
    state = masks.state_dict()
    kept = {part: {name: each.clone() for name, each in state[part].items()} for part in state}
    masks.replace(random_masks(1, SHAPES))
    assert all(torch.equal(state[part][name], kept[part][name]) for part in state for name in SHAPES)


def test_state_of_other_layers_is_refused(masks: Masks) -> None:
    with pytest.raises(ValueError, match="other layers"):
        Masks({"conv": torch.empty(4, 3, 3, 3)}).load_state_dict(masks.state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_multipliers_have_the_weights_dtype_on_the_cpu(dtype: torch.dtype) -> None:
    masks = Masks({"linear": torch.nn.Parameter(torch.empty(5, 7, dtype=dtype))})
    masks.replace(random_masks(0, {"linear": (5, 7)}))
    multiplier = masks._multiplier("linear")
    assert (multiplier.dtype, multiplier.requires_grad) == (dtype, False)
    assert masks["linear"].dtype == torch.bool


@pytest.mark.gpu
def test_multipliers_are_one_byte_on_a_gpu() -> None:
    masks = Masks({"linear": torch.empty(5, 7, device="cuda")})
    new = random_masks(0, {"linear": (5, 7)})
    masks.replace({name: mask.cuda() for name, mask in new.items()})
    weight = torch.randn(5, 7, device="cuda")
    expected = weight * new["linear"].cuda()
    masks.multiply_({"linear": weight})
    assert masks._multiplier("linear").dtype == torch.bool and torch.equal(weight, expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_multiply_is_in_place_in_the_weights_own_layout(memory_format: torch.memory_format) -> None:
    weight = torch.randn(4, 3, 3, 3).to(memory_format=memory_format)
    before, address, strides = weight.clone(), weight.data_ptr(), weight.stride()
    masks = Masks({"conv": weight})
    new = random_masks(0, {"conv": (4, 3, 3, 3)})
    masks.replace(new)
    assert masks._multiplier("conv").stride() == strides, "a mask in another layout would be read out of order in memory"
    masks.multiply_({"conv": weight})
    assert (weight.data_ptr(), weight.stride()) == (address, strides)
    assert torch.equal(weight, torch.where(new["conv"], before, 0.0))


def test_multiply_touches_the_given_layers_only(masks: Masks) -> None:
    masks.replace(random_masks(0, SHAPES))
    masks.multiply_({})
    linear = torch.ones(5, 7)
    masks.multiply_({"linear": linear})
    assert torch.equal(linear, masks["linear"].float())


def test_following_is_replacing_by_masks_of_equal_counts(masks: Masks) -> None:
    other = Masks({name: torch.empty(shape) for name, shape in SHAPES.items()})
    first = random_masks(0, SHAPES)
    turned = {name: mask.flatten().roll(1).view_as(mask) for name, mask in first.items()}
    for each in (masks, other):
        each.replace(first)
    masks.replace_unsynchronised(turned)
    other.replace(turned)
    assert masks.digest() == other.digest() and masks.active() == other.active()
    assert masks.exploration() == other.exploration() > masks.density()
    for key, saved in masks.state_dict().items():
        assert all(torch.equal(saved[name], other.state_dict()[key][name]) for name in SHAPES)
