"""Driving a reference's pruning class by our run, shown with a small class of the same interface, since theirs is not here."""

from pathlib import Path

import pytest

from benchmarks.references import INTERVAL, Row, final_density, main, table
from benchmarks.study import runs
from benchmarks.study.record import read
from tests.command import logging_restored

CORE = '''
import torch

class CosineDecay:
    def __init__(self, prune_rate, T_max):
        self.prune_rate, self.T_max = prune_rate, T_max

class Masking:
    """Keeps the largest weights of each layer, as they were at the start."""

    def __init__(self, optimizer, prune_rate, prune_rate_decay, growth_mode, redistribution_mode, args, train_loader):
        self.optimizer, self.args, self.masks = optimizer, args, {}

    def add_module(self, module):
        self.module = module
        for name, weight in module.named_parameters():
            if weight.dim() > 1:
                least = weight.detach().abs().flatten().kthvalue(int(weight.numel() * (1 - self.args.init_density)))[0]
                self.masks[name] = (weight.detach().abs() > least).float().cuda()
        self.apply()

    def apply(self):
        for name, weight in self.module.named_parameters():
            if name in self.masks:
                weight.data = weight.data * self.masks[name]

    def step(self):
        assert all(weight.grad is not None for weight in self.module.parameters())
        self.optimizer.step()
        self.apply()
        with open(__file__ + ".steps", "a") as file:
            file.write(f"{int((self.module.hidden[0].weight != 0).sum())}\\n")
        print("noise")
'''


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "clone" / "CIFAR" / "sparselearning"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "core.py").write_text(CORE)
    return tmp_path / "clone"


def test_the_class_masks_a_run_of_ours(clone: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--granet", str(clone), "--methods", "rigl_itop", "--densities", "0.1", "--seeds", "1", "--epochs", "2"]
    words += ["--data-root", str(images), "--records", str(tmp_path)]
    with logging_restored():
        main(words)
    said = capsys.readouterr().out
    (row,) = read(tmp_path / "references.csv", Row)
    assert (row.method, row.setting, row.density, row.seed) == ("rigl_itop", "literal", 0.1, 0)
    assert row.active_density == pytest.approx(0.1, abs=1e-3)
    steps = (clone / "CIFAR" / "sparselearning" / "core.py.steps").read_text().split()
    assert steps == ["23520"] * 4  # a tenth of the first layer's weights
    assert [each.case for each in read(tmp_path / "runs.csv", runs.Row)] == ["rigl_itop"]
    assert "| rigl_itop | 0.1 | literal | 1 |" in said and "noise" not in said
    before = (tmp_path / "references.csv").read_bytes()
    main(words)
    assert (tmp_path / "references.csv").read_bytes() == before
    assert capsys.readouterr().out in said


def test_a_folder_that_is_no_clone_is_told(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="it should be a clone of VITA-Group/GraNet"):
        main(["--granet", str(tmp_path)])


def test_the_corrected_density_makes_up_for_the_update_that_is_left_out() -> None:
    steps = 8 * 468
    told = final_density("gmp", 0.005, steps, corrected=True)
    updates = steps // 2 // INTERVAL
    reached = 1 - (1 - told) * (1 - (1 - (updates - 1) / updates) ** 3)
    assert reached == pytest.approx(0.005) and told < 0.005
    assert (
        final_density("gmp", 0.005, steps, corrected=False) == final_density("rigl_itop", 0.005, steps, corrected=True) == 0.005
    )


def test_the_table_compares_the_seeds_that_both_have() -> None:
    rows = [
        Row(method="gmp", setting="literal", density=0.1, seed=seed, epochs=8, settings="", top1=top1, active_density=0.11)
        for seed, top1 in enumerate([0.80, 0.82])
    ]
    text = table({("gmp", 0.1): {0: 80.5, 1: 82.7, 2: 10.0}}, rows)
    assert text.splitlines()[-1] == "| gmp | 0.1 | literal | 2 | 81.60 | 81.00 | +0.60 ± 1.27 | 0.11000 |"
