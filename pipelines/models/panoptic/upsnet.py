"""UPSNet: Xiong, Liao, Zhao, Hu, Bai, Yumer, Urtasun, CVPR 2019 (arXiv 1901.03784).

Mask R-CNN, and on the same pyramid a head for semantics: three deformable convolutions, shared by all levels, which
are then brought to stride 4, joined, and scored for every class. A panoptic head without weights makes one softmax of
both: scores of the stuff; of each instance, its class's scores within its box plus its mask's logits; and of the
unknown, the best score of a thing less that of the instances, which takes what the instances missed. To teach it that,
three of ten true instances are kept from it in training.

In use the instances are thinned before (overlapping boxes, uncertain ones, masks that repeat others of their class)
and corrected afterwards: one that the semantic head takes for mostly one class of stuff becomes that stuff.

Deviations: those of `mask_rcnn`; a level has half the pyramid's width (the paper: 128 of 256), and group norm
everywhere; the pixel loss is what params.yaml names, on the image as well as on the regions of true instances; pixels
of crowds teach the panoptic head nothing; where no instance is, the best thing's score alone is that of the unknown;
small stuff is a share of the image, as `merging` says. Scores, targets and thinning are held against the paper's
equations one pixel and one instance at a time.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import DeformConv2d, batched_nms, roi_align

from pipelines.data.prediction import Instances, Prediction
from pipelines.data.schema import IGNORE
from pipelines.errors import ConfigError
from pipelines.models import encoders
from pipelines.models.blocks import resize
from pipelines.models.contract import Classes, Outputs, PixelLoss, SegmentationModel
from pipelines.models.instance import truths
from pipelines.models.instance.mask_rcnn import MaskRCNN
from pipelines.models.panoptic import merging
from pipelines.targets import Targets

LEVELS = ("p2", "p3", "p4", "p5")
STEP = 4  # pixels between the scores
SEMANTIC, REGION, PANOPTIC = 0.2, 0.2, 0.1  # the losses' weights beside the instances', as the authors' on COCO
KEPT = 0.7  # of the true instances, which the panoptic head is shown
GROUPS = 32
CELLS = 28  # of a region in each direction, as a mask has
BOX_OVERLAP = 0.5  # above which the less certain of two boxes is dropped, whatever their classes
MIN_SCORE = 0.6
MAX_OVERLAP = 0.3  # the share of a mask that may be taken by others of its class
MAJORITY = 0.5  # the share of an instance's pixels that makes it stuff
VOID = -1  # not IGNORE: with so many instances, 255 is one of them
BAND = 2**25  # values of the panoptic head at a time


class Deformable(nn.Module):
    """A 3x3 convolution that looks where it has learnt to (arXiv 1703.06211); group norm, ReLU."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.offset = nn.Conv2d(inputs, 2 * 9, 3, padding=1)
        self.conv = DeformConv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(math.gcd(GROUPS, outputs), outputs)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)
        nn.init.kaiming_normal_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        # In float32: the layer knows no other type on every device.
        found: Tensor = self.norm(self.conv(x.float(), self.offset(x).float()))
        return found.relu()


class SemanticHead(nn.Module):
    """The pyramid's levels -> scores of all classes at the stride of the finest."""

    def __init__(self, inputs: int, width: int, classes: int):
        super().__init__()
        self.shared = nn.Sequential(Deformable(inputs, inputs), Deformable(inputs, width), Deformable(width, width))
        self.classify = nn.Conv2d(width * len(LEVELS), classes, 1)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        levels = [resize(self.shared(level), pyramid[0].shape[-2:]) for level in pyramid]
        scores: Tensor = self.classify(torch.cat(levels, dim=1))
        return scores


