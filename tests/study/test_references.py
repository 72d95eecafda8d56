"""Driving a reference's pruning class by our run, shown with a small class of the same interface, since theirs is not here."""

from pathlib import Path

import pytest

from benchmarks.references import granet
from benchmarks.references.__main__ import main
from benchmarks.references.granet import final_density
from benchmarks.references.reference import INTERVAL, Job
from benchmarks.references.runs import Row, table
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


RIGL = '''
import torch

class RigLScheduler:
    """Keeps the first weights of the second layer, and says of every other step that it was a mask update instead."""

    def __init__(self, model, optimizer, dense_allocation, T_end, sparsity_distribution, ignore_linear_layers, delta, alpha):
        self.calls, self.weight = 0, model.hidden[2].weight
        mask = torch.arange(self.weight.numel()).view_as(self.weight) < dense_allocation * self.weight.numel()
        self.backward_masks = [None, mask]
        plain = optimizer.step
        def step():
            plain()
            self.weight.data *= mask
            with open(__file__ + ".steps", "a") as file:
                file.write(f"{int((self.weight != 0).sum())}\\n")
        optimizer.step = step

    def __call__(self):
        self.calls += 1
        return self.calls % 2 == 1
'''

ARGUMENTS = ["--densities", "0.1", "--seeds", "1", "--epochs", "2", "--jobs", "1"]


def test_the_class_masks_a_run_of_ours(clone: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--granet", str(clone), "--methods", "rigl_itop", *ARGUMENTS]
    words += ["--data-root", str(images), "--records", str(tmp_path)]
    with logging_restored():
        assert main(words) == 0
    said = capsys.readouterr().out
    (row,) = read(tmp_path / "references.csv", Row)
    assert (row.reference, row.method, row.setting, row.density, row.seed) == ("granet", "rigl_itop", "literal", 0.1, 0)
    assert row.active_density == pytest.approx(0.1, abs=1e-3)
    steps = (clone / "CIFAR" / "sparselearning" / "core.py.steps").read_text().split()
    assert steps == ["23520"] * 4  # a tenth of the first layer's weights
    assert [each.case for each in read(tmp_path / "runs.csv", runs.Row)] == ["rigl_itop"]
    assert "| VITA-Group/GraNet | rigl_itop | 0.1 | literal | 1 |" in said and "noise" not in said
    before = (tmp_path / "references.csv").read_bytes()
    assert main(words) == 0
    assert (tmp_path / "references.csv").read_bytes() == before
    assert capsys.readouterr().out in said


def test_a_scheduler_takes_the_place_of_steps(images: Path, tmp_path: Path) -> None:
    """rigl-torch's answer says whether the optimizer makes the step; no row stays of what fails."""
    (tmp_path / "rigl_torch").mkdir()
    (tmp_path / "rigl_torch" / "RigL.py").write_text(RIGL)
    words = ["--rigl-torch", str(tmp_path), *ARGUMENTS, "--data-root", str(images), "--records", str(tmp_path / "records")]
    with logging_restored():
        assert main(words) == 0
    assert (tmp_path / "rigl_torch" / "RigL.py.steps").read_text().split() == ["3000"] * 2
    (row,) = read(tmp_path / "records" / "references.csv", Row)
    assert row.active_density == pytest.approx(0.1, abs=1e-3)
    (ours,) = read(tmp_path / "records" / "runs.csv", runs.Row)
    assert ours.case == "rigl, distribution uniform, keep_dense [first]"


def test_what_fails_is_told_and_not_recorded(
    clone: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    core = clone / "CIFAR" / "sparselearning" / "core.py"
    core.write_text(CORE.replace("self.module = module", "raise ValueError('no such growth')"))
    words = ["--granet", str(clone), "--methods", "rigl_itop", *ARGUMENTS, "--data-root", str(images)]
    with logging_restored():
        assert main([*words, "--records", str(tmp_path)]) == 1
    assert "granet: rigl_itop, literal, density 0.1, seed 0: failed: no such growth" in capsys.readouterr().err
    assert read(tmp_path / "references.csv", Row) == []


def test_a_folder_that_is_no_clone_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="it should be a clone of VITA-Group/GraNet"):
        main(["--granet", str(tmp_path)])
    with pytest.raises(SystemExit):
        main([])
    assert "give a clone of one repository at least: --granet PATH, --rigl-torch PATH" in capsys.readouterr().err


def test_the_corrected_density_makes_up_for_the_update_that_is_left_out() -> None:
    steps = 8 * 468
    told = final_density("gmp", 0.005, steps, corrected=True)
    updates = steps // 2 // INTERVAL
    reached = 1 - (1 - told) * (1 - (1 - (updates - 1) / updates) ** 3)
    assert reached == pytest.approx(0.005) and told < 0.005
    assert (
        final_density("gmp", 0.005, steps, corrected=False) == final_density("rigl_itop", 0.005, steps, corrected=True) == 0.005
    )


def test_the_table_pairs_the_seeds() -> None:
    gmp = granet.REFERENCE.comparisons[1]
    pairs = []
    for seed, (ours, theirs) in enumerate([(0.805, 0.80), (0.827, 0.82)]):
        job = Job(reference=granet.REFERENCE, comparison=gmp, setting="literal", density=0.1, seed=seed, epochs=8, images=None)
        told = {"reference": "granet", "method": "gmp", "setting": "literal", "density": 0.1, "epochs": 8, "settings": ""}
        pairs.append((job, Row(**told, seed=seed, top1=theirs, active_density=0.11), ours))
    last = table(pairs).splitlines()[-1]
    assert last == "| VITA-Group/GraNet | gmp | 0.1 | literal | 2 | 81.60 | 81.00 | +0.60 ± 1.27 | 0.11000 |"
