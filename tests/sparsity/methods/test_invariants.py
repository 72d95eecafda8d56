"""What holds after every step, whatever the model, the optimizer and the method.

Off-mask weights, gradients and optimizer state are exactly 0, the active count is the scheduled integer, and what has just
grown starts from 0.
"""

from dataclasses import dataclass

import hypothesis.strategies as st
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from dist_sparse.config.duration import Length
from dist_sparse.config.schema import OptimConfig
from dist_sparse.config.sparsity import ShuffledBlockConfig, SparsityConfig, UpdateConfig
from dist_sparse.optim import build_optimizer
from dist_sparse.sparsity.structures import parse_structure

KEEPS_ZEROS = {"sgd": True, "momentum": True, "adamw": True, "lookahead": True, "muon": False}  # muon mixes entries
STRUCTURED = ["block:2x1", "nm:1:2", "fan_in", "kernel", "kernel_per_filter", "pattern", "channel", "filter"]
CLASSES, STEPS = 3, 8  # lookahead first moves its slow weights on step 6


@dataclass(frozen=True)
class Case:
    channels: int
    hidden: int
    kernel: int
    groups: int
    channels_last: bool
    density: float
    distribution: str
    structure: str
    optimizer: str
    method: str
    form: str
    interval: int
    gradient_steps: int
    drop_fraction: float
    distinct: int
    """Weights are rounded to multiples of 1 / distinct after each step, so that many tie."""

    def config(self) -> SparsityConfig:
        update = UpdateConfig(
            form=self.form,
            interval=Length(self.interval, "steps"),
            drop_fraction=self.drop_fraction,
            drop_schedule="constant",
            gradient_steps=self.gradient_steps,
        )
        moving = {} if self.method == "static" else {"update": update}
        return SparsityConfig(
            method=self.method,
            density=self.density,
            distribution=self.distribution,
            structure=self.structure,
            shuffled_block=ShuffledBlockConfig(size=2) if self.method == "shuffled_block" else ShuffledBlockConfig(),
            keep_dense=self.keep_dense(),
            **moving,
        )

    def keep_dense(self) -> list[str]:
        """Three classes make no block, and only the first layer has kernels."""
        return {"unstructured": [], "pattern": ["last", "3.weight", "6.weight"]}.get(self.structure, ["last"])

    def model(self) -> nn.Module:
        model = nn.Sequential(
            nn.Conv2d(2, self.channels, self.kernel, padding=1),
            nn.BatchNorm2d(self.channels),
            nn.ReLU(),
            nn.Conv2d(self.channels, self.channels, 1, groups=self.groups, bias=False),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * self.channels, self.hidden),
            nn.Linear(self.hidden, CLASSES),
        )
        return model.to(memory_format=torch.channels_last) if self.channels_last else model


@st.composite
def cases(draw: st.DrawFn) -> Case:
    interval = draw(st.integers(1, 4))
    structure = draw(st.just("unstructured") | st.sampled_from(STRUCTURED))
    coarse, fixed = structure != "unstructured", structure == "nm:1:2"
    most = float(parse_structure(structure).capacity)
    return Case(
        channels=draw(st.sampled_from([4, 8] if coarse else [2, 4, 6])),
        hidden=draw(st.sampled_from([4, 8]) if coarse else st.integers(3, 12)),
        kernel=3 if structure == "pattern" else draw(st.sampled_from([1, 3])),
        groups=draw(st.sampled_from([1, 2])),
        structure=structure,
        channels_last=draw(st.booleans()),
        density=0.5 if fixed else draw(st.floats(most * (0.5 if coarse else 0.3), most)),
        distribution="uniform" if fixed else draw(st.sampled_from(["erk", "er", "uniform"])),
        optimizer=draw(st.sampled_from(sorted(KEEPS_ZEROS))),
        method=draw(st.sampled_from(["static", "set", "rigl", *([] if coarse else ["shuffled_block"])])),
        form=draw(st.sampled_from(["original", "itop"])),
        interval=interval,
        gradient_steps=draw(st.sampled_from([each for each in (1, 3) if each <= interval])),
        drop_fraction=draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])),
        distinct=draw(st.sampled_from([1, 4, 1000])),
    )


def is_zero(tensor: Tensor, where: Tensor) -> bool:
    return not tensor.detach()[where].count_nonzero()


def optimizer_of(name: str) -> OptimConfig:
    return OptimConfig(lookahead=True, lr=0.05) if name == "lookahead" else OptimConfig(name=name, lr=0.05)


@given(cases())
@settings(max_examples=80)
def test_invariants(small_run, case: Case) -> None:
    draws = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = case.model()
    optimizer = build_optimizer(optimizer_of(case.optimizer), model, 8)
    run = small_run(model, optimizer, case.config(), remask=not KEEPS_ZEROS[case.optimizer])
    masks, structure = run.method.masks, parse_structure(case.structure)
    scheduled = masks.active()
    explored = masks.exploration()

    def gradients_are_masked() -> None:
        for name in masks.names:
            assert is_zero(run.engine.grad(name), ~masks[name]), f"gradient of {name}"

    for _ in range(STEPS):
        before = {name: masks[name] for name in masks.names}
        images = torch.randn(8, 2, 4, 4, generator=draws)
        labels = torch.randint(CLASSES, (8,), generator=draws)
        decision = run.step(images, labels, on_gradients=gradients_are_masked)

        due = case.method != "static" and run.number % case.interval == 0
        assert decision.updates_masks == due
        assert decision.skip_optimizer == (due and case.form == "original")
        for name, weight in masked_weights(model, masks.names).items():
            state = run.per_weight_state(name)
            assert int(masks[name].sum()) == masks.active()[name] == scheduled[name]
            for label, tensor in {"weight": weight, **state}.items():
                assert is_zero(tensor, ~masks[name]), f"{label} of {name} off its mask"
                assert is_zero(tensor, masks[name] & ~before[name]), f"{label} of {name} where it has just grown"
            was_active, is_active = structure.active(before[name]), structure.active(masks[name])
            assert torch.equal(is_active.sum(1), was_active.sum(1)), "in every set"
            assert torch.equal(structure.mask(is_active, weight.shape, before=masks[name]), masks[name]), "only whole units"
            both = structure.mask(was_active & is_active, weight.shape, before=before[name])
            assert not (both & ~masks[name]).any(), "a unit that stays holds what it held"
            if not due:
                assert torch.equal(masks[name], before[name])
        assert masks.digests() == masks.digests(in_memory=True), "the bits beside a mask are its own"
        assert explored <= (explored := masks.exploration())
        round_weights(model, case.distinct)


def masked_weights(model: nn.Module, names: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: model.get_parameter(name).detach() for name in names}


@torch.no_grad()
def round_weights(model: nn.Module, distinct: int) -> None:
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.copy_((parameter * distinct).round() / distinct)
