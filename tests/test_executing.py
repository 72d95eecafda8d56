"""What a configuration and a device allow of sparse execution."""

import dataclasses

import pytest
import torch

from dist_sparse.config import load_config
from dist_sparse.config.execution import Compute, ExecutionConfig
from dist_sparse.executing import impossible
from tests.command import ROOT

NOT_MEASURED = "nothing is measured on CUDA yet; execution.compute=sparse takes what there is for it"


@pytest.mark.parametrize(
    ("compute", "device", "reason"),
    [("auto", "cpu", ""), ("sparse", "cpu", ""), ("auto", "cuda", NOT_MEASURED), ("sparse", "cuda", ""), ("auto", None, "")],
)
def test_on_cuda_it_has_to_be_asked_for(compute: Compute, device: str | None, reason: str) -> None:
    config = load_config(str(ROOT / "configs" / "digits" / "set.yaml"))
    config = dataclasses.replace(config, execution=ExecutionConfig(compute=compute))
    assert impossible(config, None if device is None else torch.device(device)) == reason
