"""Panoptic-DeepLab: Cheng et al., CVPR 2020 (arXiv 1911.10194).

One encoder; an ASPP and a decoder for semantics and another pair for instances; three heads: the class of each pixel,
a heatmap of instance centres, and each pixel's offset to the centre of its instance. Instances need no boxes: every
thing pixel goes to the centre nearest to where its offset points.

`output_stride: 16` is the full-size form: the encoder's last stage dilated, and the authors' widths, in units of
`channels` (256): both ASPPs and the semantic decoder that wide, the instance decoder half of it, and of the finer
features fewer the finer they are. 32, the default, keeps the encoder's own stride and is lighter for instances, whose
ASPP is as narrow as their decoder.

Deviations: any timm encoder, at its own stride of 32 or lower; no norm in ASPP's image pooling (`blocks.ImagePooling`
says why); sizes that the paper gives in pixels of 1025x2049 (the Gaussian's
deviation of 8, the NMS window of 7) are given in cells of the output grid, so that they hold at any resolution;
cross-entropy over all pixels, or whatever params.yaml names, instead of the hardest 20 %; 300 centres at most, not 200.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.data.prediction import Instances, Panoptic, Prediction
from pipelines.models import encoders
from pipelines.models.blocks import ASPP, ConvNormAct, SeparableConv, resize
from pipelines.models.contract import Classes, Outputs, PixelLoss, SegmentationModel
from pipelines.targets import InstanceTargets, Targets

FINEST = 4  # stride of centres and offsets
SIGMA = 2.0  # of a centre's Gaussian, in cells: the paper's 8 pixels at output stride 4
NMS = 3  # cells
MIN_CENTER = 0.1  # heatmap value below which a peak is no centre
MAX_CENTERS = 300
MIN_AREA = 4  # pixels below which a segment is dropped
PAIRS = 1 << 17  # of a pixel and a centre that are looked at together: as many as a cache holds


class Decoder(nn.Module):
    """ASPP on the deepest features, then up step by step, each time joined by the encoder's finer features."""

    def __init__(self, encoder: encoders.Encoder, laterals: dict[int, int], *, aspp: int, channels: int):
        """`laterals`: of which finer features, by their stride, how many channels."""
        super().__init__()
        self.levels = [encoder.at(stride) for stride in laterals]
        self.aspp = ASPP(encoder.channels[-1], aspp, rates=(6, 12, 18))
        widths = list(laterals.values())
        self.laterals = nn.ModuleList(
            ConvNormAct(encoder.channels[i], width, 1) for i, width in zip(self.levels, widths, strict=True)
        )
        above = [aspp, *(channels for _ in widths[1:])]
        self.fuses = nn.ModuleList(
            SeparableConv(coarse + width, channels, 5) for coarse, width in zip(above, widths, strict=True)
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        x: Tensor = self.aspp(features[-1])
        for level, lateral, fuse in zip(self.levels, self.laterals, self.fuses, strict=True):
            fine = lateral(features[level])
            x = fuse(torch.cat([resize(x, fine.shape[-2:]), fine], dim=1))
        return x


def head(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(SeparableConv(channels, channels, 5), nn.Conv2d(channels, out, 1))


class PanopticDeepLab(SegmentationModel):
    things: Tensor

    def __init__(
        self,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
        output_stride: int = 32,
    ):
        super().__init__()
        channels = channels or 256
        self.classes = classes
        self.encoder = encoders.build(encoder, paper="resnet50", output_stride=output_stride)
        self.stride = self.encoder.reductions[-1]
        steps = [r for r in reversed(self.encoder.reductions) if FINEST <= r < self.stride]
        full_size = output_stride < 32
        semantic = {r: max(2, channels * r // 32) if full_size else channels // 2 for r in steps}
        instance = {r: width // 2 for r, width in semantic.items()}
        narrow = channels // 2
        self.semantic_decoder = Decoder(self.encoder, semantic, aspp=channels, channels=channels)
        self.instance_decoder = Decoder(self.encoder, instance, aspp=channels if full_size else narrow, channels=narrow)
        self.semantic_head = head(channels, classes.count)
        self.center_head = head(channels // 2, 1)
        self.offset_head = head(channels // 2, 2)
        self.register_buffer("things", torch.tensor(classes.things), persistent=False)

    def forward(self, images: Tensor) -> Outputs:
        features = self.encoder(images)
        semantic = self.semantic_decoder(features)
        instance = self.instance_decoder(features)
        return {
            "semantic": resize(self.semantic_head(semantic), images.shape[-2:]),
            "center": self.center_head(instance),
            "offset": self.offset_head(instance),
        }

    def losses(self, outputs: Outputs, targets: Targets, pixel_loss: PixelLoss) -> dict[str, Tensor]:
        size = outputs["center"].shape[-2:]
        full = targets.semantic.shape[-2:]
        truths = [center_targets(t, full, size) for t in targets.instances]
        heatmap, offset, crowd, thing = (torch.stack(part) for part in zip(*truths, strict=True))
        known = (~crowd).unsqueeze(1)
        center = (outputs["center"].float() - heatmap.unsqueeze(1)).square() * known
        distance = (outputs["offset"].float() - offset).abs() * thing.unsqueeze(1)
        return {
            "semantic": pixel_loss(outputs["semantic"], targets),
            "center": center.sum() / known.sum().clamp(min=1),
            "offset": distance.sum() / thing.sum().clamp(min=1),
        }

    @torch.no_grad()
    def predict(self, outputs: Outputs, sizes: list[tuple[int, int]]) -> list[Prediction]:
        full = outputs["semantic"].shape[-2:]
        probabilities = outputs["semantic"].float().softmax(dim=1)
        offsets = resize(outputs["offset"].float(), full)
        predictions = []
        for i, (height, width) in enumerate(sizes):
            centers, scores = find_centers(outputs["center"][i, 0].float(), full)
            inside = (centers[:, 0] < height) & (centers[:, 1] < width)
            predictions.append(
                self._merge(
                    probabilities[i, :, :height, :width],
                    offsets[i, :, :height, :width],
                    centers[inside],
                    scores[inside],
                )
            )
        return predictions

    def _merge(self, probabilities: Tensor, offsets: Tensor, centers: Tensor, scores: Tensor) -> Prediction:
        """Group thing pixels by centre, give each group the class that most of its pixels vote for, lay the groups
        over the stuff."""
        semantic = probabilities.max(dim=0).indices  # several times as fast as argmax
        is_thing = torch.isin(semantic, self.things)
        group = group_pixels(offsets, centers, is_thing)  # 0: none, k: centre k - 1
        labels, keep = self._elect(semantic[is_thing], group[is_thing], len(centers))
        things = len(labels)
        rows = number(torch.cat([keep.new_zeros(1), keep]))
        # Stuff is numbered after things, a class at a time.
        stuff = torch.tensor(self.classes.stuff, dtype=torch.int64, device=labels.device)
        stuff = stuff[torch.bincount(semantic.flatten(), minlength=self.classes.count)[stuff] >= MIN_AREA]
        of_class = torch.zeros(self.classes.count, dtype=torch.int64, device=labels.device)
        of_class[stuff] = things + 1 + torch.arange(len(stuff), device=labels.device)
        ids = torch.where(is_thing, rows[group], of_class[semantic])
        labels = torch.cat([labels, stuff])
        # Where a group's vote overrules a pixel's own class, the semantic view follows the panoptic one.
        voted = torch.where(ids > 0, torch.cat([stuff.new_zeros(1), labels])[ids], semantic)
        sure = probabilities.gather(0, voted[None])[0]
        return Prediction(
            semantic=voted.to(torch.uint8).cpu().numpy(),
            confidence=sure.cpu().numpy(),
            instances=scored(ids, sure, labels[:things], scores[keep]),
            panoptic=Panoptic(
                ids=ids.to(torch.int32).cpu().numpy(),
                labels=labels.cpu().numpy(),
                iscrowd=torch.zeros(len(labels), dtype=torch.bool).numpy(),
            ),
        )

    def _elect(self, semantic: Tensor, group: Tensor, centers: int) -> tuple[Tensor, Tensor]:
        """What each pixel says of its class, and its group -> the class of each group that is kept, and which are."""
        count = self.classes.count
        votes = torch.bincount(group * count + semantic, minlength=(centers + 1) * count).reshape(-1, count)[1:]
        keep = votes.sum(dim=1) >= MIN_AREA
        return votes[keep].argmax(dim=1), keep


def number(keep: Tensor) -> Tensor:
    """bool[n] -> int64[n]: those that are kept counted from 1, 0 for the others."""
    return keep.cumsum(dim=0) * keep


def scored(ids: Tensor, sure: Tensor, labels: Tensor, heights: Tensor) -> Instances:
    """The segments 1..n of ids[h, w] as instances: the mean probability of the class times the centre's height.

    Not by `results.instances`: it looks at every pixel of every mask, where looking at those of the segments is enough.
    """
    n, (height, width) = len(labels), ids.shape
    where = ((ids > 0) & (ids <= n)).flatten().nonzero()[:, 0]
    row = ids.flatten()[where] - 1
    total = torch.zeros(n, dtype=torch.float64, device=ids.device).index_add_(0, row, sure.flatten()[where].double())
    scores = total / torch.bincount(row, minlength=n) * heights
    masks = torch.zeros((n, height * width), dtype=torch.bool, device=ids.device)
    masks[row, where] = True
    corners = torch.stack([where % width, where // width], dim=1)
    index, none = row[:, None].expand(-1, 2), corners.new_zeros(n, 2)
    first = none.scatter_reduce(0, index, corners, "amin", include_self=False)
    last = none.scatter_reduce(0, index, corners, "amax", include_self=False)
    return Instances(
        masks=masks.view(n, height, width).cpu().numpy(),
        labels=labels.cpu().numpy(),
        scores=scores.float().clamp(0, 1).cpu().numpy(),
        boxes=torch.cat([first, last + 1], dim=1).float().cpu().numpy(),
    )


def center_targets(truth: InstanceTargets, full: torch.Size, size: torch.Size) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """heatmap[h, w], offset[2, h, w] in pixels (dy, dx), crowd[h, w] and thing[h, w] on the output grid."""
    device = truth.masks.device
    step_y, step_x = full[0] // size[0], full[1] // size[1]
    masks = truth.masks[:, step_y // 2 :: step_y, step_x // 2 :: step_x]
    ys = cell_centers(size[0], step_y, device)
    xs = cell_centers(size[1], step_x, device)
    crowd = masks[truth.iscrowd].any(dim=0)
    whole = truth.masks[~truth.iscrowd].float()
    cells = masks[~truth.iscrowd]
    if not len(whole):
        empty = torch.zeros(size, device=device)
        return empty, torch.zeros(2, *size, device=device), crowd, torch.zeros(size, dtype=torch.bool, device=device)
    area = whole.sum(dim=(1, 2)).clamp(min=1)
    cy = (whole.sum(dim=2) * torch.arange(full[0], device=device)).sum(dim=1) / area
    cx = (whole.sum(dim=1) * torch.arange(full[1], device=device)).sum(dim=1) / area
    gauss_y = torch.exp(-((ys - cy[:, None]) ** 2) / (2 * (SIGMA * step_y) ** 2))
    gauss_x = torch.exp(-((xs - cx[:, None]) ** 2) / (2 * (SIGMA * step_x) ** 2))
    heatmap = (gauss_y[:, :, None] * gauss_x[:, None, :]).amax(dim=0)
    owner = cells.int().argmax(dim=0)  # where instances overlap, the first
    thing = cells.any(dim=0)
    offset = torch.stack([cy[owner] - ys[:, None], cx[owner] - xs[None, :]]) * thing
    return heatmap, offset, crowd, thing


def cell_centers(cells: int, step: int, device: torch.device) -> Tensor:
    """The pixel coordinates at the middle of each cell of the output grid."""
    return torch.arange(cells, device=device) * step + (step - 1) / 2


def find_centers(heatmap: Tensor, full: torch.Size) -> tuple[Tensor, Tensor]:
    """Peaks of the heatmap -> their pixel coordinates[n, 2] as (y, x), and heights[n], highest first.

    Of equal neighbours the first is the peak: bfloat16 makes many, and two centres would halve their instance.
    """
    order = torch.arange(heatmap.numel(), device=heatmap.device).reshape(heatmap.shape)
    ranked = heatmap.double() - 1e-12 * order
    peak = F.max_pool2d(ranked[None, None], NMS, stride=1, padding=NMS // 2)[0, 0]
    candidates = torch.where((ranked == peak) & (heatmap > MIN_CENTER), heatmap, 0).flatten()
    scores, where = candidates.topk(min(MAX_CENTERS, candidates.numel()))
    where, scores = where[scores > 0], scores[scores > 0]
    step_y, step_x = full[0] // heatmap.shape[0], full[1] // heatmap.shape[1]
    y = (where // heatmap.shape[1]) * step_y + (step_y - 1) / 2
    x = (where % heatmap.shape[1]) * step_x + (step_x - 1) / 2
    return torch.stack([y, x], dim=1), scores


def group_pixels(offsets: Tensor, centers: Tensor, is_thing: Tensor) -> Tensor:
    """int64[h, w]: 1 + the centre nearest to where each thing pixel points, 0 elsewhere or without any centre."""
    group = torch.zeros(is_thing.shape, dtype=torch.int64, device=is_thing.device)
    if len(centers):
        # |p - c|^2 / 2 without |p|^2 / 2, which is the same for all centres, is (p, 1) times (-c, |c|^2 / 2). In
        # float64: small differences of the squares of large coordinates decide.
        points = F.pad((is_thing.nonzero() + offsets[:, is_thing].T).double(), (0, 1), value=1.0)
        middles = centers.double()
        weights = torch.cat([-middles.T, middles.square().sum(dim=1)[None] / 2])
        parts = points.split(-(-PAIRS // len(centers)))
        group[is_thing] = torch.cat([(part @ weights).min(dim=1).indices for part in parts]) + 1
    return group
