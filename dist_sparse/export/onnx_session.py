"""A network in ONNX Runtime, on the CPU."""

from pathlib import Path

import torch
from torch import Tensor


class Session:
    """Computes logits of images [B, C, H, W]."""

    def __init__(self, model: bytes | Path) -> None:
        """As many threads compute as torch has."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        content = model if isinstance(model, bytes) else str(model)
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        (self._input,) = self._session.get_inputs()

    @property
    def metadata(self) -> dict[str, str]:
        """What the model says of itself."""
        return self._session.get_modelmeta().custom_metadata_map

    def __call__(self, images: Tensor) -> Tensor:
        (logits,) = self._session.run(None, {self._input.name: images.float().contiguous().numpy()})
        return torch.from_numpy(logits)
