"""Files of shrunk networks: read without the run, bit for bit, and refused in one line if they are not sound."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dist_sparse.errors import UserError
from dist_sparse.shrinking import Shrunk, load_shrunk, read_shrunk, save_shrunk, shrink, to_original
from dist_sparse.shrinking.file import ENTRY
from dist_sparse.sparsity.layers import weight_layers
from dist_sparse.sparsity.structures import Filter
from tests.shrinking.networks import images, network, random_masks

NAME, KWARGS = "cifar_resnet20", {"num_classes": 10}


def shrunk_network(name: str = NAME, **kwargs: Any) -> Shrunk:
    model = network(name, **kwargs).float()
    masks = random_masks(model, Filter())
    if name.startswith("deit"):
        masks["blocks.0.attn.proj.weight"][:, :64] = False
    return shrink(model, masks, images(32).float())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shrunk") / "small.safetensors"
    save_shrunk(shrunk_network(), path, name=NAME, kwargs=KWARGS, about={"classes": ["a", "b"]})
    return path


# With new biases and batch norms; attention's numbers; convolutions of several groups; squeeze and excitation.
@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("cifar_vgg_d", {}),
        ("deit_tiny_patch16_224", {"img_size": 32, "depth": 2}),
        ("regnetx_002", {}),
        ("mobilenetv3_small_050", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_loaded_network_equals_the_saved_one_bit_for_bit(tmp_path: Path, name: str, kwargs: dict[str, Any]) -> None:
    shrunk = shrunk_network(name, **kwargs)
    path = tmp_path / "small.safetensors"
    save_shrunk(shrunk, path, name=name, kwargs={"num_classes": 10, **kwargs})
    before = torch.get_rng_state()
    loaded = load_shrunk(path)
    assert torch.get_rng_state().equal(before) and not loaded.training
    state = shrunk.model.state_dict()
    assert state.keys() == loaded.state_dict().keys()
    assert all(tensor.equal(state[key]) and tensor.dtype == state[key].dtype for key, tensor in loaded.state_dict().items())
    with torch.no_grad():
        batch = images(32).float()
        assert loaded(batch).equal(shrunk.model(batch))
    assert repr(loaded) == repr(shrunk.model)  # widths of layers and numbers of groups


def test_a_file_says_which_units_of_the_original_it_keeps(saved: Path) -> None:
    loaded = read_shrunk(saved)
    assert loaded.about == {"classes": ["a", "b"]}
    original, small = weight_layers(network(NAME)), weight_layers(loaded.model)
    units = to_original(loaded.plan, loaded.model)
    assert units.keys() == original.keys()
    for name, each in units.items():
        mask = each.mask(original[name].shape)
        assert int(mask.sum()) == small[name].numel()
    # The first layer is read without anything being folded into it, so its weights are the original's.
    assert original["conv1.weight"][units["conv1.weight"].outputs].float().count_nonzero() >= small["conv1.weight"].numel() // 2


def test_masks_in_the_original_s_coordinates_give_the_groups_inputs() -> None:
    shrunk = shrunk_network("regnetx_002")
    original, small = weight_layers(network("regnetx_002")), weight_layers(shrunk.model)
    units = shrunk.original_units()
    assert shrunk.plan.columns  # of a convolution of several groups
    assert all(int(units[name].mask(original[name].shape).sum()) == weight.numel() for name, weight in small.items())


def test_another_network_s_name_is_refused_before_writing(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    for name, kwargs in (("cifar_resnet32", KWARGS), (NAME, {"num_classes": 10, "width": 2})):
        with pytest.raises(UserError):
            save_shrunk(shrunk_network(), path, name=name, kwargs=kwargs)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_shrunk_network_is_refused(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.safetensors: no such file"):
        load_shrunk(tmp_path / "nothing.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(saved.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"cut\.safetensors: not a sound safetensors file"):
        load_shrunk(tmp_path / "cut.safetensors")
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    (tmp_path / "flipped.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"flipped\.safetensors: damaged: its contents are not those that were written"):
        load_shrunk(tmp_path / "flipped.safetensors")
    save_file({"weight": torch.ones(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match="holds no shrunk network"):
        load_shrunk(tmp_path / "plain.safetensors")


CONV = "layer1.0.conv1.weight"
Damage = Callable[[dict[str, Any], dict[str, torch.Tensor]], object]
DAMAGES: list[tuple[str, Damage]] = [
    ("is of version 2", lambda facts, _: facts.update(version=2)),
    ("metadata is damaged: plan.kept", lambda facts, _: facts["plan"]["kept"].update({CONV: 3})),
    ("the model no_such_model is unknown", lambda facts, _: facts.update(model="no_such_model")),
    ("arguments may not hold checkpoint_path", lambda facts, _: facts["kwargs"].update(checkpoint_path="x.pth")),
    ("cannot be built with", lambda facts, _: facts["kwargs"].update(no_such_argument=1)),
    (f"what is kept of {CONV} does not fit", lambda facts, _: facts["plan"]["kept"][CONV].update({"0": [99]})),
    (f"what is kept of {CONV} does not fit", lambda facts, _: facts["plan"]["kept"][CONV].update({"7": [0]})),
    (f"what is kept of {CONV} does not fit", lambda facts, _: facts["plan"]["kept"][CONV]["0"].reverse()),
    (f"what is kept of {CONV} does not fit", lambda facts, _: facts["plan"]["columns"].update({CONV: [[0], [0, 1]]})),
    ("what is kept of evil does not fit", lambda facts, _: facts["plan"]["kept"].update({"evil": {"0": [1]}})),
    (f"{CONV} has shape", lambda _, tensors: tensors.update({CONV: tensors[CONV][1:].clone()})),
    ("fc.bias is not both in the file and in", lambda _, tensors: tensors.pop("fc.bias")),
    ("no forward", lambda facts, _: facts["plan"]["attributes"].update({"conv1": {"forward": 1}})),
    ("bn1.bias is not the bias of a layer", lambda facts, _: facts["plan"]["biases"].append("bn1.bias")),
]


@pytest.mark.parametrize(("told", "damage"), DAMAGES, ids=range(len(DAMAGES)))
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, saved: Path, told: str, damage: Damage) -> None:
    tensors = load_file(saved)
    with safe_open(saved, framework="pt") as file:
        facts = json.loads(file.metadata()[ENTRY])
    damage(facts, tensors)
    path = tmp_path / "damaged.safetensors"
    save_file(tensors, path, metadata={ENTRY: json.dumps(facts)})
    with pytest.raises(UserError) as caught:
        load_shrunk(path)
    assert told in str(caught.value) and "\n" not in str(caught.value)
