"""FCOS's head, assignment, losses and detections against torchvision's, and its assignment against loops."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOS, FCOSHead

from pipelines.models.instance import fcos
from pipelines.models.instance.fcos import STRIDES, Matches
from pipelines.models.instance.truths import Truth
from tests.models.parity import assert_equal, pour

SIZE = 128
CELLS = (16, 8, 4, 2, 1)  # of each level's side
COUNTS = [n * n for n in CELLS]
CLASSES = 3


def pyramid(channels: int, batch: int = 1) -> list[Tensor]:
    return [torch.randn(batch, channels, n, n) for n in CELLS]


def boxes_like(count: int, seed: int = 0) -> Tensor:
    """Of all sizes, some within others."""
    generator = torch.Generator().manual_seed(seed)
    middle = SIZE * torch.rand(count, 2, generator=generator)
    half = 2 + 60 * torch.rand(count, 2, generator=generator) ** 2
    return torch.cat([middle - half, middle + half], dim=1).clamp(0, SIZE)


def outputs_like(batch: int, seed: int = 0, spread: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    points = fcos.points_of(pyramid(1))
    n = len(points)
    return {
        "points": points.expand(batch, -1, -1),
        "logits": spread * torch.randn(batch, n, CLASSES, generator=generator) - 1,
        "distances": torch.randn(batch, n, 4, generator=generator).exp() * points[:, 2:],
        "centerness": torch.randn(batch, n, generator=generator),
    }


class Matched(nn.Module):
    """A head that only says which boxes it is to learn."""

    def compute_loss(self, targets, head_outputs, anchors, matched_idxs):
        return matched_idxs


@pytest.fixture(scope="module")
def theirs() -> FCOS:
    backbone = nn.Identity()
    backbone.out_channels = 256
    return FCOS(
        backbone,
        CLASSES,
        score_thresh=fcos.MIN_SCORE,
        nms_thresh=fcos.NMS,
        detections_per_img=10 * fcos.MAX_DETECTIONS,  # cut in the test
        topk_candidates=fcos.MAX_CANDIDATES,
    )


def anchors_of(points: Tensor) -> Tensor:
    """Squares around the points, as wide as their strides: torchvision's form of a point."""
    return torch.cat([points[:, :2] - points[:, 2:] / 2, points[:, :2] + points[:, 2:] / 2], dim=1)


def in_their_form(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "cls_logits": outputs["logits"],
        "bbox_regression": outputs["distances"] / outputs["points"][..., 2:],
        "bbox_ctrness": outputs["centerness"][..., None],
    }


class TestAgainstTorchvision:
    def test_the_head_is_theirs(self):
        torch.manual_seed(0)
        ours, head = fcos.Head(256, CLASSES).eval(), FCOSHead(256, 1, CLASSES).eval()
        with torch.no_grad():
            for p in ours.parameters():
                p.copy_(torch.randn_like(p) * (0.05 if p.ndim == 4 else 0.3))
            ours.scales.copy_(torch.tensor([0.5, 0.8, 1.0, 1.2, 1.5]))
            for a, b in [
                (ours.class_tower, head.classification_head.conv),
                (ours.logits, head.classification_head.cls_logits),
                (ours.distance_tower, head.regression_head.conv),
                (ours.distances, head.regression_head.bbox_reg),
                (ours.centerness, head.regression_head.bbox_ctrness),
            ]:
                pour(a, b)
            given = pyramid(256, batch=2)
            (found, _), wanted = ours(given), head(given)
        assert_equal(found["logits"], wanted["cls_logits"])
        assert_equal(found["centerness"], wanted["bbox_ctrness"][..., 0])
        scale = ours.scales.detach().repeat_interleave(torch.tensor(COUNTS))[:, None]
        # Theirs cuts off what is negative, where the paper takes the exponential.
        assert_equal((found["distances"] / found["points"][..., 2:]).log().relu(), wanted["bbox_regression"] * scale)

    @pytest.mark.parametrize("seed", range(5))
    def test_points_learn_the_same_boxes(self, theirs, seed):
        points, boxes = fcos.points_of(pyramid(1)), boxes_like(40, seed)
        theirs.head, head = Matched(), theirs.head
        given = [{"boxes": boxes, "labels": torch.zeros(40, dtype=torch.int64)}]
        (wanted,) = theirs.compute_loss(given, {}, [anchors_of(points)], COUNTS)
        theirs.head = head
        found = fcos.assign(points, boxes, fcos.middles_of(boxes), reach=8)  # the paper's
        assert len(found.unique()) > 10
        assert torch.equal(found, wanted)

    def test_losses_are_equal(self, theirs):
        outputs, boxes = outputs_like(3), [boxes_like(12, 1), boxes_like(0), boxes_like(5, 2)]
        labels = [torch.arange(len(b)) % CLASSES for b in boxes]
        given = [{"boxes": b, "labels": k} for b, k in zip(boxes, labels, strict=True)]
        points = outputs["points"][0]
        wanted = theirs.compute_loss(given, in_their_form(outputs), [anchors_of(points)] * 3, COUNTS)

        owner = torch.stack([fcos.assign(points, b, fcos.middles_of(b), reach=8) for b in boxes])
        matches = Matches(owner=owner, known=torch.ones_like(owner, dtype=torch.bool))
        own = matches.of(boxes)
        centerness = fcos.box_centerness(outputs["points"][matches.positive], own)
        torch.testing.assert_close(fcos.classifier_loss(outputs, matches, labels), wanted["classification"])
        torch.testing.assert_close(fcos.box_loss(outputs, matches, own), wanted["bbox_regression"])
        torch.testing.assert_close(fcos.centerness_loss(outputs, matches, centerness), wanted["bbox_ctrness"])

    @pytest.mark.parametrize("size", [(SIZE, SIZE), (100, 83)])
    def test_detections_are_equal(self, theirs, size):
        outputs = outputs_like(1, seed=3, spread=0.6)
        points = outputs["points"][0]
        split = {name: list(v.split(COUNTS, dim=1)) for name, v in in_their_form(outputs).items()}
        (wanted,) = theirs.postprocess_detections(split, [list(anchors_of(points).split(COUNTS))], [size])
        image = {name: v[0] for name, v in outputs.items()}
        found = fcos.detect(image, fcos.boxes_at(points, image["distances"]), size)
        # Theirs keeps what lies beyond the image as boxes without an area.
        seen = (wanted["boxes"][:, 2:] > wanted["boxes"][:, :2]).all(dim=1)
        assert seen.all() == (size == (SIZE, SIZE))
        assert len(found.boxes) == fcos.MAX_DETECTIONS
        torch.testing.assert_close(found.boxes, wanted["boxes"][seen][: fcos.MAX_DETECTIONS])
        torch.testing.assert_close(found.scores, wanted["scores"][seen][: fcos.MAX_DETECTIONS])
        assert torch.equal(found.labels, wanted["labels"][seen][: fcos.MAX_DETECTIONS])
        torch.testing.assert_close(
            found.scores,
            (
                image["logits"].sigmoid()[found.points, found.labels] * image["centerness"].sigmoid()[found.points]
            ).sqrt(),
        )


