"""``onnx``: a graph with its weights, for batches of any size, which ONNX Runtime has computed before it is written.

Its numbers are float32, since ONNX Runtime has no convolution in double precision, and weights are dense. Those of a mask
``nm:2:4`` keep the pattern, which TensorRT makes use of if it is told to look for sparse weights; the metadata state it.
"""

import copy
import dataclasses
from pathlib import Path

from dist_sparse.export.onnx_session import Session
from dist_sparse.export.source import Source
from dist_sparse.export.timing import latencies
from dist_sparse.export.tracing import check_same, following, trace
from dist_sparse.files import atomic_write

_ROUNDS = 11


def write(source: Source, file: Path) -> list[str]:
    """Write the file, once ONNX Runtime gives what the network gives."""
    content = translate(source)
    session = Session(content)
    lines = [check_same(source, session, "ONNX Runtime")]
    atomic_write(file, lambda stream: stream.write(content))
    image = source.images(1)
    latency = latencies({"onnx": lambda: session(image)}, _ROUNDS)["onnx"]
    return [*lines, f"ONNX Runtime takes {latency} for one image"]


def translate(source: Source) -> bytes:
    """The network as an ONNX model with its description.

    Raises:
        UserError: the network cannot be followed, or an operation has no counterpart.
    """
    import torch

    if source.about.dtype != "float32":
        about = dataclasses.replace(source.about, dtype="float32")
        source = dataclasses.replace(source, model=copy.deepcopy(source.model).float(), about=about)
    program = trace(source, "onnx")
    with following(source, "onnx"):
        translated = torch.onnx.export(program, dynamo=True, verbose=False, input_names=["images"], output_names=["logits"])
        assert translated is not None
        model = translated.model_proto
        for name, text in source.about.as_texts().items():
            model.metadata_props.add(key=name, value=text)
        return model.SerializeToString()
