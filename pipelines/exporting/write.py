"""A package's network as ONNX: pixels in, the raw outputs by their names, of any batch and size.

The normalisation is inside, so that whoever runs the file needs no number of the training set. Opset 20 is read by
TensorRT 10 and by ONNX Runtime from 1.17 on. What the outputs mean is in `EXPORTS` and, in code, the model's `predict`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import Dim

from pipelines import files
from pipelines.errors import RunError
from pipelines.exporting.operators import TRANSLATED, exportable
from pipelines.exporting.quiet import quietly
from pipelines.exporting.table import Export
from pipelines.inference import package
from pipelines.inference.graph import GRAPH, HEADS, INPUT
from pipelines.inference.predictor import Predictor
from pipelines.models.contract import SegmentationModel
from pipelines.pixels import Pixels

OPSET = 20
LARGEST = 2**31  # bytes of a protocol buffer
COARSEST = 128  # the stride of the coarsest map of any model
EXAMPLE = (2, 3, 2, 3)  # batch, channels, and a size in such strides: a map of one row would be taken for one that is
# never larger
AS_THEY_ARE = {"mean": [0.0] * 3, "std": [1 / 255] * 3}  # what a package of a graph does to pixels


class Whole(nn.Module):
    """The network behind its normalisation; a tuple, in the order of `names`."""

    scale: Tensor
    shift: Tensor

    def __init__(self, model: SegmentationModel, pixels: Pixels):
        super().__init__()
        self.model = model
        self.register_buffer("scale", torch.tensor([1 / (255 * s) for s in pixels.std]).view(-1, 1, 1))
        self.register_buffer(
            "shift", torch.tensor([m / s for m, s in zip(pixels.mean, pixels.std, strict=True)]).view(-1, 1, 1)
        )
        self.names: list[str] = []

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(images * self.scale - self.shift)
        self.names = list(outputs)
        return tuple(outputs.values())


def graph(predictor: Predictor) -> onnx.ModelProto:
    """The float32 network, with its layers' names in the notes; RunError where the exporter does not get through it."""
    model = predictor.model
    whole = Whole(model, predictor.pixels).eval()
    batch, channels, *cells = EXAMPLE
    example = torch.zeros(batch, channels, *(n * max(model.stride, COARSEST) for n in cells))
    with torch.no_grad(), exportable(model), quietly():
        whole(example)
        try:
            program = torch.onnx.export(
                whole,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=({0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},),
                input_names=[INPUT],
                output_names=whole.names,
                custom_translation_table=TRANSLATED,
                verbose=False,
            )
        except (torch.onnx.errors.OnnxExporterError, torch.onnx.ConversionError) as error:  # type: ignore[attr-defined]
            raise RunError(f"torch cannot export this network: {str(error).splitlines()[0]}") from error
    assert program is not None  # noqa: S101 - it is, for dynamo
    return program.model_proto


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the exporter's notes, which hold the code and the paths of the machine that it ran on."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for noted in (bare, bare.graph, *bare.graph.node, *bare.graph.value_info, *bare.graph.input, *bare.graph.output):
        del noted.metadata_props[:]
        noted.doc_string = ""
    for function in bare.functions:
        for noted in (function, *function.node, *function.value_info):
            del noted.metadata_props[:]
            noted.doc_string = ""
    return bare


def save(
    folder: Path, model: onnx.ModelProto, source: Predictor, row: Export, precision: str, about: Mapping[str, Any] = {}
) -> None:
    """A package of a graph; its description last."""
    if model.ByteSize() >= LARGEST:
        raise RunError("the network has more than 2 GB, which is more than one file of ONNX can hold")
    folder.mkdir(parents=True, exist_ok=True)
    with files.replacing(folder / GRAPH, "wb") as file:
        file.write(plain(model).SerializeToString())
    heads = {n: v.cpu().contiguous() for n, v in source.model.state_dict().items() if n.startswith(_prefixes(row))}
    if heads:
        save_file(heads, folder / HEADS)
    weights = {"file": GRAPH, "sha256": files.sha256(folder / GRAPH)}
    described = {
        **source.description,
        **AS_THEY_ARE,
        "weights": {**weights, "heads": files.sha256(folder / HEADS) if heads else None},
        "export": {
            "of": source.description["weights"]["sha256"],
            "precision": precision,
            "opset": OPSET,
            "input": {"name": INPUT, "shape": ["batch", 3, "height", "width"], "values": "float32, RGB, 0..255"},
            "multiple": source.model.stride,  # of height and width
            "outputs": [output.name for output in model.graph.output],
            "inside": {"mean": source.description["mean"], "std": source.description["std"]},
            "outside": row.outside,
            **about,
        },
    }
    files.write_sealed(folder / package.DESCRIPTION, described)


def _prefixes(row: Export) -> tuple[str, ...]:
    return tuple(f"{name}." for name in row.heads)