def assigned(point: np.ndarray, boxes: np.ndarray, middles: np.ndarray) -> int:
    """The paper's rules, one box after the other, at half of its sizes."""
    ranges = {8: (0, 32), 16: (32, 64), 32: (64, 128), 64: (128, 256), 128: (256, np.inf)}
    x, y, stride = point
    best, smallest = -1, np.inf
    for k, ((x1, y1, x2, y2), (cx, cy)) in enumerate(zip(boxes, middles, strict=True)):
        sides = (x - x1, y - y1, x2 - x, y2 - y)
        least, most = ranges[int(stride)]
        if min(sides) <= 0 or not least < max(sides) <= most:
            continue
        if max(abs(x - cx), abs(y - cy)) < 1.5 * stride and (x2 - x1) * (y2 - y1) < smallest:
            best, smallest = k, (x2 - x1) * (y2 - y1)
    return best


class TestAssignment:
    @pytest.mark.parametrize("seed", range(3))
    def test_it_is_the_paper_s_at_half_of_the_sizes(self, seed):
        """On whole pixels, where sides lie exactly on the limits; around middles that are not the boxes'."""
        points = fcos.points_of([torch.zeros(1, 1, n, n) for n in (64, 32, 16, 8, 4)])  # 512 pixels
        boxes = (4 * boxes_like(30, seed)).round()
        middles = fcos.middles_of(boxes) + torch.randn(30, 2, generator=torch.Generator().manual_seed(seed)).round()
        found = fcos.assign(points, boxes, middles)
        wanted = [assigned(p, boxes.numpy(), middles.numpy()) for p in points.numpy()]
        assert found.tolist() == wanted
        assert len({int(s) for s in points[found >= 0, 2]}) >= 4

    def test_points_are_the_middles_of_cells(self):
        points = fcos.points_of([torch.zeros(1, 1, -(-96 // s), -(-64 // s)) for s in STRIDES])
        assert len(points) == 12 * 8 + 6 * 4 + 3 * 2 + 2 * 1 + 1
        assert points[:2].tolist() == [[4, 4, 8], [12, 4, 8]]
        assert points[96 + 4].tolist() == [8, 24, 16]
        assert points[-1].tolist() == [64, 64, 128]

    def test_a_crowd_is_neither_object_nor_background(self):
        outputs = outputs_like(1)
        crowd = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        crowd[:, 64:] = True
        boxes = torch.tensor([[40.0, 40, 90, 80]])
        truth = Truth(boxes=boxes, labels=torch.zeros(1, dtype=torch.int64), masks=crowd[None], crowd=crowd)
        matches = fcos.match(outputs, [truth], [fcos.middles_of(boxes)])
        on_crowd = outputs["points"][0, :, 0] >= 64
        assert matches.positive[0, on_crowd].any()
        assert torch.equal(matches.known[0], ~on_crowd | matches.positive[0])
        other = {**outputs, "logits": outputs["logits"] + 5 * (~matches.known)[..., None]}
        before, after = (fcos.classifier_loss(o, matches, [truth.labels]) for o in (outputs, other))
        assert before == after


def test_training_begins_where_nothing_is_likely_and_distances_are_strides():
    torch.manual_seed(0)
    outputs, _ = fcos.Head(32, CLASSES)(pyramid(32))
    torch.testing.assert_close(outputs["logits"].sigmoid().mean().item(), 0.01, rtol=0.05, atol=0)
    assert (outputs["distances"] / outputs["points"][..., 2:] - 1).abs().mean() < 0.2


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (64, 8), (16, 2), (8, 1), (100, 10)])
def test_groups_are_the_paper_s_in_width(channels, groups):
    (norm, *_) = (m for m in fcos.tower(channels).modules() if isinstance(m, nn.GroupNorm))
    assert norm.num_groups == groups
