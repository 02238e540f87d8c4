"""Samples -> batches: images stay uint8 until they are on the device, and are padded on the right and below."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.data.schema import IGNORE, Record
from pipelines.errors import DataError
from pipelines.targets import InstanceTargets, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One augmented image with its truth."""

    id: str
    image: Tensor  # uint8[3, h, w]
    semantic: Tensor  # uint8[h, w]
    instances: InstanceTargets


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What the loader hands to the loop."""

    ids: list[str]
    images: Tensor  # uint8[b, 3, h, w]
    targets: Targets


def decode(record: Record) -> np.ndarray:
    """uint8[h, w, 3] in RGB. The bytes were read by the bounded decoder at ingest and are hash-checked since, so the
    fastest decoder may be used on them."""
    image: np.ndarray | None = cv2.imdecode(np.frombuffer(record.image, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None or image.shape[:2] != (record.height, record.width):
        raise DataError(f"{record.id}: its image in the shard cannot be decoded", do="dvc repro --force ingest")
    return image


def pad_images(images: Sequence[Tensor], stride: int) -> tuple[Tensor, list[tuple[int, int]]]:
    """uint8[c, h, w] of any sizes -> uint8[b, c, H, W] with H and W multiples of `stride`, and the sizes.

    The border is replicated: it looks like no object and shifts no batch statistics.
    """
    sizes = [(int(i.shape[-2]), int(i.shape[-1])) for i in images]
    height, width = (-(-max(s) // stride) * stride for s in zip(*sizes, strict=True))
    if all(s == (height, width) for s in sizes):
        return torch.stack(list(images)), sizes
    padded = [
        F.pad(i[None].float(), (0, width - w, 0, height - h), mode="replicate")[0].to(i.dtype)
        for i, (h, w) in zip(images, sizes, strict=True)
    ]
    return torch.stack(padded), sizes


def collate(samples: Sequence[Sample], stride: int) -> Batch:
    """Crops have one size, so only its remainder to the stride is padded; padding is ignored by every loss."""
    images, sizes = pad_images([s.image for s in samples], stride)
    height, width = images.shape[-2:]
    pads = [(0, width - w, 0, height - h) for h, w in sizes]
    semantic = torch.stack([F.pad(s.semantic, p, value=IGNORE) for s, p in zip(samples, pads, strict=True)]).long()
    instances = [
        InstanceTargets(
            masks=F.pad(s.instances.masks, p),
            labels=s.instances.labels,
            boxes=s.instances.boxes,
            iscrowd=s.instances.iscrowd,
        )
        for s, p in zip(samples, pads, strict=True)
    ]
    return Batch(ids=[s.id for s in samples], images=images, targets=Targets(semantic=semantic, instances=instances))


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8[b, 3, h, w] -> float32 of zero mean and unit deviation, on the images' device.

    Channels last in memory: convolutions are a fifth faster so on CPU, and tensor cores want it.
    """
    # A channel that is the same everywhere (two-channel microscopy stored as RGB) must not be divided by 0.
    std = [max(s, 1 / 255) for s in std]
    scale = images.new_tensor([255.0 * s for s in std], dtype=torch.float32).view(1, -1, 1, 1)
    shift = images.new_tensor([m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float32).view(1, -1, 1, 1)
    return (images / scale - shift).contiguous(memory_format=torch.channels_last)
