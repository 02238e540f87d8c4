"""The section `model`: which architecture, and what only some of them ask."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from pipelines.config.fields import Above0, Count, Fraction, Positive, Section, Task, Weight

# Names of the tables that live beside torch, here so that a wrong one is refused without importing it; a test holds
# both sides equal.

# Without weights: a few numbers are fitted on the training split, and no gradient is taken.
ClassicalName = Literal[
    "threshold", "local_threshold", "histogram", "region_growing", "kmeans", "mean_shift", "watershed",
    "active_contour", "grabcut", "normalized_cut", "markov_random_field", "superpixels",
]  # fmt: skip
SemanticName = Literal[
    "fcn32s", "fcn16s", "fcn8s", "unet", "unetplusplus", "segnet", "pspnet",
    "deeplabv1", "deeplabv2", "deeplabv3", "deeplabv3plus", "bisenet", "ddrnet23_slim", "lraspp", "segformer",
    "mask2former_semantic",
    ClassicalName,
]  # fmt: skip
InstanceName = Literal[
    "faster_rcnn", "mask_rcnn", "pointrend", "fcis", "yolact", "rdsnet", "polarmask", "blendmask", "solo", "solov2",
    "mask2former_instance",
]  # fmt: skip
PanopticName = Literal["panoptic_deeplab", "panoptic_fpn", "upsnet", "mask2former"]
ModelName = Literal[SemanticName, InstanceName, PanopticName]
CLASSICAL: tuple[ModelName, ...] = get_args(ClassicalName)
# Of the semantic ones: no score of each pixel's class, in training, that a CRF could refine.
WITHOUT_SCORES: tuple[ModelName, ...] = (*CLASSICAL, "mask2former_semantic")
MODEL_TASKS: dict[str, Task] = {
    **dict.fromkeys(get_args(SemanticName), "semantic"),
    **dict.fromkeys(get_args(InstanceName), "instance"),
    **dict.fromkeys(get_args(PanopticName), "panoptic"),
}
# What a model's scores of pixels are of, in training: a student and its teacher must agree on it.
SOFT_TARGETS: dict[str, str] = {
    **{name: "all classes" for name in get_args(SemanticName) if name not in WITHOUT_SCORES},
    "panoptic_deeplab": "all classes",
    "upsnet": "all classes",
    "panoptic_fpn": "stuff and one class for all things",
}


class CRF(Section):
    """A fully connected one: a Gaussian over positions, another over positions and colours."""

    iterations: Count  # 0: none
    spatial_weight: Weight
    spatial_sigma: Above0
    bilateral_weight: Weight
    bilateral_sigma: Above0
    color_sigma: Above0


class UNet(Section):
    padded: bool


class UNetPlusPlus(Section):
    deep_supervision: bool
    output: Literal["average", 1, 2, 3, 4]


class Stride(Section):
    output_stride: Literal[8, 16]


class DeepLabV2(Section):
    scales: Annotated[list[Annotated[float, Field(gt=0, le=2)]], Field(min_length=1)]


class Anchors(Section):
    smallest_anchor: Positive  # pixels


class SOLOv2(Section):
    grids: Annotated[list[Annotated[int, Field(ge=1, le=100)]], Field(min_length=5, max_length=5)]
    scale: Above0


class SOLO(SOLOv2):
    decoupled: bool


class Merging(Section):
    min_score: Fraction
    max_overlap: Fraction
    min_stuff: Fraction


class PanopticDeepLab(Section):
    output_stride: Literal[16, 32]


class Mask2Former(Section):
    queries: Positive
    layers: Positive


class Model(Section):
    name: ModelName
    encoder: Annotated[str, Field(min_length=1)]
    weights: Annotated[str, Field(min_length=1)]
    channels: Annotated[int, Field(ge=8, le=4096)] | None
    quantize: bool
    crf: CRF
    unet: UNet
    unetplusplus: UNetPlusPlus
    pspnet: Stride
    deeplabv2: DeepLabV2
    deeplabv3: Stride
    deeplabv3plus: Stride
    faster_rcnn: Anchors
    mask_rcnn: Anchors
    pointrend: Anchors
    solo: SOLO
    solov2: SOLOv2
    panoptic_fpn: Merging
    upsnet: Merging
    panoptic_deeplab: PanopticDeepLab
    mask2former: Mask2Former
    mask2former_instance: Mask2Former
    mask2former_semantic: Mask2Former
    fit_images: Positive
