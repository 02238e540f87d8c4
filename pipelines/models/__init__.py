"""All architectures, by the name that params.yaml gives them."""

from pipelines.models.contract import ModelSpec
from pipelines.models.instance.mask_rcnn import MaskRCNN
from pipelines.models.panoptic.panoptic_deeplab import PanopticDeepLab
from pipelines.models.semantic.deeplabv3plus import DeepLabV3Plus
from pipelines.models.semantic.unet import UNet

MODELS: dict[str, ModelSpec] = {
    "unet": ModelSpec(build=UNet, task="semantic", paper="arXiv 1505.04597"),
    "deeplabv3plus": ModelSpec(build=DeepLabV3Plus, task="semantic", paper="arXiv 1802.02611"),
    "mask_rcnn": ModelSpec(build=MaskRCNN, task="instance", paper="arXiv 1703.06870"),
    "panoptic_deeplab": ModelSpec(build=PanopticDeepLab, task="panoptic", paper="arXiv 1911.10194"),
}
