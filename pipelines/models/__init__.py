"""All architectures, by the name that params.yaml gives them."""

from pipelines.models.classical.model import baseline
from pipelines.models.contract import ModelSpec
from pipelines.models.instance.blendmask import BlendMask
from pipelines.models.instance.faster_rcnn import FasterRCNN
from pipelines.models.instance.fcis import FCIS
from pipelines.models.instance.mask_rcnn import MaskRCNN
from pipelines.models.instance.pointrend import PointRend
from pipelines.models.instance.polarmask import PolarMask
from pipelines.models.instance.rdsnet import RDSNet
from pipelines.models.instance.solo import SOLO
from pipelines.models.instance.solov2 import SOLOv2
from pipelines.models.instance.yolact import YOLACT
from pipelines.models.panoptic.mask2former import Mask2Former, Mask2FormerInstance, Mask2FormerSemantic
from pipelines.models.panoptic.panoptic_deeplab import PanopticDeepLab
from pipelines.models.panoptic.panoptic_fpn import PanopticFPN
from pipelines.models.panoptic.upsnet import UPSNet
from pipelines.models.semantic.bisenet import BiSeNet
from pipelines.models.semantic.ddrnet23_slim import DDRNet23Slim
from pipelines.models.semantic.deeplabv1 import DeepLabV1
from pipelines.models.semantic.deeplabv2 import DeepLabV2
from pipelines.models.semantic.deeplabv3 import DeepLabV3
from pipelines.models.semantic.deeplabv3plus import DeepLabV3Plus
from pipelines.models.semantic.fcn import FCN8s, FCN16s, FCN32s
from pipelines.models.semantic.lraspp import LRASPP
from pipelines.models.semantic.pspnet import PSPNet
from pipelines.models.semantic.segformer import SegFormer
from pipelines.models.semantic.segnet import SegNet
from pipelines.models.semantic.unet import UNet
from pipelines.models.semantic.unetplusplus import UNetPlusPlus

MODELS: dict[str, ModelSpec] = {
    "fcn32s": ModelSpec(build=FCN32s, task="semantic", paper="arXiv 1411.4038"),
    "fcn16s": ModelSpec(build=FCN16s, task="semantic", paper="arXiv 1411.4038"),
    "fcn8s": ModelSpec(build=FCN8s, task="semantic", paper="arXiv 1411.4038"),
    "unet": ModelSpec(build=UNet, task="semantic", paper="arXiv 1505.04597"),
    "unetplusplus": ModelSpec(build=UNetPlusPlus, task="semantic", paper="arXiv 1807.10165"),
    "segnet": ModelSpec(build=SegNet, task="semantic", paper="arXiv 1511.00561"),
    "pspnet": ModelSpec(build=PSPNet, task="semantic", paper="arXiv 1612.01105"),
    "deeplabv1": ModelSpec(build=DeepLabV1, task="semantic", paper="arXiv 1412.7062"),
    "deeplabv2": ModelSpec(build=DeepLabV2, task="semantic", paper="arXiv 1606.00915"),
    "deeplabv3": ModelSpec(build=DeepLabV3, task="semantic", paper="arXiv 1706.05587"),
    "deeplabv3plus": ModelSpec(build=DeepLabV3Plus, task="semantic", paper="arXiv 1802.02611"),
    "bisenet": ModelSpec(build=BiSeNet, task="semantic", paper="arXiv 1808.00897"),
    "ddrnet23_slim": ModelSpec(build=DDRNet23Slim, task="semantic", paper="arXiv 2101.06085"),
    "lraspp": ModelSpec(build=LRASPP, task="semantic", paper="arXiv 1905.02244"),
    "segformer": ModelSpec(build=SegFormer, task="semantic", paper="arXiv 2105.15203"),
    "faster_rcnn": ModelSpec(build=FasterRCNN, task="instance", paper="arXiv 1506.01497"),
    "fcis": ModelSpec(build=FCIS, task="instance", paper="arXiv 1611.07709"),
    "mask_rcnn": ModelSpec(build=MaskRCNN, task="instance", paper="arXiv 1703.06870"),
    "polarmask": ModelSpec(build=PolarMask, task="instance", paper="arXiv 1909.13226"),
    "blendmask": ModelSpec(build=BlendMask, task="instance", paper="arXiv 2001.00309"),
    "yolact": ModelSpec(build=YOLACT, task="instance", paper="arXiv 1904.02689"),
    "rdsnet": ModelSpec(build=RDSNet, task="instance", paper="arXiv 1912.05070"),
    "pointrend": ModelSpec(build=PointRend, task="instance", paper="arXiv 1912.08193"),
    "solo": ModelSpec(build=SOLO, task="instance", paper="arXiv 1912.04488"),
    "solov2": ModelSpec(build=SOLOv2, task="instance", paper="arXiv 2003.10152"),
    "panoptic_deeplab": ModelSpec(build=PanopticDeepLab, task="panoptic", paper="arXiv 1911.10194"),
    "panoptic_fpn": ModelSpec(build=PanopticFPN, task="panoptic", paper="arXiv 1901.02446"),
    "upsnet": ModelSpec(build=UPSNet, task="panoptic", paper="arXiv 1901.03784"),
    "mask2former": ModelSpec(build=Mask2Former, task="panoptic", paper="arXiv 2112.01527"),
    "mask2former_instance": ModelSpec(build=Mask2FormerInstance, task="instance", paper="arXiv 2112.01527"),
    "mask2former_semantic": ModelSpec(build=Mask2FormerSemantic, task="semantic", paper="arXiv 2112.01527"),
    "threshold": baseline("threshold", paper="Otsu 1979"),
    "local_threshold": baseline("local_threshold", paper="Bradley and Roth 2007"),
    "histogram": baseline("histogram", paper="Prewitt and Mendelsohn 1966"),
    "region_growing": baseline("region_growing", paper="Adams and Bischof 1994"),
    "kmeans": baseline("kmeans", paper="Arthur and Vassilvitskii 2007"),
    "mean_shift": baseline("mean_shift", paper="Comaniciu and Meer 2002"),
    "watershed": baseline("watershed", paper="Vincent and Soille 1991"),
    "active_contour": baseline("active_contour", paper="Chan and Vese 2001"),
    "grabcut": baseline("grabcut", paper="Rother, Kolmogorov and Blake 2004"),
    "normalized_cut": baseline("normalized_cut", paper="Shi and Malik 2000"),
    "markov_random_field": baseline("markov_random_field", paper="Geman and Geman 1984"),
    "superpixels": baseline("superpixels", paper="Achanta et al. 2012"),
}
