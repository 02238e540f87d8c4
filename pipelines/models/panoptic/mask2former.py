"""Mask2Former: Cheng, Misra, Schwing, Kirillov, Girdhar, CVPR 2022 (arXiv 2112.01527).

One architecture for the three tasks: an encoder, a pixel decoder that embeds each pixel, and a Transformer decoder
whose queries each become a class and a mask. They differ in what a segment is: a thing or all of a stuff class
(`mask2former`), a thing (`mask2former_instance`), or all of any class (`mask2former_semantic`).

`queries` and `layers` are the decoder's (the paper: 100 and 9); no image has more segments than there are queries.
`channels` is the width of both decoders (256), a multiple of 8.

Deviations: any timm encoder with features at strides 4 to 32, none of it frozen; the semantic view is put together at
stride 4 and then scaled up, where the authors scale up every mask before; what is normalised by the number of segments
is so on each worker. The losses of the semantic task are masks' and classes', too: `loss.semantic` is not asked. More
in `mask_set` and `masked_decoder`.

Held against the paper's parameter count, and by its parts: attention against the equation and PyTorch's, matching and
merging against brute force.
"""

import torch
from torch import Tensor

from pipelines.data.prediction import Instances, Panoptic, Prediction
from pipelines.errors import ConfigError
from pipelines.models import encoders, results
from pipelines.models.blocks import resize
from pipelines.models.contract import Classes, Outputs, PixelLoss, SegmentationModel
from pipelines.models.heads import SemanticModel
from pipelines.models.instance import truths
from pipelines.models.panoptic import mask_set
from pipelines.models.panoptic.mask_set import Segments
from pipelines.models.panoptic.masked_decoder import HEADS, MaskedDecoder
from pipelines.models.panoptic.pixel_decoder import FINEST, PixelDecoder
from pipelines.targets import Targets

OBJECT = 0.8  # the least probability of a segment's class
OVERLAP = 0.8  # the least share of a mask that its segment keeps
INSTANCES = 100  # of an image
LEAST = 1e-6  # a score of 0 has no logarithm


class MaskClassifier(SegmentationModel):
    """What the three tasks share. `labels` are the classes that a query may have."""

    stride = 32
    labels: Tensor

    def __init__(
        self,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
        queries: int = 100,
        layers: int = 9,
    ):
        super().__init__()
        channels = channels or 256
        if channels % HEADS:
            raise ConfigError(
                f"model.channels: mask2former's attention has {HEADS} heads, among which {channels} cannot be shared",
                do=f"name a multiple of {HEADS}",
            )
        self.classes = classes
        labels = torch.tensor(self.learned(classes))
        self.encoder = encoders.build(encoder, paper="resnet50")
        self.pixel_decoder = PixelDecoder(self.encoder, channels)
        self.decoder = MaskedDecoder(channels, queries=queries, layers=layers, classes=len(labels))
        self.register_buffer("labels", labels, persistent=False)

    def learned(self, classes: Classes) -> tuple[int, ...]:
        """The ids of the classes that a query may have."""
        return tuple(range(classes.count))

    def truth(self, targets: Targets, i: int) -> Segments:
        """The segments of image i."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Outputs:
        pixels, scales = self.pixel_decoder(self.encoder(images))
        classes, embeddings = self.decoder(scales, pixels)
        return {"classes": classes, "embeddings": embeddings, "pixels": pixels}

    def losses(self, outputs: Outputs, targets: Targets, pixel_loss: PixelLoss) -> dict[str, Tensor]:
        segments = [self.truth(targets, i) for i in range(len(targets.semantic))]
        with torch.autocast(outputs["pixels"].device.type, enabled=False):  # costs are differences of sums
            return mask_set.losses(outputs, segments)


class Mask2Former(MaskClassifier):
    def truth(self, targets: Targets, i: int) -> Segments:
        things = truths.of(targets.instances[i], self.classes.things)
        stuff, masks = classes_in(targets.semantic[i], self.classes.stuff)
        masks = torch.cat([things.masks, masks])
        labels = torch.cat([torch.tensor(self.classes.things, device=stuff.device)[things.labels], stuff])
        return Segments(labels=labels, masks=masks, known=masks.any(dim=0))

    @torch.no_grad()
    def predict(self, outputs: Outputs, sizes: list[tuple[int, int]]) -> list[Prediction]:
        full = [FINEST * side for side in outputs["pixels"].shape[-2:]]
        best, semantic = semantic_scores(outputs, (full[0], full[1])).exp().max(dim=1)
        things = torch.tensor(self.classes.things, dtype=torch.int64, device=best.device)
        return [
            Prediction(
                semantic=semantic[i, :height, :width].to(torch.uint8).cpu().numpy(),
                confidence=best[i, :height, :width].cpu().numpy(),
                instances=instances(outputs, i, (height, width), things, things),
                panoptic=self._panoptic(outputs, i, (height, width)),
            )
            for i, (height, width) in enumerate(sizes)
        ]

    def _panoptic(self, outputs: Outputs, i: int, size: tuple[int, int]) -> Panoptic:
        scores, labels = outputs["classes"][i, -1].float().softmax(dim=-1).max(dim=-1)
        sure = ((labels < self.classes.count) & (scores > OBJECT)).nonzero()[:, 0]
        ids, labels = merge(masks_of(outputs, i, sure, size).sigmoid(), scores[sure], labels[sure], self.classes.stuff)
        return Panoptic(
            ids=ids.to(torch.int32).cpu().numpy(),
            labels=labels.cpu().numpy(),
            iscrowd=torch.zeros(len(labels), dtype=torch.bool).numpy(),
        )


class Mask2FormerInstance(MaskClassifier):
    def learned(self, classes: Classes) -> tuple[int, ...]:
        return truths.things_of(classes, "mask2former_instance")

    def truth(self, targets: Targets, i: int) -> Segments:
        things = truths.of(targets.instances[i], self.classes.things)
        return Segments(labels=things.labels, masks=things.masks, known=~things.crowd | things.masks.any(dim=0))

    @torch.no_grad()
    def predict(self, outputs: Outputs, sizes: list[tuple[int, int]]) -> list[Prediction]:
        columns = torch.arange(len(self.labels), device=self.labels.device)
        return [Prediction(instances=instances(outputs, i, size, columns, self.labels)) for i, size in enumerate(sizes)]


class Mask2FormerSemantic(MaskClassifier, SemanticModel):
    """ "semantic" is made in evaluation only: nothing is learned from it."""

    def truth(self, targets: Targets, i: int) -> Segments:
        labels, masks = classes_in(targets.semantic[i], range(self.classes.count))
        return Segments(labels=labels, masks=masks, known=masks.any(dim=0))

    def forward(self, images: Tensor) -> Outputs:
        outputs = super().forward(images)
        return outputs if self.training else {**outputs, "semantic": semantic_scores(outputs, images.shape[-2:])}


def classes_in(semantic: Tensor, classes: tuple[int, ...] | range) -> tuple[Tensor, Tensor]:
    """Those of the classes that semantic[h, w] shows, int64[n], and where: bool[n, h, w]."""
    every = torch.tensor(tuple(classes), dtype=torch.int64, device=semantic.device)
    masks = semantic == every[:, None, None]
    seen = masks.flatten(1).any(dim=1)
    return every[seen], masks[seen]


def masks_of(outputs: Outputs, i: int, queries: Tensor, size: tuple[int, int]) -> Tensor:
    """Mask logits[n, h, w] of some queries of image i, at full size, cut to the image's own."""
    logits = torch.einsum("qc,chw->qhw", outputs["embeddings"][i, -1, queries].float(), outputs["pixels"][i].float())
    height, width = logits.shape[-2:]
    return resize(logits[:, None], (FINEST * height, FINEST * width))[:, 0, : size[0], : size[1]]


