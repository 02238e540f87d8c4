"""Mask R-CNN: He, Gkioxari, Dollar, Girshick, ICCV 2017 (arXiv 1703.06870), on a feature pyramid (arXiv 1612.03144).

A pyramid p2..p6 over the encoder; a region proposal network on all its levels; for each region a class and a box from
7x7 features, and a 28x28 mask per class from 14x14 ones. Anchors, proposals, sampling, box coding and the heads are
torchvision's, and losses and detections are held against its RegionProposalNetwork and RoIHeads with equal weights.

Deviations: any timm encoder, none of it frozen; `channels` is the width of pyramid and mask head, and a quarter of the
box head's (the paper: 256 and 1024); images are taken as they come, not resized to a short side of 800, and so anchors
of 16 to 256 pixels instead of 32 to 512, and each pyramid level for regions half as large; per image 500 proposals in
training and 300 in use instead of 2000 and 1000, and 128 regions to learn from instead of 512, so that it can be
trained without a GPU; masks and features are aligned to pixels as areas (`regions` says why). Nothing is learned from
crowds: they are no truths, and what lies within one is no background (Detectron's rule, at its 0.7, here for anchors
too).

Sampling draws from torch's global generator, so that a seed fixes it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from pipelines.data.prediction import Instances, Prediction
from pipelines.errors import ConfigError
from pipelines.models import encoders, results
from pipelines.models.contract import Classes, Outputs, PixelLoss, SegmentationModel
from pipelines.models.instance import regions
from pipelines.targets import InstanceTargets, Targets

STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
POOLED = ("p2", "p3", "p4", "p5")  # p6 proposes only
SIZES = (16, 32, 64, 128, 256)  # of the anchors, one per level
RATIOS = (0.5, 1.0, 2.0)
UNIT = 112  # pixels: the size of a region that is pooled from stride 16
CROWD = 0.7
BOX_CELLS, MASK_CELLS = 7, 14  # a region's features; a mask has twice as many cells


def proposals_of(channels: int) -> RegionProposalNetwork:
    return RegionProposalNetwork(
        AnchorGenerator(tuple((size,) for size in SIZES), (RATIOS,) * len(SIZES)),
        RPNHead(channels, len(RATIOS)),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 1000, "testing": 1000},
        post_nms_top_n={"training": 500, "testing": 300},
        nms_thresh=0.7,
    )


def heads_of(channels: int, classes: int) -> RoIHeads:
    return RoIHeads(
        box_roi_pool=None,  # `regions.pool` is used instead, for both
        box_head=TwoMLPHead(channels * BOX_CELLS**2, 4 * channels),
        box_predictor=FastRCNNPredictor(4 * channels, classes),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=128,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=100,
        mask_head=MaskRCNNHeads(channels, (channels,) * 4, dilation=1),
        mask_predictor=MaskRCNNPredictor(channels, channels, classes),
    )


class MaskRCNN(SegmentationModel):
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
        if not classes.things:
            raise ConfigError("model.name: mask_rcnn finds things, and the dataset has stuff classes only")
        self.things = classes.things  # torchvision's label k is things[k - 1], and 0 is the background
        self.encoder = encoders.build(encoder, paper="resnet50")
        self.levels = [self.encoder.at(STRIDES[name]) for name in POOLED]
        self.fpn = FeaturePyramidNetwork([self.encoder.channels[i] for i in self.levels], channels, LastLevelMaxPool())
        self.rpn = proposals_of(channels)
        self.roi = heads_of(channels, len(classes.things) + 1)

    def forward(self, images: Tensor) -> Outputs:
        features = self.encoder(images)
        pyramid = self.fpn({name: features[i] for name, i in zip(POOLED, self.levels, strict=True)})
        pyramid["p6"] = pyramid.pop("pool")
        heads = self.rpn.head(list(pyramid.values()))
        objectness, deltas = ([level.permute(0, 2, 3, 1).flatten(1) for level in levels] for levels in heads)
        return {
            **pyramid,
            "objectness": torch.cat(objectness, dim=1),
            "deltas": torch.cat(deltas, dim=1).unflatten(1, (-1, 4)),
        }

    def losses(self, outputs: Outputs, targets: Targets, pixel_loss: PixelLoss) -> dict[str, Tensor]:
        anchors = self._anchors(outputs)
        height, width = outputs["p2"].shape[-2:]
        size = (height * STRIDES["p2"], width * STRIDES["p2"])
        proposals = self._propose(outputs, anchors, [size] * len(targets.instances))
        truths = [self._truth(t) for t in targets.instances]
        crowds = [t.boxes[t.iscrowd] for t in targets.instances]
        return {
            **self._proposal_losses(outputs, torch.cat(anchors), truths, crowds),
            **self._region_losses(outputs, proposals, truths, crowds),
        }

    @torch.no_grad()
    def predict(self, outputs: Outputs, sizes: list[tuple[int, int]]) -> list[Prediction]:
        # One at a time: the masks of a hundred detections in each of many images would be gigabytes.
        images = ({name: values[i : i + 1] for name, values in outputs.items()} for i in range(len(sizes)))
        return [Prediction(instances=self._detect(image, size)) for image, size in zip(images, sizes, strict=True)]

    def _detect(self, outputs: Outputs, size: tuple[int, int]) -> Instances:
        proposals = self._propose(outputs, self._anchors(outputs), [size])
        logits, deltas = self._boxes(outputs, proposals)
        found = self.roi.postprocess_detections(logits, deltas, proposals, [size])
        boxes, scores, labels = (parts[0] for parts in found)
        probabilities = self._masks(outputs, [boxes], labels).sigmoid()
        masks = regions.paste(probabilities.cpu(), boxes.cpu(), *size)
        return results.instances(masks, torch.tensor(self.things)[labels.cpu() - 1], scores.cpu(), boxes.cpu())

    def _anchors(self, outputs: Outputs) -> list[Tensor]:
        """The anchors of each level; those of all images of the batch are the same."""
        generator = self.rpn.anchor_generator
        generator.set_cell_anchors(torch.float32, outputs["p2"].device)
        # Not the generator's forward: it guesses a level's stride from the sizes, wrongly where p5 is odd.
        anchors: list[Tensor] = generator.grid_anchors(
            [outputs[name].shape[-2:] for name in STRIDES], [[stride, stride] for stride in STRIDES.values()]
        )
        return anchors

    @torch.no_grad()
    def _propose(self, outputs: Outputs, anchors: list[Tensor], sizes: list[tuple[int, int]]) -> list[Tensor]:
        deltas = outputs["deltas"].float()
        boxes = self.rpn.box_coder.decode(deltas.flatten(0, 1), [torch.cat(anchors)] * len(sizes))
        proposals: list[Tensor] = self.rpn.filter_proposals(
            boxes.view_as(deltas), outputs["objectness"].float(), sizes, [len(a) for a in anchors]
        )[0]
        return proposals

    def _truth(self, targets: InstanceTargets) -> dict[str, Tensor]:
        """torchvision's form: one object per row, crowds left out, labels from 1."""
        keep = ~targets.iscrowd
        things = torch.tensor(self.things, device=targets.labels.device)
        labels = (targets.labels[keep, None] == things).int().argmax(dim=1) + 1
        return {"boxes": targets.boxes[keep], "labels": labels, "masks": targets.masks[keep]}

    def _proposal_losses(
        self, outputs: Outputs, anchors: Tensor, truths: list[dict[str, Tensor]], crowds: list[Tensor]
    ) -> dict[str, Tensor]:
        everywhere = [anchors] * len(truths)
        labels, boxes = self.rpn.assign_targets_to_anchors(everywhere, truths)
        for label, crowd in zip(labels, crowds, strict=True):
            label[(label == 0) & regions.covered(anchors, crowd, CROWD)] = -1  # neither object nor background
        objectness, deltas = outputs["objectness"].float(), outputs["deltas"].float()
        if not any((label >= 0).any() for label in labels):  # the means over no anchors would be NaN
            return {"rpn_objectness": nothing(objectness), "rpn_box": nothing(deltas)}
        wanted = self.rpn.box_coder.encode(boxes, everywhere)
        losses = self.rpn.compute_loss(objectness, deltas.flatten(0, 1), labels, wanted)
        return dict(zip(("rpn_objectness", "rpn_box"), losses, strict=True))

    def _region_losses(
        self, outputs: Outputs, proposals: list[Tensor], truths: list[dict[str, Tensor]], crowds: list[Tensor]
    ) -> dict[str, Tensor]:
        proposals = [p[~regions.covered(p, crowd, CROWD)] for p, crowd in zip(proposals, crowds, strict=True)]
        proposals, matched, labels, wanted = self.roi.select_training_samples(proposals, truths)
        logits, deltas = self._boxes(outputs, proposals)
        if len(logits):
            classifier, box = fastrcnn_loss(logits, deltas, labels, wanted)
        else:  # the means over no regions would be NaN
            classifier, box = nothing(logits), nothing(deltas)
        objects = [label > 0 for label in labels]
        boxes = [p[o] for p, o in zip(proposals, objects, strict=True)]
        masks = self._masks(outputs, boxes, torch.cat(labels)[torch.cat(objects)])
        cells = torch.cat(
            [
                regions.cut(truth["masks"], which[o], b, 2 * MASK_CELLS)
                for truth, which, o, b in zip(truths, matched, objects, boxes, strict=True)
            ]
        )
        # Without an object the heads still see an empty batch: each of their weights gets a gradient of zeros, as
        # data-parallel training asks for.
        mask = F.binary_cross_entropy_with_logits(masks, cells) if len(masks) else nothing(masks)
        return {"classifier": classifier, "box": box, "mask": mask}

    def _boxes(self, outputs: Outputs, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits[n, 1 + things] and box deltas[n, 4 x (1 + things)] of all regions."""
        logits, deltas = self.roi.box_predictor(self.roi.box_head(self._pool(outputs, boxes, BOX_CELLS)))
        return logits.float(), deltas.float()

    def _masks(self, outputs: Outputs, boxes: list[Tensor], labels: Tensor) -> Tensor:
        """Mask logits[n, 28, 28] of all regions, each for its own label."""
        logits: Tensor = self.roi.mask_predictor(self.roi.mask_head(self._pool(outputs, boxes, MASK_CELLS)))
        return logits[torch.arange(len(logits), device=logits.device), labels].float()

    def _pool(self, outputs: Outputs, boxes: list[Tensor], size: int) -> Tensor:
        features = [outputs[name].float() for name in POOLED]
        return regions.pool(features, tuple(STRIDES[name] for name in POOLED), boxes, size, UNIT)


def nothing(outputs: Tensor) -> Tensor:
    """0 that depends on the outputs: there is nothing to learn, and every weight has a gradient all the same."""
    return outputs.sum() * 0
