"""Mean and deviation of the pixels: a key's, pretrained weights', a small set's own or ImageNet's."""

import pytest
import torch
import yaml

from dist_sparse import evaluate
from dist_sparse.build import resolved
from dist_sparse.config import Config, with_values
from dist_sparse.config.data import DataConfig
from dist_sparse.data.normalisation import IMAGENET_MEAN, IMAGENET_STD, check_kept, chosen
from dist_sparse.errors import UserError
from tests.command import here, train_here
from tests.data.compare import message_of
from tests.photos import write_photos
from tests.values import TINY_VIT

HALF = [0.5, 0.5, 0.5]


@pytest.fixture(params=["torchvision", "dali"])
def shown(request, load, tmp_path):
    """The first image of the validation split under ``keys``."""
    root = write_photos(tmp_path / "photos", train=2, val=1)
    keys = {"root": str(root), "backend": request.param, "image_size": 16, "workers": 0, "batch_size": 2}
    return lambda **more: next(iter(load("image_folder", **keys, **more).val)).images[0]


def test_folders_are_normalised_as_the_keys_say(shown):
    usual, half = shown(), shown(mean=HALF, std=[0.5, 0.25, 1.0])
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = usual * std + mean
    assert torch.allclose(half, (pixels - 0.5) / torch.tensor([0.5, 0.25, 1.0]).view(3, 1, 1), atol=1e-5)


def test_a_small_set_has_its_own_unless_told(load):
    own = next(iter(load("digits").val)).images
    told = next(iter(load("digits", mean=[0.0], std=[1.0]).val)).images
    assert torch.allclose(own, (told - 0.3058) / 0.3761, atol=1e-5)
    assert (told.min(), told.max()) == (0, 1)


def test_as_many_values_as_channels(load):
    assert message_of(lambda: load("digits", std=HALF)) == (
        "data.std=[0.5, 0.5, 0.5]: should be 1 values, one for each channel of digits"
    )


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ({"model.name": "vit_tiny_patch16_224"}, [*IMAGENET_MEAN]),
        ({"model.name": "vit_tiny_patch16_224", "model.pretrained": True}, HALF),
        ({"model.name": "resnet18", "model.pretrained": True}, [*IMAGENET_MEAN]),
        ({"model.name": "vit_tiny_patch16_224", "model.checkpoint": "weights.pt"}, HALF),
        ({"model.name": "cifar_resnet20", "model.checkpoint": "weights.pt"}, [*IMAGENET_MEAN]),
        ({"model.name": "resnet18", "model.checkpoint": "weights.pt", "data.name": "cifar10"}, [0.4914, 0.4822, 0.4465]),
        ({"model.name": "vit_tiny_patch16_224", "model.pretrained": True, "data.mean": [0.1, 0.2, 0.3]}, [0.1, 0.2, 0.3]),
        ({"model.name": "vit_tiny_patch16_224", "model.pretrained": True, "data.name": "cifar10"}, HALF),
        ({"model.name": "vit_tiny_patch16_224", "model.pretrained": True, "data.name": "digits"}, [0.3058]),
        (
            {
                "model.name": "resnet18",
                "model.pretrained": True,
                "model.kwargs": {"pretrained_cfg_overlay": {"mean": [0.0, 0.0, 0.0]}},
            },
            [0.0, 0.0, 0.0],
        ),
    ],
)
def test_what_pretrained_weights_expect_is_the_default(values, mean):
    config = resolved(with_values(Config(), {"data.name": "image_folder", "sparsity.method": "dense", **values}))
    assert config.data.mean == mean
    assert resolved(config) == config


def test_a_run_says_and_keeps_what_its_pretrained_weights_expect(tmp_path):
    """Weights of a file, with mean 0.5; evaluation then goes by the run's own configuration."""
    import timm
    from safetensors.torch import save_file

    kwargs = {**TINY_VIT, "img_size": 32, "depth": 1}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=2, **kwargs)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    values = {
        "data.name": "image_folder",
        "data.root": write_photos(tmp_path / "photos", train=4, val=2),
        "data.backend": "torchvision",
        "data.workers": 0,
        "data.image_size": 32,
        "model.name": "vit_tiny_patch16_224",
        "model.pretrained": True,
        "model.kwargs": {
            **kwargs,
            "pretrained_cfg_overlay": {"file": str(tmp_path / "weights.safetensors"), "num_classes": 2},
        },
        "train.epochs": 1,
        "train.batch_size": 4,
        "sparsity.method": "static",
        "sparsity.density": 0.3,
        "tracking.wandb": "disabled",
        "engine.device": "cpu",
        "output": tmp_path / "run",
    }
    outcome = train_here(values)
    assert outcome.code == 0
    half, whose = "mean [0.5,0.5,0.5] and deviation [0.5,0.5,0.5]", "timm's pretrained weights of this name expect"
    said = f"images are normalised by {half}, as {whose} (data.mean, data.std)"
    assert said in outcome.out.splitlines()
    resized, keys = (
        "by bicubic interpolation to 35 for a center crop of 32 pixels",
        "(data.interpolation, data.resize, data.crop_mode)",
    )
    assert f"validation images are resized {resized}, as {whose} {keys}" in outcome.out.splitlines()
    kept = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["data"]
    assert (kept["mean"], kept["std"]) == (HALF, HALF)
    assert (kept["interpolation"], kept["eval_interpolation"], kept["crop_mode"], kept["resize"]) == (
        "bicubic",
        "bicubic",
        "center",
        35,
    )
    words = ["--data.mean=[0,0,0]", "--data.std=[0.001,0.001,0.001]"]
    own, other = (here(evaluate.main, [str(tmp_path / "run"), *more]).out for more in ([], words))
    final = next(line for line in outcome.out.splitlines() if line.startswith("top-1 ")).partition(" (")[0]
    assert final in own
    assert own != other
    outcome = train_here({**values, "output": tmp_path / "other", "data.mean": "[0.4,0.5,0.5]", "data.resize": 40})
    assert f"to 40 for a center crop of 32 pixels, but {whose} {resized} {keys}" in outcome.out
    assert f"but {whose} {half} (data.mean, data.std)" in outcome.out


def test_a_run_of_before_the_keys_goes_on_with_what_it_had():
    config = DataConfig(name="image_folder", mean=HALF, std=HALF)
    check_kept({"data.mean": HALF}, config)
    check_kept({}, DataConfig(name="image_folder", mean=[*IMAGENET_MEAN], std=[*IMAGENET_STD]))
    with pytest.raises(UserError, match=r"--data.mean=\[0.485,0.456,0.406\] --data.std=.* goes on with them$"):
        check_kept({}, config)
    assert chosen(DataConfig(name="noise")).mean == (0.5, 0.5, 0.5)
