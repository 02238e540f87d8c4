"""PolarMask: rays against walks along them, outlines against counted crossings, losses against loops."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torchvision.models.detection import fcos_resnet50_fpn

from pipelines.errors import ConfigError
from pipelines.models import results
from pipelines.models.contract import Classes, InstanceTargets, Targets
from pipelines.models.encoders import Choice
from pipelines.models.instance import fcos, polarmask
from pipelines.models.instance.polarmask import RAYS, SHORTEST, PolarMask
from tests.models.parity import classes_of, count, on_meta

SIZE = 128
CLASSES = Classes(things=(3, 7), stuff=(0, 1, 2))


def unused(logits: Tensor, targets: Targets) -> Tensor:
    raise AssertionError("an instance model has no pixel loss")


@pytest.fixture(scope="module")
def model() -> PolarMask:
    torch.manual_seed(0)
    return PolarMask(classes=CLASSES, encoder=Choice("test_resnet"), channels=16)


def blobs(count: int, seed: int, size: int = 48) -> Tensor:
    """Ragged shapes with bays, holes and pieces apart."""
    noise = np.random.default_rng(seed).normal(size=(count, size, size))
    smooth = np.stack([ndimage.gaussian_filter(n, 3) for n in noise])
    return torch.from_numpy(smooth > np.quantile(smooth, 0.7, axis=(1, 2), keepdims=True))


def ellipses(size: int = SIZE) -> Tensor:
    """Four of them, apart, of other sizes and slants."""
    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    masks = []
    for cx, cy, a, b, slant in [(30, 30, 16, 12, 0.3), (90, 32, 26, 18, 1.2), (34, 92, 9, 7, 2.0), (92, 92, 28, 22, 0)]:
        u = (x - cx) * math.cos(slant) + (y - cy) * math.sin(slant)
        v = (y - cy) * math.cos(slant) - (x - cx) * math.sin(slant)
        masks.append((u / a) ** 2 + (v / b) ** 2 <= 1)
    return torch.stack(masks)


def truth(masks: Tensor, labels: list[int]) -> InstanceTargets:
    return InstanceTargets(
        masks=masks,
        labels=torch.tensor(labels, dtype=torch.int64),
        boxes=results.boxes_of(masks),
        iscrowd=torch.zeros(len(masks), dtype=torch.bool),
    )


def batch(*instances: InstanceTargets) -> Targets:
    return Targets(semantic=torch.zeros(len(instances), SIZE, SIZE, dtype=torch.int64), instances=list(instances))


def walk(mask: np.ndarray, x: float, y: float, angle: float) -> float:
    """From one crossing of the pixel grid to the next: where the last step ended that lay on the mask."""
    height, width = mask.shape
    # A ray along the grid is its right-hand neighbour, as in the model.
    dx, dy = (d if abs(d) > 1e-6 else 1e-6 for d in (math.cos(angle), math.sin(angle)))
    steps = [0.0, *((np.arange(width + 1) - x) / dx), *((np.arange(height + 1) - y) / dy)]
    steps = sorted(t for t in steps if 0 <= t < 2 * (height + width))
    farthest = SHORTEST
    for begin, end in pairwise(steps):
        column, row = (math.floor(p + d * (begin + end) / 2) for p, d in ((x, dx), (y, dy)))
        if 0 <= row < height and 0 <= column < width and mask[row, column]:
            farthest = end
    return farthest


class TestRays:
    @pytest.mark.parametrize("on_grid", [False, True])
    def test_they_end_at_the_farthest_pixel_of_the_object(self, on_grid):
        masks = blobs(4, seed=1)
        which = torch.arange(20) % 4
        points = 48 * torch.rand(20, 2, generator=torch.Generator().manual_seed(0))
        points = (points / 4).round() * 4 if on_grid else points
        found = polarmask.rays_of(masks, which, points)
        wanted = [
            [walk(masks[k].numpy(), x, y, 2 * math.pi * r / RAYS) for r in range(RAYS)]
            for k, (x, y) in zip(which.tolist(), points.double().tolist(), strict=True)
        ]
        np.testing.assert_allclose(found.numpy(), np.array(wanted), atol=1e-3)
        assert 0.05 < (found == SHORTEST).float().mean() < 0.5

    def test_an_object_beside_the_point_is_met_on_one_side(self):
        mask = torch.zeros(1, 32, 32, dtype=torch.bool)
        mask[0, 10:14, 20:26] = True
        rays = polarmask.rays_of(mask, torch.tensor([0]), torch.tensor([[8.0, 12.0]]))[0]
        assert rays[0] == 26 - 8
        assert (rays[2:-1] == SHORTEST).all()
        assert polarmask.polar_centerness(rays[None]) < 1e-3

    def test_without_points_there_are_none(self):
        masks, nobody = torch.zeros(0, 32, 32, dtype=torch.bool), torch.zeros(0, dtype=torch.int64)
        assert polarmask.rays_of(masks, nobody, torch.zeros(0, 2)).shape == (0, RAYS)
        assert polarmask.centers_of_mass(masks).shape == (0, 2)

    def test_centres_are_scipy_s(self):
        masks = blobs(5, seed=2)
        wanted = [ndimage.center_of_mass(m) for m in masks.numpy()]
        np.testing.assert_allclose(polarmask.centers_of_mass(masks).numpy() - 0.5, np.array(wanted)[:, ::-1], rtol=1e-5)


def crossings(vertices: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Points from which a line to the right meets a polygon's sides an odd number of times."""
    odd = np.zeros(x.shape, dtype=bool)
    for (x1, y1), (x2, y2) in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
        spans = (y1 > y) != (y2 > y)
        odd ^= spans & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1 if y1 != y2 else 1))
    return odd


