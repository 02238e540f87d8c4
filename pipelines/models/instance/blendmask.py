"""BlendMask: Chen, Sun, Tian, Shen, Huang, Yan, CVPR 2020 (arXiv 2001.00309).

FCOS (`fcos`) finds boxes. A bottom module draws 4 bases of the whole image at stride 4; from the tower of distances
each point also says 4 attention maps of 14x14. The blender cuts the bases out at 56x56 of a box, and adds them up by
its attention, which is scaled up to that size and sums to 1 over the bases: the logits of the box's mask.

The bottom module is that of the authors' released models, YOLACT's ProtoNet on p3, p4 and p5, of half the pyramid's
width. In training boxes are the truth's, and the mask loss of a point is weighted by its centreness, as in their code.

Deviations: any timm encoder; what `fcos` lists; masks are learned at no more than 128 points of an image, drawn from
torch's global generator, so that hundreds of nuclei fit into memory; no auxiliary loss of the bases on semantics.
The blender is held against torchvision's RoIAlign and sums counted one by one, parameters against the authors' layers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from pipelines.data.prediction import Instances, Prediction
from pipelines.models import encoders, results
from pipelines.models.blocks import ConvNormAct, resize
from pipelines.models.contract import Classes, Outputs, PixelLoss, SegmentationModel
from pipelines.models.fpn import FPN
from pipelines.models.instance import fcos, regions, truths
from pipelines.targets import Targets

BASES = 4
ATTENTION = 14  # cells of an attention map's side
CELLS = 56  # of a mask's
STRIDE = 4  # of the bases
MAX_LEARNED = 128  # points of an image whose masks are learned from


class BottomModule(nn.Module):
    """p3, p4 and p5, each brought to one width and to stride 8, are added up and refined; at stride 4, the bases."""

    def __init__(self, channels: int):
        super().__init__()
        width = channels // 2
        self.laterals = nn.ModuleList(ConvNormAct(channels, width) for _ in range(3))
        self.refine = nn.Sequential(*(ConvNormAct(width, width) for _ in range(3)))
        self.bases = nn.Sequential(ConvNormAct(width, width), nn.Conv2d(width, BASES, 1))

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        finest, *coarser = [lateral(level) for lateral, level in zip(self.laterals, pyramid, strict=True)]
        fused = self.refine(sum((resize(level, finest.shape[-2:]) for level in coarser), start=finest))
        bases: Tensor = self.bases(F.interpolate(fused, scale_factor=2, mode="bilinear", align_corners=False))
        return bases


class BlendMask(SegmentationModel):
    stride = 32

    def __init__(
        self,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
    ):
        super().__init__()
        channels = channels or 256
        self.things = truths.things_of(classes, "blendmask")
        self.encoder = encoders.build(encoder, paper="resnet50")
        self.fpn = FPN(self.encoder, fcos.STRIDES, channels)
        self.head = fcos.Head(channels, len(classes.things))
        self.attention = nn.Conv2d(channels, BASES * ATTENTION**2, 3, padding=1)
        fcos.initialise(self.attention)
        self.bottom = BottomModule(channels)

    def forward(self, images: Tensor) -> Outputs:
        pyramid = self.fpn(self.encoder(images))
        outputs, tower = self.head(pyramid)
        return {
            **outputs,
            "attention": fcos.by_point([self.attention(level) for level in tower]),
            "bases": self.bottom(pyramid[:3]),
        }

    def losses(self, outputs: Outputs, targets: Targets, pixel_loss: PixelLoss) -> dict[str, Tensor]:
        objects = [truths.of(t, self.things) for t in targets.instances]
        matches = fcos.match(outputs, objects, [fcos.middles_of(t.boxes) for t in objects])
        boxes = matches.of([t.boxes for t in objects])
        centerness = fcos.box_centerness(outputs["points"][matches.positive], boxes)
        return {
            "classifier": fcos.classifier_loss(outputs, matches, [t.labels for t in objects]),
            "box": fcos.box_loss(outputs, matches, boxes),
            "centerness": fcos.centerness_loss(outputs, matches, centerness),
            "mask": mask_loss(outputs, matches, objects),
        }

    @torch.no_grad()
    def predict(self, outputs: Outputs, sizes: list[tuple[int, int]]) -> list[Prediction]:
        images = ({name: values[i] for name, values in outputs.items()} for i in range(len(sizes)))
        return [Prediction(instances=self._detect(image, size)) for image, size in zip(images, sizes, strict=True)]

    def _detect(self, image: Outputs, size: tuple[int, int]) -> Instances:
        found = fcos.detect(image, fcos.boxes_at(image["points"], image["distances"].float()), size)
        masks = blend(crop(image["bases"], found.boxes), image["attention"][found.points]).sigmoid()
        return results.instances(
            regions.paste(masks.cpu(), found.boxes.cpu(), *size),
            truths.ids_of(found.labels.cpu(), self.things),
            found.scores.cpu(),
            found.boxes.cpu(),
        )


def crop(bases: Tensor, boxes: Tensor) -> Tensor:
    """One image's bases[4, h, w] -> [n, 4, 56, 56]: what they show in each box[n, 4]."""
    crops: Tensor = roi_align(bases[None].float(), [boxes], CELLS, 1 / STRIDE, sampling_ratio=1, aligned=True)
    return crops


def blend(crops: Tensor, attention: Tensor) -> Tensor:
    """Mask logits[n, 56, 56]: the bases within each box, weighed by attention[n, 4 x 14 x 14]."""
    maps = resize(attention.float().unflatten(1, (BASES, ATTENTION, ATTENTION)), (CELLS, CELLS))
    return (crops * maps.softmax(dim=1)).sum(dim=1)


def mask_loss(outputs: Outputs, matches: fcos.Matches, objects: list[truths.Truth]) -> Tensor:
    """Cross-entropy of the masks at points with an object, which weigh more the more central they are."""
    losses, weights = [], []
    for i, (truth, owner) in enumerate(zip(objects, matches.owner, strict=True)):
        points = (owner >= 0).nonzero()[:, 0]
        points = points[torch.randperm(len(points), device=points.device)[:MAX_LEARNED]]
        # Cut out once for each object, not for each of its points.
        learned, which = owner[points].unique(return_inverse=True)
        boxes = truth.boxes[learned]
        masks = blend(crop(outputs["bases"][i], boxes)[which], outputs["attention"][i, points])
        wanted = regions.cut(truth.masks, learned, boxes, CELLS)[which]
        losses.append(F.binary_cross_entropy_with_logits(masks, wanted, reduction="none").mean(dim=(1, 2)))
        weights.append(fcos.box_centerness(outputs["points"][i, points], boxes[which]))
    weight = torch.cat(weights)
    return (torch.cat(losses) * weight).sum() / weight.sum().clamp(min=1)
