"""An exported network in use: ONNX Runtime computes the raw outputs, the architecture's own `predict` reads them.

An exported package is a package like another, with `model.onnx` in place of `model.safetensors`: pixels go in as they
are (0..255, float32), since the normalisation is part of the graph. Region models (Faster R-CNN and those built on it)
keep the heads that look at single regions beside the graph, in `heads.safetensors`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from torch import Tensor

from pipelines import files
from pipelines.data.prediction import Prediction
from pipelines.errors import DataError
from pipelines.models.contract import Outputs, SegmentationModel

GRAPH, HEADS, INPUT = "model.onnx", "heads.safetensors", "images"
AGAIN = "export again: python -m stages.export"


class Graph(SegmentationModel):
    """`skeleton`: the architecture, of which only what comes after the network's outputs is used."""

    def __init__(self, graph: bytes, skeleton: SegmentationModel, heads: Mapping[str, Tensor]):
        super().__init__()
        for name, parameter in skeleton.named_parameters():
            parameter.requires_grad_(False)
            if name not in heads:
                parameter.data = torch.empty(0)  # it is in the graph
        skeleton.load_state_dict({**skeleton.state_dict(), **heads})
        self.skeleton, self.stride, self.context = skeleton, skeleton.stride, skeleton.context
        self.session = session(graph)
        self.names = [output.name for output in self.session.get_outputs()]

    def forward(self, images: Tensor) -> Outputs:
        """float32[b, 3, h, w], 0..255 -> the named outputs of the graph."""
        found = self.session.run(self.names, {INPUT: images.float().contiguous().cpu().numpy()})
        pairs = zip(self.names, found, strict=True)
        return {name: torch.from_numpy(value).to(images.device) for name, value in pairs}

    def predict(self, outputs: Outputs, sizes: list[tuple[int, int]]) -> list[Prediction]:
        return self.skeleton.predict(outputs, sizes)


def session(graph: bytes) -> onnxruntime.InferenceSession:
    """On the GPU where this build of ONNX Runtime knows one; with as many threads as torch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 3
    known = onnxruntime.get_available_providers()
    wanted = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in known]
    try:
        return onnxruntime.InferenceSession(graph, options, providers=wanted)
    except Exception as error:  # its own kinds have no other base
        raise ValueError(str(error).splitlines()[0]) from None


def load(folder: Path, description: Mapping[str, Any], skeleton: SegmentationModel) -> Graph:
    """What is run are the very bytes whose hash was compared."""
    about = description["weights"]
    graph = _believed(folder / GRAPH, about["sha256"])
    heads = read_tensors(_believed(folder / HEADS, about["heads"])) if about["heads"] else {}
    try:
        return Graph(graph, skeleton, heads)
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise DataError(f"{folder / GRAPH} does not fit what model.json describes: {error}", do=AGAIN) from None


def _believed(path: Path, wanted: str) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} is missing", do=AGAIN) from None
    if (found := files.sha256_of(content)) != wanted:
        raise DataError(f"{path} is damaged: sha256 mismatch, found {found[:12]}, expected {wanted[:12]}", do=AGAIN)
    return content