def ends(points: Tensor, rays: Tensor) -> Tensor:
    angles = torch.arange(RAYS) * 2 * math.pi / RAYS
    return points[:, None] + rays[..., None] * torch.stack([angles.cos(), angles.sin()], dim=1)


def box_around(outlines: Tensor, height: int, width: int) -> Tensor:
    corners = torch.cat([outlines.amin(dim=1), outlines.amax(dim=1)], dim=1)
    return torch.minimum(corners.clamp(min=0), torch.tensor([width, height, width, height]))


class TestOutlines:
    @pytest.mark.parametrize("block", [2**21, 1000])
    def test_they_hold_the_pixels_that_crossings_tell(self, block, monkeypatch):
        monkeypatch.setattr(polarmask, "BLOCK", block)
        generator = torch.Generator().manual_seed(0)
        points = 10 + 40 * torch.rand(12, 2, generator=generator)
        rays = 3 + 20 * torch.rand(12, RAYS, generator=generator)  # stars, some beyond the image
        outlines = ends(points, rays)
        found = polarmask.fill(points, rays, box_around(outlines, 50, 60), 50, 60)
        x, y = np.meshgrid(np.arange(60) + 0.5, np.arange(50) + 0.5)
        for mask, vertices in zip(found, outlines.double(), strict=True):
            assert np.array_equal(mask.numpy(), crossings(vertices.numpy(), x, y))

    def test_rays_of_a_round_object_draw_it(self):
        """36 chords in place of a circle lose 0.5 % of its area; what else is lost are corners of pixels."""
        masks = ellipses()
        points, everyone = polarmask.centers_of_mass(masks), torch.arange(4)
        rays = polarmask.rays_of(masks, everyone, points)
        drawn = polarmask.fill(points, rays, box_around(ends(points, rays), SIZE, SIZE), SIZE, SIZE)
        overlap = (drawn & masks).flatten(1).sum(1) / (drawn | masks).flatten(1).sum(1)
        assert overlap.min() > 0.95

    def test_nothing_found_draws_nothing(self):
        assert polarmask.fill(torch.zeros(0, 2), torch.zeros(0, RAYS), torch.zeros(0, 4), 9, 8).shape == (0, 9, 8)


