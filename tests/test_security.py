"""No file of a stranger runs code: what SECURITY.md says, with files that would."""

import io
import pickle
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dist_sparse.config.data import DataConfig
from dist_sparse.data import Loading, build_data
from dist_sparse.data.decoding import BadImage, decode
from dist_sparse.data.forgetting import Ranking
from dist_sparse.data.images.shards import index, webdataset
from dist_sparse.data.tiny_imagenet import _load as load_decoded
from dist_sparse.errors import UserError
from dist_sparse.evaluate import main as evaluate
from dist_sparse.export.__main__ import main as export
from dist_sparse.plasticity.__main__ import main as plasticity
from dist_sparse.train import main as train
from tests.command import Outcome, here, train_here
from tests.values import QUIET

RUN = {
    **QUIET,
    "data.limit": 60,
    "model.kwargs": {"width": 0.25, "blocks": 1},
    "train.epochs": 2,
    "train.batch_size": 20,
    "checkpoint.every": "2 steps",
    "sparsity.method": "static",
    "sparsity.density": 0.5,
}
"""6 steps."""


class Payload:
    """Makes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.mark), "w")


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What a payload that was run leaves."""
    return tmp_path / "it was run"


def as_zip(content: object, path: Path) -> None:
    torch.save(content, path)


def as_old_torch(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def as_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert train_here({**RUN, "output": folder}).code == 0
    return folder


def refused(outcome: Outcome, mark: Path) -> str:
    """The one line of a refusal."""
    assert not mark.exists()
    assert (outcome.code, len(outcome.errors)) == (2, 1), outcome.err
    return outcome.errors[0]


def test_the_payload_would_run(mark: Path, tmp_path: Path) -> None:
    as_pickle(Payload(mark), tmp_path / "file")
    pickle.loads((tmp_path / "file").read_bytes()).close()
    assert mark.exists()


@pytest.mark.parametrize("write", [as_zip, as_old_torch, as_pickle])
def test_no_command_runs_a_checkpoint(run: Path, tmp_path: Path, mark: Path, write: Any) -> None:
    state = torch.load(run / "checkpoints" / "best.pt", weights_only=True)
    path = tmp_path / "stranger.pt"
    write({**state, "method": Payload(mark)}, path)
    resumed = train_here({**RUN, "output": tmp_path / "resumed", "resume": path})
    assert "stranger.pt: not a sound checkpoint" in refused(resumed, mark)
    for command in (evaluate, export, plasticity):
        assert "stranger.pt: not a sound checkpoint" in refused(here(command, [str(run), f"--checkpoint={path}"]), mark)


def test_a_checkpoint_put_into_the_run_s_folder_is_passed_over(tmp_path: Path, mark: Path) -> None:
    values = {**RUN, "output": tmp_path / "run", "resume": "auto"}
    assert train_here(values, interrupt_after=5).code == 130
    for name in ("step_00000099.pt", "best.pt"):
        (path := tmp_path / "run" / "checkpoints" / name).unlink(missing_ok=True)
        as_zip({"progress": Payload(mark)}, path)
    outcome = train_here(values)
    assert outcome.code == 0
    assert "step_00000099.pt: not a sound checkpoint" in outcome.err
    assert not mark.exists()


def test_weights_for_the_network_are_weights_only(tmp_path: Path, mark: Path) -> None:
    as_zip({"conv1.weight": Payload(mark)}, path := tmp_path / "weights.pt")
    values = {**RUN, "model.checkpoint": str(path), "output": tmp_path / "run"}
    assert "model.checkpoint=" in refused(train_here(values), mark)
    values = {**RUN, "model.kwargs": {"width": 0.25, "checkpoint_path": str(path)}, "output": tmp_path / "run"}
    assert "model.checkpoint starts from a file" in refused(train_here(values), mark)


def test_a_ranking_is_tensors(tmp_path: Path, mark: Path) -> None:
    as_zip({"data": "digits", "counts": Payload(mark)}, path := tmp_path / "ranking.pt")
    with pytest.raises(UserError, match="is not a ranking that a run has saved"):
        Ranking.load(path, data="digits", size=1437)
    assert not mark.exists()


def test_caches_beside_the_data_hold_no_objects(tmp_path: Path, mark: Path) -> None:
    np.savez(tmp_path / "index.npz", allow_pickle=True, **dict.fromkeys(index.Index._fields, np.array([Payload(mark)])))
    assert index._load(tmp_path / "index.npz") is None
    as_zip({"listing": "same", "images": Payload(mark), "labels": None}, tmp_path / "decoded.pt")
    assert load_decoded(tmp_path / "decoded.pt", "same") is None
    as_zip(["something else"], tmp_path / "decoded.pt")
    assert load_decoded(tmp_path / "decoded.pt", "same") is None
    assert not mark.exists()


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_s_pickles_are_read_only_with_the_published_checksum(tmp_path: Path, mark: Path, classes: int) -> None:
    from torchvision.datasets import CIFAR10, CIFAR100

    cls = {10: CIFAR10, 100: CIFAR100}[classes]
    (tmp_path / cls.base_folder).mkdir()
    for name, _ in [*cls.train_list, *cls.test_list, (cls.meta["filename"], "")]:
        as_pickle({"data": Payload(mark)}, tmp_path / cls.base_folder / name)
    loading = Loading(batch_size=8, accumulation=1, eval_batch_size=8, rank=0, world_size=1, device=torch.device("cpu"), seed=0)
    with pytest.raises(UserError, match="is missing or damaged"):
        build_data(DataConfig(name=f"cifar{classes}", root=str(tmp_path)), loading)
    assert not mark.exists()


def test_a_configuration_is_data(tmp_path: Path, mark: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"model: {{kwargs: !!python/object/apply:builtins.open ['{mark}', w]}}\n")
    assert "config.yaml" in refused(here(train, [f"--config={path}"]), mark)
    for value in (f"open({str(mark)!r}, 'w')", f"!!python/object/apply:builtins.open ['{mark}', w]"):
        refused(here(train, [f"--optim.lr={value}", f"--output={tmp_path / 'run'}"]), mark)


def test_an_image_that_would_fill_the_memory_is_a_bad_image() -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(60_001))) + chunk(b"IEND", b"")
    found = decode(lambda: bomb, "bomb.png")
    assert isinstance(found, BadImage)
    assert "exceeds limit" in found.reason


def test_members_of_a_shard_are_not_unpacked(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    with tarfile.open(folder / "shard.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in (("../escaped.jpg", b"\xff\xd8"), ("../escaped.cls", b"3")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (entry,) = webdataset.scan(folder / "shard.tar")
    assert entry.label == 3
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["shard.tar", "shards"]
