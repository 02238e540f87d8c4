"""What Faster R-CNN and those that add masks to it share: first where objects may be, then what each of them is.

A pyramid p2..p6 over the encoder (arXiv 1612.03144); a region proposal network on all its levels; for each region a
class and a box from 7x7 features. Sampling, box coding and the box head are torchvision's.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from pipelines.data.prediction import Instances, Prediction
from pipelines.models import encoders, results
from pipelines.models.contract import Classes, Outputs, PixelLoss, SegmentationModel
from pipelines.models.instance import published, regions, truths
from pipelines.models.instance.proposals import ProposalNetwork, Truth, nothing, outside_crowds, truth_of
from pipelines.targets import Targets

STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
POOLED = ("p2", "p3", "p4", "p5")  # p6 proposes only
CELLS = 7  # a region's features


@dataclass(frozen=True, kw_only=True, slots=True)
class Objects:
    """The regions of a batch that hold an object, of which a mask can be learned."""

    boxes: list[Tensor]  # float32[n, 4] per image
    labels: Tensor  # int64[all n]: from 1
    masks: list[Tensor]  # bool[objects, h, w] per image
    which: list[Tensor]  # int64[n] per image: rows of its masks

    def cut(self, cells: int) -> Tensor:
        """What each region holds of its object: float[all n, cells, cells] of 0 and 1."""
        images = zip(self.masks, self.which, self.boxes, strict=True)
        return torch.cat([regions.cut(masks, which, boxes, cells) for masks, which, boxes in images])


def heads_of(channels: int, classes: int) -> RoIHeads:
    return RoIHeads(
        box_roi_pool=None,  # `regions.pool` is used instead
        box_head=TwoMLPHead(channels * CELLS**2, 4 * channels),
        box_predictor=FastRCNNPredictor(4 * channels, classes),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=128,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=100,
    )


class TwoStage(SegmentationModel):
    """One that adds masks to the boxes says how they are learned (`learn_masks`) and drawn (`draw`)."""

    stride = 32

    def __init__(self, name: str, *, classes: Classes, encoder: encoders.Choice, channels: int, smallest_anchor: int):
        super().__init__()
        self.things = truths.things_of(classes, name)
        self.encoder = encoders.build(published.for_encoder(encoder), paper="resnet50")
        self.levels = [self.encoder.at(STRIDES[name]) for name in POOLED]
        self.fpn = FeaturePyramidNetwork([self.encoder.channels[i] for i in self.levels], channels, LastLevelMaxPool())
        sizes = [[smallest_anchor * 2**i] for i in range(len(STRIDES))]
        self.rpn = ProposalNetwork(channels, strides=[*STRIDES.values()], sizes=sizes, kept=(500, 300))
        self.roi = heads_of(channels, len(self.things) + 1)
        self.unit = 7 * smallest_anchor  # pixels: the size of a region that is pooled from stride 16

    def forward(self, images: Tensor) -> Outputs:
        features = self.encoder(images)
        pyramid = self.fpn({name: features[i] for name, i in zip(POOLED, self.levels, strict=True)})
        pyramid["p6"] = pyramid.pop("pool")
        return {**pyramid, **self.rpn.score(list(pyramid.values()))}

    def learn_masks(self, outputs: Outputs, objects: Objects) -> dict[str, Tensor]:
        raise NotImplementedError

    def draw(self, outputs: Outputs, boxes: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
        """bool[n, height, width]: the mask of each box of one image."""
        raise NotImplementedError

    def losses(self, outputs: Outputs, targets: Targets, pixel_loss: PixelLoss) -> dict[str, Tensor]:
        anchors = self._anchors(outputs)
        height, width = outputs["p2"].shape[-2:]
        size = (height * STRIDES["p2"], width * STRIDES["p2"])
        proposals = self.rpn.propose(outputs, anchors, [size] * len(targets.instances))
        truths = [truth_of(t, self.things) for t in targets.instances]
        return {**self.rpn.learn(outputs, anchors, truths), **self._region_losses(outputs, proposals, truths)}

    def _region_losses(self, outputs: Outputs, proposals: list[Tensor], truths: list[Truth]) -> dict[str, Tensor]:
        proposals = outside_crowds(proposals, truths)
        proposals, matched, labels, wanted = self.roi.select_training_samples(proposals, truths)
        logits, deltas = self._boxes(outputs, proposals)
        if len(logits):
            classifier, box = fastrcnn_loss(logits, deltas, labels, wanted)
        else:  # the means over no regions would be NaN
            classifier, box = nothing(logits), nothing(deltas)
        found = [label > 0 for label in labels]
        objects = Objects(
            boxes=[p[here] for p, here in zip(proposals, found, strict=True)],
            labels=torch.cat(labels)[torch.cat(found)],
            masks=[truth["masks"] for truth in truths],
            which=[which[here] for which, here in zip(matched, found, strict=True)],
        )
        return {"classifier": classifier, "box": box, **self.learn_masks(outputs, objects)}

    @torch.no_grad()
    def predict(self, outputs: Outputs, sizes: list[tuple[int, int]]) -> list[Prediction]:
        # One at a time: the masks of a hundred detections in each of many images would be gigabytes.
        images = ({name: values[i : i + 1] for name, values in outputs.items()} for i in range(len(sizes)))
        return [Prediction(instances=self._detect(image, size)) for image, size in zip(images, sizes, strict=True)]

    def _detect(self, outputs: Outputs, size: tuple[int, int]) -> Instances:
        proposals = self.rpn.propose(outputs, self._anchors(outputs), [size])
        logits, deltas = self._boxes(outputs, proposals)
        found = self.roi.postprocess_detections(logits, deltas, proposals, [size])
        boxes, scores, labels = (parts[0] for parts in found)
        masks = self.draw(outputs, boxes, labels, size)
        return results.instances(masks, truths.ids_of(labels - 1, self.things), scores, boxes)

    def _anchors(self, outputs: Outputs) -> list[Tensor]:
        return self.rpn.anchors([outputs[name] for name in STRIDES])

    def _boxes(self, outputs: Outputs, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits[n, 1 + things] and box deltas[n, 4 x (1 + things)] of all regions."""
        logits, deltas = self.roi.box_predictor(self.roi.box_head(self.pool(outputs, boxes, CELLS)))
        return logits.float(), deltas.float()

    def pool(self, outputs: Outputs, boxes: list[Tensor], size: int) -> Tensor:
        features = [outputs[name].float() for name in POOLED]
        return regions.pool(features, tuple(STRIDES[name] for name in POOLED), boxes, size, self.unit)
