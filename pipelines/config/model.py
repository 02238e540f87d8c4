"""The section `model`: which architecture, and what only some of them ask."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from pipelines.config.fields import Above0, Count, Positive, Section, Task, Weight

# Names of the table that lives beside torch, here so that a wrong one is refused without importing it; a test holds
# both sides equal.
ModelName = Literal[
    "fcn32s", "fcn16s", "fcn8s", "unet", "unetplusplus", "segnet", "pspnet",
    "deeplabv1", "deeplabv2", "deeplabv3", "deeplabv3plus", "bisenet", "ddrnet23_slim", "lraspp", "segformer",
    "mask_rcnn", "panoptic_deeplab",
    "mask2former", "mask2former_instance", "mask2former_semantic",
    "threshold", "local_threshold", "histogram", "region_growing", "kmeans", "mean_shift", "watershed",
    "active_contour", "grabcut", "normalized_cut", "markov_random_field", "superpixels",
]  # fmt: skip
# Without weights: a few numbers are fitted on the training split, and no gradient is taken.
CLASSICAL: tuple[ModelName, ...] = (
    "threshold", "local_threshold", "histogram", "region_growing", "kmeans", "mean_shift", "watershed",
    "active_contour", "grabcut", "normalized_cut", "markov_random_field", "superpixels",
)  # fmt: skip
OTHER_TASKS: dict[str, Task] = {
    "mask_rcnn": "instance", "panoptic_deeplab": "panoptic",
    "mask2former": "panoptic", "mask2former_instance": "instance",
}  # fmt: skip
MODEL_TASKS: dict[str, Task] = {name: OTHER_TASKS.get(name, "semantic") for name in get_args(ModelName)}


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
    crf: CRF
    unet: UNet
    unetplusplus: UNetPlusPlus
    pspnet: Stride
    deeplabv2: DeepLabV2
    deeplabv3: Stride
    deeplabv3plus: Stride
    panoptic_deeplab: PanopticDeepLab
    mask2former: Mask2Former
    mask2former_instance: Mask2Former
    mask2former_semantic: Mask2Former
    fit_images: Positive
