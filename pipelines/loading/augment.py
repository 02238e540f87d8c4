"""Joint augmentation of image, semantic map and instance masks.

The randomness of a sample is a function of (seed, epoch, index) and of nothing else: not of the number of workers,
not of what was drawn before.
"""

from collections.abc import Sequence

import albumentations as A
import cv2
import numpy as np
import torch

from pipelines.data import rle
from pipelines.data.schema import IGNORE, Record
from pipelines.loading.batch import Sample
from pipelines.targets import InstanceTargets

# An instance of which a crop leaves fewer pixels than this teaches nothing but noise.
MIN_PIXELS = 4


class Augment:
    """Random scale, pad, crop, flip and colour; called as augment(record, image, key)."""

    def __init__(self, *, crop: Sequence[int], scale: Sequence[float], flip: float, color: float):
        height, width = crop
        self.compose = A.Compose(
            [
                # OpenCV's other nearest neighbour shifts masks by half a pixel against their image.
                A.RandomScale((scale[0] - 1.0, scale[1] - 1.0), mask_interpolation=cv2.INTER_NEAREST_EXACT, p=1.0),
                A.PadIfNeeded(
                    height, width, border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=IGNORE, position="random"
                ),
                A.RandomCrop(height, width),
                A.HorizontalFlip(p=flip),
                A.ColorJitter(color, color, color, color / 4, p=0.8 if color else 0.0),
            ],
            seed=0,
        )

    def __call__(self, record: Record, image: np.ndarray, key: tuple[int, int, int]) -> Sample:
        """`key` is (seed, epoch, index)."""
        self.compose.set_random_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        inputs = {"image": image, "mask": record.semantic}
        if record.segments:  # an empty stack of masks crashes Albumentations
            inputs["masks"] = np.stack(
                [rle.decode(s.counts, record.height, record.width).view(np.uint8) for s in record.segments]
            )
        out = self.compose(**inputs)
        # Padding fills masks with IGNORE too: an instance is where its mask is 1.
        masks = out["masks"] == 1 if record.segments else np.zeros((0, *out["mask"].shape), bool)
        return to_sample(record, out["image"], out["mask"], masks)


def to_sample(record: Record, image: np.ndarray, semantic: np.ndarray, masks: np.ndarray) -> Sample:
    """Arrays -> tensors; the boxes are those of what is left of each mask."""
    keep = masks.sum(axis=(1, 2)) >= MIN_PIXELS
    masks = masks[keep]
    boxes = np.array([rle.bbox(m) for m in masks], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    segments = [s for s, k in zip(record.segments, keep, strict=True) if k]
    return Sample(
        id=record.id,
        image=torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).contiguous(),
        semantic=torch.from_numpy(np.ascontiguousarray(semantic)),
        instances=InstanceTargets(
            masks=torch.from_numpy(np.ascontiguousarray(masks)),
            labels=torch.tensor([s.category for s in segments], dtype=torch.int64),
            boxes=torch.from_numpy(boxes),
            iscrowd=torch.tensor([s.iscrowd for s in segments], dtype=torch.bool),
        ),
    )
