"""Panoptic-DeepLab: Cheng et al., CVPR 2020 (arXiv 1911.10194).

One encoder; an ASPP and a decoder for semantics and another pair for instances; three heads: the class of each pixel,
a heatmap of instance centres, and each pixel's offset to the centre of its instance. Instances need no boxes: every
thing pixel goes to the centre nearest to where its offset points.

Deviations: any timm encoder, at its own stride of 32 or lower; the decoders' widths follow `channels` (the paper:
256 for semantics, half of it for instances); sizes that the paper gives in pixels of 1025x2049 (the Gaussian's
deviation of 8, the NMS window of 7) are given in cells of the output grid, so that they hold at any resolution;
cross-entropy over all pixels, or whatever params.yaml names, instead of the hardest 20 %.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.data.prediction import Panoptic, Prediction
from pipelines.models import encoders, results
from pipelines.models.blocks import ASPP, ConvNormAct, SeparableConv, resize
from pipelines.models.contract import Classes, Outputs, PixelLoss, SegmentationModel
from pipelines.targets import InstanceTargets, Targets

OUTPUT_STRIDE = 4
SIGMA = 2.0  # of a centre's Gaussian, in cells: the paper's 8 pixels at output stride 4
NMS = 3  # cells
MIN_CENTER = 0.1  # heatmap value below which a peak is no centre
MAX_CENTERS = 200
MIN_AREA = 4  # pixels below which a segment is dropped


class Decoder(nn.Module):
    """ASPP on the deepest features, then up step by step, each time joined by the encoder's finer features."""

    def __init__(self, encoder: encoders.Encoder, reductions: list[int], channels: int, lateral: int):
        super().__init__()
        self.levels = [encoder.at(r) for r in reductions]
        self.aspp = ASPP(encoder.channels[-1], channels, rates=(6, 12, 18))
        self.laterals = nn.ModuleList(ConvNormAct(encoder.channels[i], lateral, 1) for i in self.levels)
        self.fuses = nn.ModuleList(SeparableConv(channels + lateral, channels, 5) for _ in self.levels)

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
    ):
        super().__init__()
        channels = channels or 256
        self.classes = classes
        self.encoder = encoders.build(encoder, paper="resnet50")
        self.stride = self.encoder.reductions[-1]
        steps = [r for r in reversed(self.encoder.reductions[:-1]) if r >= OUTPUT_STRIDE]
        self.semantic_decoder = Decoder(self.encoder, steps, channels, channels // 2)
        self.instance_decoder = Decoder(self.encoder, steps, channels // 2, channels // 4)
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
        semantic = probabilities.argmax(dim=0)
        is_thing = torch.isin(semantic, self.things)
        group = group_pixels(offsets, centers, is_thing)  # 0: none, k: centre k - 1
        count = probabilities.shape[0]
        n = len(centers)
        votes = torch.bincount(group[is_thing] * count + semantic[is_thing], minlength=(n + 1) * count)
        votes = votes.reshape(n + 1, count)[1:]
        labels = votes.argmax(dim=1) if n else votes.new_zeros(0)
        areas = votes.sum(dim=1)
        keep = areas >= MIN_AREA
        rows = torch.zeros(n + 1, dtype=torch.int64, device=semantic.device)
        rows[1:][keep] = torch.arange(1, int(keep.sum()) + 1, device=semantic.device)
        ids, labels = rows[group], labels[keep]
        masks = ids == torch.arange(1, len(labels) + 1, device=ids.device)[:, None, None]
        chosen = probabilities[labels] * masks
        confidence = chosen.sum(dim=(1, 2)) / masks.sum(dim=(1, 2)).clamp(min=1)
        instances = results.instances(masks, labels, confidence * scores[keep])
        things = len(labels)
        for category in self.classes.stuff:
            mask = semantic == category
            if int(mask.sum()) >= MIN_AREA:
                labels = torch.cat([labels, labels.new_tensor([category])])
                ids = torch.where(mask, len(labels), ids)
        # Where a group's vote overrules a pixel's own class, the semantic view follows the panoptic one.
        voted = torch.where((ids > 0) & (ids <= things), labels[(ids - 1).clamp(min=0)] if len(labels) else 0, semantic)
        panoptic = Panoptic(
            ids=ids.to(torch.int32).cpu().numpy(),
            labels=labels.cpu().numpy(),
            iscrowd=torch.zeros(len(labels), dtype=torch.bool).numpy(),
        )
        return Prediction(semantic=voted.to(torch.uint8).cpu().numpy(), instances=instances, panoptic=panoptic)


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
        pixels = is_thing.nonzero()
        points = pixels + offsets[:, is_thing].T
        # The default, by matrix product, is off by a third of a pixel in an image of 1000.
        apart = torch.cdist(points, centers.to(points.dtype), compute_mode="donot_use_mm_for_euclid_dist")
        group[is_thing] = apart.argmin(dim=1) + 1
    return group
