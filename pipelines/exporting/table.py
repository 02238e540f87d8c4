"""What of each model becomes a graph, and what its `predict` does with the outputs on the host."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.errors import DataError
from pipelines.models import MODELS


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """One row of the EXPORTS table."""

    outside: str = ""  # what the host computes from the graph's outputs
    heads: tuple[str, ...] = ()  # learned modules among that: their weights stand beside the graph
    refused: str = ""  # why there is no graph


PIXELS = "the softmax of the scores, and its maximum"
DETECTION = "box decoding, NMS, masks of the boxes that are left"
REGIONS = "proposals and NMS, RoIAlign and the heads of single regions: how many there are depends on the image"
FITTED = "it has no network: its few numbers and its code are the model"

EXPORTS: dict[str, Export] = {
    "fcn32s": Export(outside=PIXELS),
    "fcn16s": Export(outside=PIXELS),
    "fcn8s": Export(outside=PIXELS),
    "unet": Export(outside=PIXELS),
    "unetplusplus": Export(outside=PIXELS),
    "segnet": Export(outside=PIXELS),
    "pspnet": Export(outside=PIXELS),
    "deeplabv1": Export(outside=PIXELS),
    "deeplabv2": Export(outside=PIXELS),
    "deeplabv3": Export(outside=PIXELS),
    "deeplabv3plus": Export(outside=PIXELS),
    "bisenet": Export(outside=PIXELS),
    "ddrnet23_slim": Export(outside=PIXELS),
    "lraspp": Export(outside=PIXELS),
    "segformer": Export(outside=PIXELS),
    "faster_rcnn": Export(outside=REGIONS, heads=("roi",)),
    "mask_rcnn": Export(outside=REGIONS, heads=("roi",)),
    "pointrend": Export(outside=REGIONS, heads=("roi", "coarse", "point")),
    "fcis": Export(outside="proposals and NMS, and the voting of each region's cells"),
    "yolact": Export(outside=f"{DETECTION}: prototypes by coefficients"),
    "rdsnet": Export(outside=f"{DETECTION}: pixels by objects, boundaries refined", heads=("boundaries",)),
    "polarmask": Export(outside=f"{DETECTION}: polygons of 36 rays"),
    "blendmask": Export(outside=f"{DETECTION}: bases by attention"),
    "solo": Export(outside="the masks of the surest cells by their kernels, Matrix NMS", heads=("mask.cells",)),
    "solov2": Export(outside="the masks of the surest cells by their kernels, Matrix NMS"),
    "panoptic_deeplab": Export(outside="peaks of the centres, pixels by their offsets, the majority vote"),
    "panoptic_fpn": Export(outside=f"{REGIONS}; merging by rule", heads=("mask_rcnn.roi",)),
    "upsnet": Export(outside=f"{REGIONS}; the panoptic head", heads=("mask_rcnn.roi",)),
    "mask2former": Export(outside="masks of the queries, the panoptic merge"),
    "mask2former_instance": Export(outside="masks of the queries, their scores"),
    "mask2former_semantic": Export(outside=PIXELS),
    "threshold": Export(refused=FITTED),
    "local_threshold": Export(refused=FITTED),
    "histogram": Export(refused=FITTED),
    "region_growing": Export(refused=FITTED),
    "kmeans": Export(refused=FITTED),
    "mean_shift": Export(refused=FITTED),
    "watershed": Export(refused=FITTED),
    "active_contour": Export(refused=FITTED),
    "grabcut": Export(refused=FITTED),
    "normalized_cut": Export(refused=FITTED),
    "markov_random_field": Export(refused=FITTED),
    "superpixels": Export(refused=FITTED),
}


def row_of(description: Mapping[str, Any]) -> Export:
    """Of a package's model; DataError, where it cannot be exported."""
    name = description["model"]["name"]
    row = EXPORTS[name]
    if description["weights"]["file"] != "model.safetensors":
        raise DataError("this package is an export already", do="export the package that it was made of")
    if (description["model"].get("crf") or {}).get("iterations"):
        row = Export(refused="the mean field of its CRF (model.crf) has no form in ONNX")
    if row.refused:
        able = ", ".join(other for other in MODELS if not EXPORTS[other].refused)
        raise DataError(f"{name} cannot be exported: {row.refused}", do=f"choose one of {able}")
    return row
