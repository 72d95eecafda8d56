"""What one test could leave changed for those after it in the same process, so that their order does not matter."""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

_OF_LIBRARIES = (
    "PYTEST_", "COV_", "WANDB_", "DS_", "CUDA_", "TORCH", "PYTORCH_", "TRITON", "KMP_", "LOCAL_RANK", "PYDANTIC", "MPL",
)  # fmt: skip
"""Beginnings of environment variables that pytest sets, or a library once, when it is first imported or used."""


class State:
    """The process as it is now: its loggers, hooks, environment and folder, and torch's defaults once it is imported."""

    def __init__(self) -> None:
        self._levels = {logger: (logger.level, logger.propagate, logger.disabled) for logger in _loggers()}
        self._handlers = {logger: tuple(logger.handlers) for logger in self._levels if logger.handlers}
        self._hooks = (sys.excepthook, sys.unraisablehook)
        self._signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
        self._environment, self._folder, self._path = dict(os.environ), Path.cwd(), list(sys.path)
        self._torch = _torch_defaults() if "torch" in sys.modules else None

    def restore(self) -> list[str]:
        """Set back whatever is no longer as it was, and name it."""
        steps = (
            self._loggers_back, self._warnings_back, self._hooks_back, self._signals_back,
            self._environment_back, self._folder_back, self._torch_back,
        )  # fmt: skip
        return [name for step in steps for name in step()]

    def _loggers_back(self) -> list[str]:
        changed = []
        for logger, kept in self._levels.items():
            if (logger.level, logger.propagate, logger.disabled) != kept and _is_ours(logger):
                changed.append(f"the level or propagation of logger {logger.name}")
            logger.level, logger.propagate, logger.disabled = kept
            if tuple(logger.handlers) != (handlers := self._handlers.get(logger, ())) and _is_ours(logger):
                changed.append(f"the handlers of logger {logger.name}")
                for handler in set(logger.handlers) - set(handlers):
                    handler.close()
                logger.handlers = list(handlers)
        for logger in _loggers():
            if _is_ours(logger) and logger not in self._levels and logger.level != logging.NOTSET:
                changed.append(f"the level of logger {logger.name}")
                logger.setLevel(logging.NOTSET)
        logging.Logger.manager._clear_cache()  # pyright: ignore[reportAttributeAccessIssue]  (who is enabled for what)
        return changed

    def _warnings_back(self) -> list[str]:
        # pytest takes back the filters of each test by itself, but not that logging believes to have captured warnings.
        if logging._warnings_showwarning is None:  # pyright: ignore[reportAttributeAccessIssue]
            return []
        shown = warnings.showwarning
        logging.captureWarnings(False)
        warnings.showwarning = shown
        return ["logging.captureWarnings"]

    def _hooks_back(self) -> list[str]:
        # W&B leaves its own behind at the end of a run, and torch that of a process group.
        changed = [
            hook for hook in (sys.excepthook, sys.unraisablehook)
            if hook not in self._hooks and not (getattr(hook, "__module__", None) or "").startswith(("wandb.", "torch."))
        ]  # fmt: skip
        sys.excepthook, sys.unraisablehook = self._hooks
        return ["sys.excepthook"] if changed else []

    def _signals_back(self) -> list[str]:
        changed = [number for number, handler in self._signals.items() if signal.getsignal(number) != handler]
        for number in changed:
            signal.signal(number, self._signals[number])
        return [f"the handler of {number.name}" for number in changed]

    def _environment_back(self) -> list[str]:
        before, now = self._environment, os.environ
        changed = [name for name in {*before, *now} if before.get(name) != now.get(name) and not name.startswith(_OF_LIBRARIES)]
        for name in changed:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]
        return [f"environment variable {name}" for name in sorted(changed)]

    def _folder_back(self) -> list[str]:
        changed = Path.cwd() != self._folder
        os.chdir(self._folder)
        path = sys.path != self._path
        sys.path[:] = self._path
        return ["the working directory"] * changed + ["sys.path"] * path

    def _torch_back(self) -> list[str]:
        if self._torch is None:
            return []
        now = _torch_defaults()
        changed = [name for name, (value, _) in self._torch.items() if now[name][0] != value]
        for name in changed:
            value, put_back = self._torch[name]
            put_back(value)
        return changed


def same_draws() -> None:
    """Seed torch's global generator, so that no draw depends on the tests before, nor on a seed taken from the clock."""
    if "torch" in sys.modules:
        import torch

        torch.default_generator.manual_seed(0)  # torch.manual_seed would ask about CUDA as well


def _is_ours(logger: logging.Logger) -> bool:
    return logger.name == "root" or logger.name.split(".")[0] in ("dist_sparse", "py")


def _loggers() -> list[logging.Logger]:
    known = logging.root.manager.loggerDict.values()
    return [logging.root, *(logger for logger in known if isinstance(logger, logging.Logger))]


def _torch_defaults() -> dict[str, tuple[Any, Callable[[Any], object]]]:
    """By name: the value, and what sets it."""
    import torch
    import torch.distributed as dist
    import torch.nn.functional as F

    def leave_group(_: object) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    return {
        "torch's default type": (torch.get_default_dtype(), torch.set_default_dtype),
        "torch's number of threads": (torch.get_num_threads(), torch.set_num_threads),
        "torch's deterministic algorithms": (
            torch.are_deterministic_algorithms_enabled(),
            torch.use_deterministic_algorithms,
        ),
        "gradient mode": (torch.is_grad_enabled(), torch.set_grad_enabled),
        "autocast": (torch.is_autocast_enabled("cpu"), lambda enabled: torch.set_autocast_enabled("cpu", enabled)),
        "the precision of matrix products": (torch.get_float32_matmul_precision(), torch.set_float32_matmul_precision),
        "torch.nn.functional.linear": (F.linear, lambda function: setattr(F, "linear", function)),
        "the process group": (dist.is_initialized(), leave_group),
    }
