"""Region proposal network: Ren, He, Girshick, Sun, NeurIPS 2015 (arXiv 1506.01497), section 3.

torchvision's, with equal losses and proposals. Added: the strides of its levels are given instead of guessed from
sizes, and nothing is learned from crowds: they are no truths, and what lies within one is no background (Detectron's
rule, at its 0.7, here for anchors too).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops.misc import Conv2dNormActivation

from pipelines.models.contract import Outputs
from pipelines.models.instance import regions, truths
from pipelines.targets import InstanceTargets

RATIOS = (0.5, 1.0, 2.0)
CROWD = 0.7
# of one image, in torchvision's form: "boxes", "labels" from 1, "masks", and beside these objects the boxes of "crowds"
Truth = dict[str, Tensor]


class ProposalNetwork(RegionProposalNetwork):
    """Levels of `channels` at `strides`, with anchors of `sizes[i]` pixels on the i-th -> boxes that may be objects.

    `kept` proposals per image are left in training and in use; `width` is that of its 3x3 convolution, where it is not
    the levels' own.
    """

    def __init__(
        self,
        channels: int,
        *,
        strides: Sequence[int],
        sizes: Sequence[Sequence[int]],
        kept: tuple[int, int],
        width: int | None = None,
    ):
        head = RPNHead(width or channels, len(RATIOS) * len(sizes[0]))
        if width is not None:
            head.conv = Conv2dNormActivation(channels, width, kernel_size=3, norm_layer=None)
            nn.init.normal_(head.conv[0].weight, std=0.01)
        super().__init__(
            AnchorGenerator(tuple(tuple(level) for level in sizes), (RATIOS,) * len(sizes)),
            head,
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 1000, "testing": 1000},
            post_nms_top_n=dict(zip(("training", "testing"), kept, strict=True)),
            nms_thresh=0.7,
        )
        self.strides = tuple(strides)

    def score(self, levels: list[Tensor]) -> Outputs:
        """Each anchor's logit[b, anchors] of being an object, and how far the object's box is[b, anchors, 4]."""
        heads = self.head(levels)
        objectness, deltas = ([level.permute(0, 2, 3, 1).flatten(1) for level in levels] for levels in heads)
        return {"objectness": torch.cat(objectness, dim=1), "deltas": torch.cat(deltas, dim=1).unflatten(1, (-1, 4))}

    def anchors(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """The anchors of each level; those of all images of the batch are the same."""
        generator = self.anchor_generator
        generator.set_cell_anchors(torch.float32, levels[0].device)
        # Not the generator's forward: it guesses a level's stride from the sizes, wrongly where one is odd.
        anchors: list[Tensor] = generator.grid_anchors(
            [level.shape[-2:] for level in levels], [[stride, stride] for stride in self.strides]
        )
        return anchors

    @torch.no_grad()
    def propose(self, outputs: Outputs, anchors: list[Tensor], sizes: list[tuple[int, int]]) -> list[Tensor]:
        deltas = outputs["deltas"].float()
        boxes = self.box_coder.decode(deltas.flatten(0, 1), [torch.cat(anchors)] * len(sizes))
        proposals: list[Tensor] = self.filter_proposals(
            boxes.view_as(deltas), outputs["objectness"].float(), sizes, [len(a) for a in anchors]
        )[0]
        return proposals

    def learn(self, outputs: Outputs, anchors: list[Tensor], truths: list[Truth]) -> dict[str, Tensor]:
        every = torch.cat(anchors)
        everywhere = [every] * len(truths)
        labels, boxes = self.assign_targets_to_anchors(everywhere, truths)
        for label, truth in zip(labels, truths, strict=True):
            label[(label == 0) & regions.covered(every, truth["crowds"], CROWD)] = -1  # neither object nor background
        objectness, deltas = outputs["objectness"].float(), outputs["deltas"].float()
        if not any((label >= 0).any() for label in labels):  # the means over no anchors would be NaN
            return {"rpn_objectness": nothing(objectness), "rpn_box": nothing(deltas)}
        wanted = self.box_coder.encode(boxes, everywhere)
        losses = self.compute_loss(objectness, deltas.flatten(0, 1), labels, wanted)
        return dict(zip(("rpn_objectness", "rpn_box"), losses, strict=True))


def truth_of(targets: InstanceTargets, things: tuple[int, ...]) -> Truth:
    """torchvision's label k is the k-th of the things, and 0 is the background."""
    truth = truths.of(targets, things)
    return {
        "boxes": truth.boxes,
        "labels": truth.labels + 1,
        "masks": truth.masks,
        "crowds": targets.boxes[targets.iscrowd],
    }


def outside_crowds(proposals: list[Tensor], truths: list[Truth]) -> list[Tensor]:
    return [p[~regions.covered(p, t["crowds"], CROWD)] for p, t in zip(proposals, truths, strict=True)]


def nothing(outputs: Tensor) -> Tensor:
    """0 that depends on the outputs: there is nothing to learn, and every weight has a gradient all the same."""
    return outputs.sum() * 0