class UPSNet(SegmentationModel):
    things: Tensor
    stuff: Tensor

    def __init__(
        self,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
        min_score: float = MIN_SCORE,
        max_overlap: float = MAX_OVERLAP,
        min_stuff: float = merging.MIN_STUFF,
    ):
        super().__init__()
        channels = channels or 256
        if not classes.things:
            raise ConfigError(
                "model.name: upsnet finds things, and the dataset has stuff classes only",
                do="set task: semantic, and a model of it",
            )
        self.classes = classes
        self.min_score, self.max_overlap, self.min_stuff = min_score, max_overlap, min_stuff
        self.mask_rcnn = MaskRCNN(classes=classes, encoder=encoder, channels=channels)
        self.stride = self.mask_rcnn.stride
        self.semantic_head = SemanticHead(channels, channels // 2, classes.count)
        self.register_buffer("things", torch.tensor(classes.things), persistent=False)
        self.register_buffer("stuff", torch.tensor(classes.stuff, dtype=torch.int64), persistent=False)

    def forward(self, images: Tensor) -> Outputs:
        """Mask R-CNN's, and "semantic": the scores at a fourth of the size."""
        outputs: Outputs = self.mask_rcnn(images)
        return {**outputs, "semantic": self.semantic_head([outputs[name] for name in LEVELS])}

    def losses(self, outputs: Outputs, targets: Targets, pixel_loss: PixelLoss) -> dict[str, Tensor]:
        scores = outputs["semantic"].float()
        objects = [truths.of(t, self.classes.things) for t in targets.instances]
        return {
            **self.mask_rcnn.losses(outputs, targets, pixel_loss),
            "semantic": SEMANTIC * pixel_loss(resize(scores, targets.semantic.shape[-2:]), targets),
            "semantic_region": REGION * region_loss(scores, targets, [t.boxes for t in objects], pixel_loss),
            "panoptic": PANOPTIC * self._panoptic_loss(outputs, scores, targets, objects),
        }

    def _panoptic_loss(self, outputs: Outputs, scores: Tensor, targets: Targets, objects: list[truths.Truth]) -> Tensor:
        """Cross entropy over the stuff, the true instances that are shown, and the unknown."""
        shown = [self._shown(len(t), scores.device) for t in objects]
        boxes = [t.boxes[rows] for t, rows in zip(objects, shown, strict=True)]
        labels = torch.cat([t.labels[rows] for t, rows in zip(objects, shown, strict=True)])
        sizes = [len(rows) for rows in shown]
        masks = self._masks(outputs, boxes, labels)
        parts = []
        for i, (own, label) in enumerate(zip(masks.split(sizes), labels.split(sizes), strict=True)):
            found = self._panoptic_scores(scores[i], boxes[i], label, own, STEP)
            wanted = panoptic_truth(targets.semantic[i], objects[i], shown[i], self.stuff)
            entropy = F.cross_entropy(found[None], wanted[None], ignore_index=VOID, reduction="sum")
            parts.append(torch.stack([entropy, (wanted != VOID).sum()]))
        total, pixels = torch.stack(parts).sum(dim=0)
        return total / pixels.clamp(min=1)

    def _shown(self, count: int, device: torch.device) -> Tensor:
        """Which of the true instances the panoptic head is shown: a part of them in training, one at least."""
        rows = torch.randperm(count, device=device) if self.training else torch.arange(count, device=device)
        return rows[: max(int(KEPT * count), 1)] if self.training else rows

    def _masks(self, outputs: Outputs, boxes: list[Tensor], labels: Tensor) -> Tensor:
        """Mask logits[n, 28, 28] of all boxes; `labels` are positions in the list of things."""
        return self.mask_rcnn._masks(outputs, boxes, labels + 1)

    def _panoptic_scores(
        self, scores: Tensor, boxes: Tensor, labels: Tensor, masks: Tensor, step: int, top: int = 0
    ) -> Tensor:
        """[classes, h, w] every `step` pixels from the row `top` on; n boxes in pixels, their positions in the list of
        things and mask logits[n, 28, 28] -> [stuff + n + 1, h, w]: the paper's equations 1 and 2."""
        height, width = scores.shape[-2:]
        down = stretched(boxes[:, 1], boxes[:, 3], (torch.arange(height, device=scores.device) + 0.5) * step + top)
        across = stretched(boxes[:, 0], boxes[:, 2], (torch.arange(width, device=scores.device) + 0.5) * step)
        inside = down.any(dim=2)[:, :, None] & across.any(dim=2)[:, None, :]
        own = scores[self.things[labels]] * inside
        unknown = scores[self.things].amax(dim=0) - (own.amax(dim=0) if len(own) else 0)
        return torch.cat([scores[self.stuff], own + down @ masks @ across.mT, unknown[None]])

    @torch.no_grad()
    def predict(self, outputs: Outputs, sizes: list[tuple[int, int]]) -> list[Prediction]:
        images = ({name: values[i : i + 1] for name, values in outputs.items()} for i in range(len(sizes)))
        return [self._predict(image, size) for image, size in zip(images, sizes, strict=True)]

    def _predict(self, outputs: Outputs, size: tuple[int, int]) -> Prediction:
        found = self.mask_rcnn.predict(outputs, [size])[0].instances
        assert found is not None
        rows = thin(found, self.min_score, self.max_overlap)
        labels, boxes = found.labels[rows], torch.from_numpy(found.boxes[rows]).to(self.things.device)
        positions = (torch.from_numpy(labels).to(boxes.device)[:, None] == self.things).int().argmax(dim=1)
        masks = self._masks(outputs, [boxes], positions)
        coarse = outputs["semantic"].float()
        full = (coarse.shape[-2] * STEP, coarse.shape[-1] * STEP)
        scores = resize(coarse, full)[0, :, : size[0], : size[1]]
        owner = torch.empty(size, dtype=torch.int64, device=scores.device)
        band = max(BAND // (size[1] * (self.classes.count + len(rows) + 1)), 1)
        for top in range(0, size[0], band):
            part = self._panoptic_scores(scores[:, top : top + band], boxes, positions, masks, 1, top)
            owner[top : top + band] = part.argmax(dim=0)
        semantic = scores.argmax(dim=0).to(torch.uint8).cpu().numpy()
        ids, rest = split(owner.cpu().numpy(), semantic, len(labels), self.classes.stuff)
        return merging.compose(
            ids, labels, found.scores[rows], rest, semantic, stuff=self.classes.stuff, min_stuff=self.min_stuff
        )


def stretched(low: Tensor, high: Tensor, places: Tensor) -> Tensor:
    """float[n, places, 28]: what each cell of a mask that lies between low[n] and high[n] weighs at each place, by
    linear interpolation; nothing outside."""
    at = (places - low[:, None]) / (high - low)[:, None]
    cell = (at * CELLS - 0.5).clamp(0, CELLS - 1)[..., None]
    weight = (1 - (cell - torch.arange(CELLS, device=places.device)).abs()).clamp(min=0)
    return weight * ((at >= 0) & (at < 1))[..., None]


def region_loss(scores: Tensor, targets: Targets, boxes: list[Tensor], pixel_loss: PixelLoss) -> Tensor:
    """The pixel loss within true boxes, so that small things count as much as large ones."""
    if not sum(len(b) for b in boxes):
        return scores.sum() * 0
    # The paper pools features and then scores them, which is the same: both are linear.
    pooled = roi_align(scores, boxes, CELLS, 1 / STEP, sampling_ratio=2, aligned=True)
    maps = targets.border
    truth = Targets(
        semantic=torch.cat([sampled(m, b) for m, b in zip(targets.semantic, boxes, strict=True)]),
        border=None if maps is None else torch.cat([sampled(m, b) for m, b in zip(maps, boxes, strict=True)]),
        instances=[],
    )
    return pixel_loss(pooled, truth)


def sampled(values: Tensor, boxes: Tensor) -> Tensor:
    """[h, w], boxes within it -> [n, 28, 28]: the pixel at the middle of each cell."""
    middles = (torch.arange(CELLS, device=boxes.device) + 0.5) / CELLS
    x, y = (boxes[:, a, None] + (boxes[:, a + 2] - boxes[:, a])[:, None] * middles for a in (0, 1))
    return values[y.long()[:, :, None], x.long()[:, None, :]]


def panoptic_truth(semantic: Tensor, truth: truths.Truth, shown: Tensor, stuff: Tensor) -> Tensor:
    """int64[h / 4, w / 4]: the position of the stuff, then of the instance shown that is in front, then the unknown,
    which is all other things; VOID where nothing is known, and in crowds."""
    grid = (slice(STEP // 2, None, STEP),) * 2
    unknown = len(stuff) + len(shown)
    table = torch.full((IGNORE + 1,), unknown, device=semantic.device)
    table[stuff] = torch.arange(len(stuff), device=semantic.device)
    table[IGNORE] = VOID
    wanted = table[semantic[grid]].masked_fill(truth.crowd[grid], VOID)
    if not len(truth):
        return wanted
    place = torch.full((len(truth),), unknown, device=semantic.device)
    place[shown] = torch.arange(len(stuff), unknown, device=semantic.device)
    masks = truth.masks[(slice(None), *grid)]
    return torch.where(masks.any(dim=0), place[masks.int().argmax(dim=0)], wanted)


def thin(found: Instances, min_score: float, max_overlap: float) -> np.ndarray:
    """Rows of those instances that the panoptic head is given."""
    sure = np.flatnonzero(found.scores > min_score)
    boxes, scores = torch.from_numpy(found.boxes[sure]), torch.from_numpy(found.scores[sure])
    rows = sure[batched_nms(boxes, scores, torch.zeros(len(sure)), BOX_OVERLAP).numpy()]
    labels = found.labels[rows]
    apart = [merging.occupy(found.masks, rows[labels == c], max_overlap)[1] for c in np.unique(labels)]
    return np.concatenate([*apart, np.zeros(0, np.int64)])


def split(owner: np.ndarray, semantic: np.ndarray, count: int, stuff: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Positions among stuff, instances and the unknown -> ids of the instances, int32[h, w], and the class of stuff of
    each other pixel, IGNORE for the unknown. An instance that is mostly one stuff to the semantic head becomes that."""
    numbers = np.append(np.zeros(len(stuff), np.int32), np.append(np.arange(1, count + 1, dtype=np.int32), 0))
    ids = numbers[owner]
    votes = np.bincount(ids.reshape(-1) * 256 + semantic.reshape(-1), minlength=(count + 1) * 256).reshape(-1, 256)[1:]
    winner = votes.argmax(axis=1)
    turned = (votes.max(axis=1, initial=0) > MAJORITY * votes.sum(axis=1)) & np.isin(winner, stuff)
    names = np.concatenate([stuff, np.where(turned, winner, IGNORE), [IGNORE]]).astype(np.uint8)
    return np.append(0, np.where(turned, 0, np.arange(1, count + 1)))[ids].astype(np.int32), names[owner]
