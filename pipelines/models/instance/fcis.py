"""FCIS: Li, Qi, Dai, Ji, Wei, CVPR 2017 (arXiv 1611.07709): fully convolutional instance-aware segmentation.

An encoder of output stride 16, its last stage dilated; proposals from the stage before it; over the last one, 2 x 7 x 7
score maps per class, of which map (i, j) says how a pixel looks in cell (i, j) of an object, within its mask (inside)
or only within its box (outside). A region assembles its 21x21 scores from the maps of its cells, without a weight of
its own: the larger of inside and outside, averaged, scores its class; the softmax of the two is its mask. Boxes are
refined by 4 x 7 x 7 maps in the same way. Each image teaches by its 128 hardest regions; in use, refined boxes are
regions once more, and each detection's mask is voted for by the regions that overlap it.

Deviations: any timm encoder that can be dilated, none of it frozen; `channels` is the width of the reduced features,
and twice that of the proposals' convolution (the paper: 1024 and 512); images as they come, so anchors of 16 to 256
pixels; scores are interpolated at the middles of the 21x21 cells instead of pooled from whole cells; a mask is voted
for on the detection's own 21x21 cells instead of the image's pixels. Crowds as in `proposals`.

Held against the paper's formulas in numpy, and against its layers' parameters counted by hand.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, ps_roi_align

from pipelines.data.prediction import Instances, Prediction
from pipelines.models import encoders, results
from pipelines.models.contract import Classes, Outputs, PixelLoss, SegmentationModel
from pipelines.models.instance import regions, truths
from pipelines.models.instance.proposals import ProposalNetwork, Truth, nothing, outside_crowds, truth_of
from pipelines.targets import Targets

STRIDE = 16
SIZES = (16, 32, 64, 128, 256)  # of the anchors
K = 7  # cells of an object, each way, that have maps of their own
PARTS = 3  # of a cell, each way: a region has 21 x 21 scores
REGIONS = 300  # per image
HARDEST = 128
MIN_SCORE, NMS, VOTING, DETECTIONS = 0.05, 0.3, 0.5, 100


class FCIS(SegmentationModel):
    stride = STRIDE

    def __init__(
        self,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
    ):
        super().__init__()
        channels = channels or 1024
        self.things = truths.things_of(classes, "fcis")
        self.encoder = encoders.build(encoder, paper="resnet101", output_stride=STRIDE)
        self.last = self.encoder.at(STRIDE)
        before = self.encoder.channels[self.last - 1]
        self.rpn = ProposalNetwork(
            before, width=channels // 2, strides=[STRIDE], sizes=[SIZES], kept=(REGIONS, REGIONS)
        )
        self.reduce = nn.Conv2d(self.encoder.channels[self.last], channels, 1)
        self.score = nn.Conv2d(channels, 2 * (len(self.things) + 1) * K**2, 1)
        self.move = nn.Conv2d(channels, 4 * K**2, 1)
        for layer in (self.reduce, self.score, self.move):
            nn.init.normal_(layer.weight, std=0.01)
        self.matcher = Matcher(0.5, 0.5, allow_low_quality_matches=False)
        self.coder = BoxCoder((10.0, 10.0, 5.0, 5.0))

    def forward(self, images: Tensor) -> Outputs:
        features = self.encoder(images)
        reduced = self.reduce(features[self.last]).relu()
        return {
            "scores": self.score(reduced),
            "moves": self.move(reduced),
            **self.rpn.score([features[self.last - 1]]),
        }

    def losses(self, outputs: Outputs, targets: Targets, pixel_loss: PixelLoss) -> dict[str, Tensor]:
        anchors = self.rpn.anchors([outputs["scores"]])
        height, width = outputs["scores"].shape[-2:]
        sizes = [(height * STRIDE, width * STRIDE)] * len(targets.instances)
        truths = [truth_of(t, self.things) for t in targets.instances]
        proposals = outside_crowds(self.rpn.propose(outputs, anchors, sizes), truths)
        boxes = [torch.cat([p, t["boxes"]]) for p, t in zip(proposals, truths, strict=True)]
        return {**self.rpn.learn(outputs, anchors, truths), **self._region_losses(outputs, boxes, truths)}

    def _region_losses(self, outputs: Outputs, boxes: list[Tensor], truths: list[Truth]) -> dict[str, Tensor]:
        logits, masks, deltas = self._assemble(outputs, boxes)
        if not len(logits):  # the means over no regions would be NaN
            return {"classifier": nothing(logits), "box": nothing(deltas), "mask": nothing(masks)}
        wanted = [self._match(b, t) for b, t in zip(boxes, truths, strict=True)]
        labels, moves, cells = (torch.cat(parts) for parts in zip(*wanted, strict=True))
        found = labels > 0
        own = masks[torch.arange(len(masks), device=masks.device), (labels - 1).clamp(min=0)]
        classifier = F.cross_entropy(logits, labels, reduction="none")
        box = F.smooth_l1_loss(deltas, moves, reduction="none").sum(dim=1) * found
        mask = F.binary_cross_entropy_with_logits(own, cells, reduction="none").mean(dim=(1, 2)) * found
        hard = hardest((classifier + box + mask).detach().split([len(b) for b in boxes]))
        return {
            "classifier": classifier[hard].mean(),
            "box": box[hard].mean(),
            "mask": mask[hard].sum() / found[hard].sum().clamp(min=1),
        }

    def _match(self, boxes: Tensor, truth: Truth) -> tuple[Tensor, Tensor, Tensor]:
        """Of each region, its label (0: background), how to move it, and the cells of its mask."""
        if not len(truth["boxes"]):
            none = torch.zeros_like(boxes)
            return none[:, 0].long(), none, none[:, :1, None].expand(-1, K * PARTS, K * PARTS)
        matched = self.matcher(box_iou(truth["boxes"], boxes))
        which = matched.clamp(min=0)
        cells = boxes.new_zeros(len(boxes), K * PARTS, K * PARTS)
        found = matched >= 0
        cells[found] = regions.cut(truth["masks"], which[found], boxes[found], K * PARTS)
        return truth["labels"][which] * found, self.coder.encode_single(truth["boxes"][which], boxes), cells

    @torch.no_grad()
    def predict(self, outputs: Outputs, sizes: list[tuple[int, int]]) -> list[Prediction]:
        # One at a time: the masks of a hundred detections in each of many images would be gigabytes.
        images = ({name: values[i : i + 1] for name, values in outputs.items()} for i in range(len(sizes)))
        return [Prediction(instances=self._detect(image, size)) for image, size in zip(images, sizes, strict=True)]

    def _detect(self, outputs: Outputs, size: tuple[int, int]) -> Instances:
        (proposed,) = self.rpn.propose(outputs, self.rpn.anchors([outputs["scores"]]), [size])
        logits, masks, deltas = self._assemble(outputs, [proposed])
        refined = clip_boxes_to_image(self.coder.decode_single(deltas, proposed), size)
        again, masks_again, _ = self._assemble(outputs, [refined])
        boxes = torch.cat([proposed, refined])
        scores = torch.cat([logits, again]).softmax(dim=1)[:, 1:]
        masks = torch.cat([masks, masks_again]).sigmoid()
        kept, labels = detections(boxes, scores)
        cells = vote(kept, labels, boxes, scores, masks)
        pasted = regions.paste(cells, boxes[kept], *size)
        return results.instances(pasted, truths.ids_of(labels, self.things), scores[kept, labels], boxes[kept])

    def _assemble(self, outputs: Outputs, boxes: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits[n, 1 + things], mask logits[n, things, 21, 21] and box deltas[n, 4] of all regions."""
        rois = regions.rois(boxes)
        inside, outside = assemble(outputs["scores"].float(), rois).chunk(2, dim=1)
        logits = torch.maximum(inside, outside).mean(dim=(2, 3))
        deltas = assemble(outputs["moves"].float(), rois).mean(dim=(2, 3))
        return logits, (inside - outside)[:, 1:], deltas  # the softmax of two is the sigmoid of their difference


