"""Checks that load compiled libraries, which may end their process: each runs in a child process of the doctor's."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from dist_sparse.doctor.finding import Finding, size
from dist_sparse.doctor.machine import ask, usable_cores
from dist_sparse.doctor.packages import wandb_key
from dist_sparse.errors import UserError, one_line
from dist_sparse.execution.compiling import compiler
from dist_sparse.leaving import importing

_TEST_ELEMENTS = 1 << 20


def pytorch() -> Iterator[Finding]:
    """That what every run imports can be imported, with the threads that torch takes, and a group of one rank."""
    try:
        with importing():
            import timm
            import torch
            import torchvision
            import torchvision.ops
    except Exception as error:
        advice = "torch and torchvision must be builds of one another: pip install --force-reinstall torch torchvision"
        text = f"cannot be imported: {type(error).__name__}: {error}"
        yield Finding(name="PyTorch", status="broken", text=text, advice=advice)
        return
    threads, usable = torch.get_num_threads(), usable_cores()
    text = f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}; {threads} threads"
    if threads > usable:
        advice = f"more threads than the {usable:g} usable cores: export OMP_NUM_THREADS={max(int(usable), 1)}"
        yield Finding(name="PyTorch", status="slow", text=text, advice=advice)
    else:
        yield Finding(name="PyTorch", status="ok", text=text)
    yield _all_reduce("gloo", "cpu", "ranks on CPUs cannot start; GLOO_SOCKET_IFNAME names another network interface")


def gpus() -> Iterator[Finding]:
    """GPUs, their driver, and NCCL."""
    import torch
    from torch.cuda import nccl

    driver = _driver()
    if not torch.cuda.is_available():
        yield _no_gpu(torch.version.cuda, driver)
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        text = f"{properties.name}, {size(properties.total_memory)}, compute capability {properties.major}.{properties.minor}"
        try:
            free, _ = torch.cuda.mem_get_info(index)
            matrix = torch.ones(256, 256, device=f"cuda:{index}")
            right = bool((matrix @ matrix == 256).all())
        except Exception as error:
            advice = f"nvidia-smi tells whether it is in use or has failed; CUDA_VISIBLE_DEVICES leaves it out ({driver})"
            text += f"; a product fails: {error}"
            yield Finding(name=f"GPU {index}", status="broken", text=text, advice=advice)
            continue
        if not right:
            advice = "the GPU computes wrong results: leave it out with CUDA_VISIBLE_DEVICES, and have it tested"
            yield Finding(name=f"GPU {index}", status="broken", text=text, advice=advice)
        elif free < properties.total_memory / 2:
            advice = "another process has it: nvidia-smi names that; CUDA_VISIBLE_DEVICES chooses others"
            yield Finding(name=f"GPU {index}", status="slow", text=f"{text}, only {size(free)} free", advice=advice)
        else:
            yield Finding(name=f"GPU {index}", status="ok", text=text)
    yield Finding(name="driver", status="ok", text=f"{driver}; torch is built for CUDA {torch.version.cuda}")
    version = ".".join(map(str, nccl.version()))
    failing = "ranks on GPUs cannot start: NCCL_DEBUG=INFO tells more; engine.device=cpu trains on the CPU"
    yield _all_reduce("nccl", "cuda", failing, version)


def compiled_kernels() -> Iterator[Finding]:
    """The kernels of execution.compute on the CPU: compiled by a C++ compiler, or of plain torch."""
    from dist_sparse.execution import self_test
    from dist_sparse.execution.backends import compiled_backend, torch_backend
    from dist_sparse.execution.compiling import NoKernels
    from dist_sparse.execution.kernels import kernels

    try:
        self_test.check(compiled_backend(kernels()))
    except NoKernels as error:
        advice = "masked layers are computed densely, as correct and slower: install a C++ compiler (g++), or set CXX"
        yield Finding(name="sparse kernels, CPU", status="slow", text=str(error), advice=advice)
    else:
        yield Finding(name="sparse kernels, CPU", status="ok", text="compiled, and right in their self-test")
    try:
        self_test.check(torch_backend())
    except NoKernels as error:
        advice = "without them execution.compute=sparse is refused where no compiler is; report it with this line"
        yield Finding(name="in plain torch", status="note", text=str(error), advice=advice)
    else:
        yield Finding(name="in plain torch", status="ok", text="right in their self-test")


def triton_kernels() -> Iterator[Finding]:
    """Triton, and its kernels where there is a GPU for them."""
    import torch

    from dist_sparse.execution import self_test
    from dist_sparse.execution.backends import triton_backend
    from dist_sparse.execution.compiling import NoKernels

    advice = "execution.compute=sparse and train.compile need it on a GPU: pip install triton"
    try:
        backend = triton_backend()
        import triton
    except NoKernels as error:
        yield Finding(name="Triton", status="note", text=str(error), advice=advice)
        return
    text = f"Triton {triton.__version__}"
    if not torch.cuda.is_available():
        yield Finding(name="Triton", status="ok", text=f"{text}; its kernels are for GPUs, and none is here to try them on")
        return
    try:
        self_test.check(backend)
    except NoKernels as error:
        advice = "execution.compute=auto goes on densely; Triton needs a C compiler and Python.h; report it with this line"
        yield Finding(name="Triton", status="note", text=f"{text}: {error}", advice=advice)
    else:
        yield Finding(name="Triton", status="ok", text=f"{text}; its kernels are right in their self-test")


def dali() -> Iterator[Finding]:
    """That DALI, where it is installed, runs a pipeline."""
    try:
        import nvidia.dali as dali
    except ModuleNotFoundError:
        return  # the line of the extra says so
    import torch

    device = 0 if torch.cuda.is_available() else None
    pipeline = dali.Pipeline(batch_size=1, num_threads=1, device_id=device)
    with pipeline:
        pipeline.set_outputs(
            dali.fn.constant(  # pyright: ignore[reportAttributeAccessIssue]
                idata=[7], device="cpu" if device is None else "gpu"
            )
        )
    pipeline.build()
    pipeline.run()
    text = f"DALI {dali.__version__} runs a pipeline {'on the CPU' if device is None else 'on the GPU'}"
    yield Finding(name="DALI", status="ok", text=text)


def deepspeed() -> Iterator[Finding]:
    """That DeepSpeed, where it is installed, can be imported."""
    try:
        import deepspeed
    except ModuleNotFoundError as error:
        if error.name != "deepspeed":
            raise
        return
    text = f"DeepSpeed {deepspeed.__version__} can be imported"
    if not shutil.which("ninja") or not shutil.which(compiler()[0]):
        advice = "its first start builds an extension with ninja and a C++ compiler: pip install ninja; apt-get install g++"
        yield Finding(name="DeepSpeed", status="slow", text=text, advice=advice)
    else:
        yield Finding(name="DeepSpeed", status="ok", text=text)


CHECKS: Mapping[str, tuple[Callable[[], Iterator[Finding]], str]] = {
    "PyTorch": (pytorch, "nothing of dist_sparse runs: install torch and torchvision anew"),
    "GPU": (gpus, "see that nvidia-smi answers and that torch is built for this driver; engine.device=cpu does without"),
    "sparse kernels, CPU": (compiled_kernels, "remove ~/.cache/dist_sparse; execution.compute=dense does without them"),
    "Triton": (triton_kernels, "execution.compute=dense does without it"),
    "DALI": (dali, "data.backend=torchvision does without it"),
    "DeepSpeed": (deepspeed, "engine.name=ddp does without it"),
    "W&B key": (wandb_key, "tracking.wandb=disabled does without it"),
}
"""By name: the check, and what to do if it ends its process or never comes to an end."""


def _driver() -> str:
    try:
        versions = ask("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()
    except UserError as error:
        return one_line(error)
    return f"driver {versions[0]}" if versions else "nvidia-smi sees no GPU"


def _no_gpu(built_for: str | None, driver: str) -> Finding:
    """Why torch sees none: there is none, it is hidden, or torch and the driver do not fit."""
    hidden, there = os.environ.get("CUDA_VISIBLE_DEVICES"), driver.startswith("driver ")
    if hidden is not None:
        text, advice = f"none is visible: CUDA_VISIBLE_DEVICES={hidden!r} ({driver})", "unset it, or name GPUs, such as 0,1"
    elif there and built_for is None:
        text, advice = f"{driver}, but this torch is built without CUDA", "install a torch build for CUDA"
    elif there:
        text = f"{driver}, but torch, built for CUDA {built_for}, cannot use it"
        advice = "a newer driver, or a torch build for an older CUDA"
    else:
        return Finding(name="GPU", status="note", text=f"none ({driver})", advice="runs go to the CPU: engine.device=cpu")
    return Finding(name="GPU", status="broken" if there and hidden is None else "note", text=text, advice=advice)


def _all_reduce(backend: str, device: str, failing: str, version: str = "") -> Finding:
    """A sum over a group of this process alone: loads the library and opens what ranks meet by."""
    import torch
    import torch.distributed as dist

    name, shown = ("NCCL", f"NCCL {version}") if backend == "nccl" else (backend, backend)
    with tempfile.TemporaryDirectory() as folder:
        try:
            store = dist.FileStore(str(Path(folder) / "store"), 1)
            dist.init_process_group(backend, store=store, rank=0, world_size=1)
            values = torch.ones(_TEST_ELEMENTS, device=device)
            dist.all_reduce(values)
            right = bool((values == 1).all())
        except Exception as error:
            return Finding(name=name, status="broken", text=f"{shown} fails: {error}", advice=failing)
        finally:
            with contextlib.suppress(Exception):
                dist.destroy_process_group()
    if not right:
        return Finding(name=name, status="broken", text=f"{shown} adds up wrongly", advice=failing)
    return Finding(name=name, status="ok", text=f"{shown} starts, and adds up")
