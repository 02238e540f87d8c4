"""A float32 graph with 8-bit weights and activations (QDQ: what ONNX Runtime and TensorRT both read).

Weights are int8, symmetric, with a scale for each output channel; activations are uint8, with one scale for each map,
from what calibration has seen of it. Quantised are the layers that multiply weights, and the sums, poolings and joints
between them, where a map would go back to float32 only to be quantised again.

Kept in float32, by rule: the first layers, whose input is the image, and the last ones, whose output is the answer
(there an error meets the prediction undiminished); products of two activations (attention); what is computed of the
image's size alone; everything else, among it softmax, norms and interpolated scores.
"""

import ast
import tempfile
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from pipelines.errors import RunError
from pipelines.exporting.quiet import quietly
from pipelines.inference.graph import INPUT

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
BETWEEN = ("Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Relu", "Clip")
METHODS = {"minmax": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy}
Range = tuple[float, float]
OPTIONS = {"MatMulConstBOnly": True, "WeightSymmetric": True, "ActivationSymmetric": False}


class Images(CalibrationDataReader):
    """float32[1, 3, h, w] at a time, as the graph takes them."""

    def __init__(self, images: Iterable[np.ndarray]):
        self.images = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.images, None)
        return None if image is None else {INPUT: image}


def calibrated(model: onnx.ModelProto, images: Iterable[np.ndarray], *, method: str) -> onnx.ModelProto:
    """Post-training: the range of each map is that which it takes over the images."""
    with tempfile.TemporaryDirectory() as folder, quietly():
        original, made = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, original)
        quantize_static(
            original,
            made,
            Images(images),
            op_types_to_quantize=[*WEIGHTED, *BETWEEN],
            nodes_to_exclude=sorted(kept(model.graph)),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=METHODS[method],
            extra_options=OPTIONS,
        )
        return _in_order(onnx.load(made))


def trained(model: onnx.ModelProto, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """Quantisation-aware: `ranges` has the low and the high end of each layer's input, by the layer's name, as training
    has simulated them. Nothing else is quantised: neither other layers, nor what these ones put out."""
    ends, chosen = dict[str, Range](), dict[str, str]()
    for node in [n for n in model.graph.node if n.op_type in WEIGHTED]:
        if name := layer_of(node, ranges):
            chosen[node.name] = name
            ends[_apart(model.graph, node, ranges[name])] = ranges[name]
    if lost := sorted(set(ranges) - {*chosen.values()}):
        raise RunError(f"layers that were trained for int8 are not in the graph: {', '.join(lost[:5])}")
    seen = {tensor: (np.float32(low), np.float32(high)) for tensor, (low, high) in ends.items()}
    quantiser = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8.tensor_type,
        activation_qType=QuantType.QUInt8.tensor_type,
        tensors_range=TensorsData(CalibrationMethod.MinMax, seen),
        nodes_to_quantize=list(chosen),
        nodes_to_exclude=[],
        op_types_to_quantize=list(WEIGHTED),
        extra_options={**OPTIONS, "OpTypesToExcludeOutputQuantization": list(WEIGHTED)},
    )
    with quietly():
        quantiser.quantize_model()
    return _in_order(quantiser.model.model)


def _in_order(model: onnx.ModelProto) -> onnx.ModelProto:
    """Each node behind those that it reads, as the standard asks and the quantiser does not care."""
    sorted_ = ONNXModel(model)
    sorted_.topological_sort()
    found: onnx.ModelProto = sorted_.model
    return found


def layer_of(node: onnx.NodeProto, layers: Container[str]) -> str:
    """The layer that a node comes from, if it is one of these: by its weight's name, and where the exporter has made
    another one of that (a transposed one), by its own note of the modules around the node."""
    notes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
    names = [node.input[1].removesuffix(".weight"), *reversed(ast.literal_eval(notes))]
    return next((n for n in (name.removeprefix("model.") for name in names) if n in layers), "")


def _apart(graph: onnx.GraphProto, node: onnx.NodeProto, ends: Range) -> str:
    """The node's input under a name that it shares only with layers that have seen it in this range: others, and sums
    that it goes into, have it whole."""
    name = f"{node.input[0]}_in_{ends[0]}_{ends[1]}"
    at = next(i for i, other in enumerate(graph.node) if other.name == node.name)
    if not any(other.name == name for other in graph.node):
        graph.node.insert(at, onnx.helper.make_node("Identity", [node.input[0]], [name], name))
        at += 1
    graph.node[at].input[0] = name
    return name


def kept(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes that stay in float32."""
    weights = {tensor.name for tensor in graph.initializer}
    by_output = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    first = _nearest([INPUT], lambda name: readers.get(name, []), lambda node: node.output, weights)
    outputs = [output.name for output in graph.output]
    last = _nearest(outputs, lambda name: [by_output[name]] if name in by_output else [], lambda n: n.input, weights)
    constant = {n.name for n in graph.node if n.op_type == "Add" and weights & {*n.input}}  # a bias, a position
    return first | last | constant | ({node.name for node in graph.node} - _maps(readers))


def _maps(readers: Mapping[str, list[onnx.NodeProto]]) -> set[str]:
    """The nodes that compute something of the image, and not of its size alone: a size that was rounded to what
    calibration has seen would be none."""
    found, todo = set[str](), [INPUT]
    while todo:
        for node in readers.get(todo.pop(), []):
            if node.name not in found and node.op_type != "Shape":
                found.add(node.name)
                todo += node.output
    return found


def _nearest(
    start: list[str],
    nodes_at: Callable[[str], list[onnx.NodeProto]],
    names_of: Callable[[onnx.NodeProto], Iterable[str]],
    weights: set[str],
) -> set[str]:
    """The first layers with weights on every way from `start`, and what lies before them."""
    found, todo = set[str](), [*start]
    while todo:
        for node in nodes_at(todo.pop()):
            if node.name not in found and node.op_type != "Shape":  # a size is no map
                found.add(node.name)
                if not (node.op_type in WEIGHTED and weights & {*node.input}):
                    todo += names_of(node)
    return found