def assemble(maps: Tensor, rois: Tensor) -> Tensor:
    """maps[b, c x 7 x 7, h, w] and rois[n, 5] -> [n, c, 21, 21]: each cell's parts are interpolated from the cell's own
    map, at their middles."""
    step = (rois[:, 3:] - rois[:, 1:3]) / (K * PARTS)
    # One sample in the middle of each cell of a region that is moved by a part: torchvision has one size for the cells
    # that are seen and those that have maps.
    moves = torch.arange(PARTS, device=rois.device) - PARTS // 2
    y, x = torch.meshgrid(moves, moves, indexing="ij")
    moved = torch.stack([x, y, x, y], dim=-1) * step.repeat(1, 2)[:, None, None]
    every = rois[:, None, None] + F.pad(moved, (1, 0))
    parts: Tensor = ps_roi_align(maps, every.flatten(0, 2), K, 1 / STRIDE, sampling_ratio=1)
    together = parts.unflatten(0, (-1, PARTS, PARTS)).permute(0, 3, 4, 1, 5, 2)  # n, c, row, its part, column, its part
    assembled: Tensor = together.flatten(4, 5).flatten(2, 3)
    return assembled


def hardest(losses: tuple[Tensor, ...]) -> Tensor:
    """The losses of each image's regions -> positions among all of them."""
    first, chosen = 0, []
    for loss in losses:
        chosen.append(first + loss.topk(min(HARDEST, len(loss))).indices)
        first += len(loss)
    return torch.cat(chosen)


def detections(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """boxes[n, 4], scores[n, things] -> rows and things of what is found, best first."""
    sides = boxes[:, 2:] - boxes[:, :2]
    rows, labels = ((scores > MIN_SCORE) & (sides >= 1).all(dim=1, keepdim=True)).nonzero().unbind(dim=1)
    kept = batched_nms(boxes[rows], scores[rows, labels], labels, NMS)[:DETECTIONS]
    return rows[kept], labels[kept]


def vote(kept: Tensor, labels: Tensor, boxes: Tensor, scores: Tensor, masks: Tensor) -> Tensor:
    """The masks[n, 21, 21] of the kept: the mean of those that overlapping regions see there, weighted by their score
    for its class."""
    which, voter = (box_iou(boxes[kept], boxes) > VOTING).nonzero().unbind(dim=1)
    label, own, other = labels[which], boxes[kept[which], None], boxes[voter, None]
    side = masks.shape[-1]
    middles = ((torch.arange(side, device=boxes.device) + 0.5) / side)[:, None]
    places = own[..., :2] + middles * (own[..., 2:] - own[..., :2])  # x, y in the image
    x, y = ((places - other[..., :2]) / (other[..., 2:] - other[..., :2]) * 2 - 1).unbind(dim=-1)
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)
    seen = F.grid_sample(masks[voter, label][:, None], grid, align_corners=False)[:, 0]
    weight = scores[voter, label]
    total = masks.new_zeros(len(kept), side, side).index_add(0, which, seen * weight[:, None, None])
    return total / weight.new_zeros(len(kept)).index_add(0, which, weight)[:, None, None]