class TestLosses:
    def test_polar_iou_of_circles(self):
        one, half = torch.full((1, RAYS), 8.0), torch.full((1, RAYS), 4.0)
        mixed = torch.cat([one[:, :18], half[:, 18:]], dim=1)
        found = polarmask.polar_iou_loss(torch.cat([one, one, mixed]), torch.cat([one, half, one]))
        torch.testing.assert_close(found, torch.tensor([0.0, math.log(2), math.log(4 / 3)]))
        torch.testing.assert_close(polarmask.polar_centerness(mixed), torch.tensor([math.sqrt(0.5)]))

    def test_each_point_near_a_centre_of_mass_learns_its_rays(self, model):
        targets = batch(truth(ellipses(), [3, 7, 7, 3]), truth(blobs(1, 3, SIZE), [7]))
        with torch.no_grad():
            outputs = model(torch.randn(2, 3, SIZE, SIZE))
            losses = model.losses(outputs, targets, unused)
        total, weights, entropy, n = 0.0, 0.0, 0.0, 0
        for i, instances in enumerate(targets.instances):
            middles = np.array([ndimage.center_of_mass(m.numpy()) for m in instances.masks])[:, ::-1] + 0.5
            owner = fcos.assign(outputs["points"][i], instances.boxes, torch.from_numpy(middles.copy()).float())
            for point in (owner >= 0).nonzero()[:, 0].tolist():
                x, y, _ = outputs["points"][i, point].tolist()
                mask = instances.masks[owner[point]].numpy()
                wanted = np.array([walk(mask, x, y, 2 * math.pi * r / RAYS) for r in range(RAYS)])
                found = outputs["distances"][i, point].double().numpy()
                weight = math.sqrt(wanted.min() / wanted.max())
                total += weight * math.log(np.maximum(found, wanted).sum() / np.minimum(found, wanted).sum())
                said = 1 / (1 + math.exp(-outputs["centerness"][i, point]))
                entropy -= weight * math.log(said) + (1 - weight) * math.log(1 - said)
                weights, n = weights + weight, n + 1
        assert n > 20
        assert losses["mask"].item() == pytest.approx(total / weights, rel=1e-3)
        assert losses["centerness"].item() == pytest.approx(entropy / n, rel=1e-3)


def perfect(masks: Tensor, labels: list[int], model: PolarMask) -> dict[str, Tensor]:
    """What a model without fault puts out: every point that learns an object says so, and no other says anything."""
    outputs = {name: v.detach().clone() for name, v in model(torch.zeros(1, 3, SIZE, SIZE)).items()}
    points, middles = outputs["points"][0], polarmask.centers_of_mass(masks)
    owner = fcos.assign(points, results.boxes_of(masks), middles)
    here = (owner >= 0).nonzero()[:, 0]
    rays = polarmask.rays_of(masks, owner[here], points[here, :2])
    outputs["logits"].fill_(-20)
    outputs["logits"][0, here, torch.tensor(labels)[owner[here]]] = 5.0
    outputs["distances"][0, here] = rays
    outputs["centerness"][0, here] = polarmask.polar_centerness(rays).logit(1e-3)
    return outputs


@pytest.mark.parametrize("size", [(SIZE, SIZE), (110, 101)])
def test_right_outputs_are_the_truth(model, size):
    masks, labels = ellipses(), [0, 1, 1, 0]
    (prediction,) = model.predict(perfect(masks, labels, model), [size])
    found = prediction.instances
    assert len(found) == 4
    for mask, label in zip(masks[:, : size[0], : size[1]].numpy(), labels, strict=True):
        overlaps = (found.masks & mask).sum(axis=(1, 2)) / (found.masks | mask).sum(axis=(1, 2))
        assert overlaps.max() > 0.93
        assert found.labels[overlaps.argmax()] == CLASSES.things[label]


def test_what_it_weighs():
    """torchvision's FCOS, 36 distances for 4, and a scale for each of the 5 levels."""
    ours = count(on_meta(PolarMask, classes=classes_of(92)))
    theirs = count(on_meta(fcos_resnet50_fpn, weights=None, weights_backbone=None, num_classes=91))
    assert ours - theirs == (36 - 4) * (256 * 9 + 1) + 5


def test_a_dataset_without_things_is_refused():
    with pytest.raises(ConfigError, match="stuff classes only"):
        PolarMask(classes=Classes(things=(), stuff=(0, 1)), encoder=Choice("test_resnet"), channels=16)