def semantic_scores(outputs: Outputs, size: torch.Size | tuple[int, int]) -> Tensor:
    """Log-probabilities[b, classes, h, w]: each class's share of what all queries say of a pixel."""
    classes = outputs["classes"][:, -1].float().softmax(dim=-1)[..., :-1]
    masks = torch.einsum("bqc,bchw->bqhw", outputs["embeddings"][:, -1].float(), outputs["pixels"].float()).sigmoid()
    scores = resize(torch.einsum("bqk,bqhw->bkhw", classes, masks), size) + LEAST
    return (scores / scores.sum(dim=1, keepdim=True)).log()


def instances(outputs: Outputs, i: int, size: tuple[int, int], columns: Tensor, labels: Tensor) -> Instances:
    """The best pairs of a query and a class; `columns` of the class logits are the things', named by `labels`. Scored
    by the class's probability and the mask's mean probability within it."""
    scores = outputs["classes"][i, -1].float().softmax(dim=-1)[:, columns].flatten()
    scores, chosen = scores.topk(min(INSTANCES, len(scores)))
    logits = masks_of(outputs, i, chosen // len(columns), size)
    masks = logits > 0
    sure = (logits.sigmoid() * masks).sum(dim=(1, 2)) / masks.sum(dim=(1, 2)).clamp(min=1)
    return results.instances(masks, labels[chosen % len(columns)], scores * sure)


def merge(masks: Tensor, scores: Tensor, labels: Tensor, stuff: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Probabilities[n, h, w], and each one's score and class -> segments int64[h, w], 0 for none, and their classes.

    A pixel is of the mask that claims it most; a mask that keeps too little of itself is dropped; the masks of a stuff
    class are one segment.
    """
    n = len(masks)
    if not n:
        return torch.zeros(masks.shape[-2:], dtype=torch.int64, device=masks.device), labels
    owner = (scores[:, None, None] * masks).argmax(dim=0)
    claimed = masks >= 0.5
    won = claimed.gather(0, owner[None])[0]
    seen = torch.bincount(owner[won], minlength=n) > 0
    keep = seen & (torch.bincount(owner.flatten(), minlength=n) >= OVERLAP * claimed.sum(dim=(1, 2)))
    # One number for all masks of a stuff class, another for each thing; then those in use are counted from 1.
    isstuff = torch.isin(labels, torch.tensor(stuff, dtype=torch.int64, device=labels.device))
    number = torch.where(isstuff, n + labels, torch.arange(n, device=labels.device))
    used, row = torch.where(keep, number, -1).unique(return_inverse=True)
    dropped = int((used < 0).any())
    ids = torch.where(won & keep[owner], row[owner] + 1 - dropped, 0)
    named = torch.zeros(len(used), dtype=torch.int64, device=labels.device)
    named[row] = labels
    return ids, named[dropped:]
