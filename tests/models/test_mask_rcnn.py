"""Mask R-CNN: its plumbing against torchvision's own with equal weights, its handling of pixels against geometry."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, paste_masks_in_image
from torchvision.ops import MultiScaleRoIAlign, box_area

from pipelines.errors import ConfigError
from pipelines.models.contract import Classes, InstanceTargets, Targets
from pipelines.models.encoders import Choice
from pipelines.models.instance import regions, two_stage
from pipelines.models.instance.mask_rcnn import MaskRCNN

SIZE = 128
CLASSES = Classes(things=(3, 7), stuff=(0, 1, 2))
STRIDES = (4, 8, 16, 32)
SIZES = (16, 32, 64, 128, 256)  # of the anchors
UNIT = 112  # pixels of a region that is pooled from stride 16


def unused(logits: Tensor, labels: Tensor) -> Tensor:
    raise AssertionError("an instance model has no pixel loss")


@pytest.fixture(scope="module")
def model() -> MaskRCNN:
    torch.manual_seed(0)
    return MaskRCNN(classes=CLASSES, encoder=Choice("test_resnet"), channels=16)


def truth(boxes: list[list[int]], labels: list[int], crowds: list[bool] | None = None) -> InstanceTargets:
    """Filled boxes."""
    masks = torch.zeros(len(boxes), SIZE, SIZE, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    return InstanceTargets(
        masks=masks,
        labels=torch.tensor(labels, dtype=torch.int64),
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        iscrowd=torch.tensor(crowds or [False] * len(boxes)).bool(),
    )


def batch(*instances: InstanceTargets) -> Targets:
    return Targets(semantic=torch.zeros(len(instances), SIZE, SIZE, dtype=torch.int64), instances=list(instances))


class Pool(nn.Module):
    """Our pooling where torchvision expects its own."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        return regions.pool([features[name] for name in two_stage.POOLED], STRIDES, boxes, self.size, UNIT)


@pytest.fixture
def theirs(model: MaskRCNN) -> RoIHeads:
    """torchvision's complete heads, over our weights."""
    ours = model.roi
    return RoIHeads(
        Pool(7), ours.box_head, ours.box_predictor, 0.5, 0.5, 128, 0.25, None, 0.05, 0.5, 100,
        Pool(14), ours.mask_head, ours.mask_predictor,
    )  # fmt: skip


class TestAgainstTorchvision:
    def test_losses_are_equal(self, model, theirs):
        model.train()
        images = torch.randn(2, 3, SIZE, SIZE)
        targets = batch(truth([[8, 8, 40, 48], [60, 70, 120, 100]], [3, 7]), truth([[30, 20, 70, 90]], [7]))
        outputs = model(images)
        torch.manual_seed(1)
        ours = model.losses(outputs, targets, unused)

        number = {3: 1, 7: 2}
        given = [
            {"boxes": t.boxes, "masks": t.masks, "labels": torch.tensor([number[i] for i in t.labels.tolist()])}
            for t in targets.instances
        ]
        pyramid = {name: outputs[name] for name in two_stage.STRIDES}
        sizes = [(SIZE, SIZE)] * 2
        torch.manual_seed(1)
        proposals, rpn = model.rpn(ImageList(images, sizes), pyramid, given)
        _, roi = theirs.train()(pyramid, proposals, sizes, given)
        torch.testing.assert_close(ours["rpn_objectness"], rpn["loss_objectness"])
        torch.testing.assert_close(ours["rpn_box"], rpn["loss_rpn_box_reg"])
        torch.testing.assert_close(ours["classifier"], roi["loss_classifier"])
        torch.testing.assert_close(ours["box"], roi["loss_box_reg"])
        # Theirs cuts the masks half a pixel off and leaves shares of pixels as they are: near, not equal.
        torch.testing.assert_close(ours["mask"], roi["loss_mask"], rtol=0.05, atol=0)

    def test_detections_are_equal(self, model, theirs):
        model.eval()
        images = torch.randn(2, 3, SIZE, SIZE)
        sizes = [(SIZE, SIZE), (100, 90)]
        with torch.no_grad():
            outputs = model(images)
            ours = [p.instances for p in model.predict(outputs, sizes)]
            pyramid = {name: outputs[name] for name in two_stage.STRIDES}
            proposals, _ = model.rpn(ImageList(images, sizes), pyramid)
            found, _ = theirs.eval()(pyramid, proposals, sizes)
        for mine, other, size in zip(ours, found, sizes, strict=True):
            pasted = paste_masks_in_image(other["masks"], other["boxes"], size)[:, 0] >= 0.5
            seen = [k for k, score in enumerate(other["scores"].tolist()) if score in mine.scores]
            assert len(seen) == len(mine) > 10
            torch.testing.assert_close(torch.from_numpy(mine.boxes), other["boxes"][seen])
            assert mine.labels.tolist() == [CLASSES.things[k - 1] for k in other["labels"][seen].tolist()]
            agreement = (torch.from_numpy(mine.masks) == pasted[seen]).float().mean()
            assert agreement > 0.97  # theirs truncates the boxes to whole pixels before it pastes

    def test_pooling_is_theirs_half_a_cell_on(self):
        torch.manual_seed(0)
        features = [torch.randn(2, 4, SIZE // s, SIZE // s) for s in STRIDES]
        corners = 20 + 40 * torch.rand(2, 30, 2)
        boxes = torch.cat([corners, corners + torch.rand(2, 30, 2).exp() ** 2 * 6 + torch.tensor([1.0, 2.0])], dim=2)
        boxes[:, 0] = torch.tensor([0.0, 0.0, SIZE, SIZE])
        side = box_area(boxes.flatten(0, 1)).sqrt().view(2, 30)
        level = (4 + (side / UNIT).log2()).floor().clamp(2, 5)  # equation 1 of arXiv 1612.03144
        shifted = boxes - 2 ** level[..., None] / 2
        theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, sampling_ratio=2, canonical_scale=UNIT, canonical_level=4)
        wanted = theirs({str(i): f for i, f in enumerate(features)}, list(shifted), [(SIZE, SIZE)] * 2)
        assert len(level.unique()) > 1
        torch.testing.assert_close(regions.pool(features, STRIDES, list(boxes), 7, UNIT), wanted)


class TestRegions:
    def test_pooling_finds_what_lies_in_the_box(self):
        """A feature map that holds each cell's own position gives the positions of the box's parts."""
        x = torch.arange(32.0).add(0.5).mul(4).expand(32, 32)
        pooled = regions.pool([x[None, None]], (4,), [torch.tensor([[16.0, 20.0, 44.0, 60.0]])], 7, UNIT)
        torch.testing.assert_close(pooled[0, 0, 3], torch.arange(18.0, 44.0, 4.0))

    def test_a_mask_that_is_cut_out_and_pasted_back_is_the_mask(self):
        y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
        disc = (x - 30) ** 2 + (y - 24) ** 2 < 14**2
        boxes = torch.tensor([[16.0, 10, 44, 38], [12.3, 7.9, 47.2, 44.6], [30, 10, 44, 38]])
        cells = regions.cut(disc[None], torch.zeros(3, dtype=torch.int64), boxes, 28)
        whole, loose, half = regions.paste(cells, boxes, 64, 64)
        assert torch.equal(whole, disc)
        assert (loose & disc).sum() / (loose | disc).sum() > 0.95
        assert torch.equal(half, disc & (x > 30))

    def test_a_full_mask_is_the_pixels_whose_middle_is_in_the_box(self):
        boxes = torch.tensor([[3.4, 5.6, 9.4, 8.6], [0, 0, 12, 10], [2, 3, 5, 7]])
        pasted = regions.paste(torch.ones(3, 28, 28), boxes, 10, 12)
        y, x = torch.meshgrid(torch.arange(10) + 0.5, torch.arange(12) + 0.5, indexing="ij")
        for mask, (x1, y1, x2, y2) in zip(pasted, boxes, strict=True):
            assert torch.equal(mask, (x > x1) & (x < x2) & (y > y1) & (y < y2))

    def test_masks_are_pasted_together_as_one_by_one(self):
        """Against interpolation written out for each pixel: boxes of many sizes, at the edges and beyond them."""
        random = np.random.default_rng(0)
        corner = random.uniform(-8, 36, (40, 2))
        boxes = np.concatenate([corner, corner + np.exp(random.uniform(-1, 4, (40, 2)))], axis=1).astype(np.float32)
        boxes[:2] = [[0, 0, 50, 40], [0, 0, 0, 0]]
        cells = random.random((40, 7, 7)).astype(np.float32)
        pasted = regions.paste(torch.from_numpy(cells), torch.from_numpy(boxes), 40, 50).numpy()
        assert pasted.any(axis=(1, 2)).sum() > 20
        around = np.pad(cells.astype(float), ((0, 0), (1, 1), (1, 1)))
        for mask, square, (x1, y1, x2, y2) in zip(pasted, around, boxes.astype(float), strict=True):
            for y, x in np.ndindex(40, 50):
                if not (x1 < x + 0.5 < x2 and y1 < y + 0.5 < y2):
                    assert not mask[y, x]
                    continue
                v, u = (y + 0.5 - y1) / (y2 - y1) * 7 + 0.5, (x + 0.5 - x1) / (x2 - x1) * 7 + 0.5
                row, column = int(v), int(u)
                near = square[row : row + 2, column : column + 2]
                value = np.array([row + 1 - v, v - row]) @ near @ np.array([column + 1 - u, u - column])
                assert abs(value - 0.5) < 1e-4 or mask[y, x] == (value >= 0.5)

    def test_a_filled_box_is_the_pixels_whose_middle_it_holds(self):
        boxes = torch.tensor([[3.4, 5.6, 9.4, 8.6], [-2, -3, 100, 100]])
        one, every = regions.filled(boxes, 10, 12)
        assert one.nonzero().tolist() == [[y, x] for y in (6, 7, 8) if y + 0.5 < 8.6 for x in range(3, 9)]
        assert every.all()

    def test_the_share_that_is_covered_is_the_box_s_own(self):
        boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]])
        assert regions.covered(boxes, torch.tensor([[0.0, 0, 100, 8]]), 0.7).tolist() == [True, True, False]
        assert regions.covered(boxes, torch.tensor([[0.0, 0, 11, 10]]), 0.7).tolist() == [True, False, False]
        assert not regions.covered(boxes, torch.zeros(0, 4), 0.7).any()


class TestAnchors:
    def test_every_level_has_its_stride(self, model):
        """96 pixels are 3 cells of stride 32 and 2 of stride 64, which do not tell the stride."""
        anchors = model._anchors(model(torch.zeros(2, 3, 96, 96)))
        for level, stride, size in zip(anchors, two_stage.STRIDES.values(), SIZES, strict=True):
            middle = (level[:, :2] + level[:, 2:]) / 2
            assert middle.unique().tolist() == list(range(0, 96, stride))
            torch.testing.assert_close(box_area(level).mean().item(), float(size**2), rtol=0.05, atol=0)

    def test_right_deltas_propose_the_truth(self, model):
        wanted = torch.tensor([[30.0, 20.0, 75.0, 90.0]])
        outputs = {name: v.detach() for name, v in model(torch.zeros(2, 3, SIZE, SIZE)).items()}
        anchors = model._anchors(outputs)
        every = torch.cat(anchors)
        (deltas,) = model.rpn.box_coder.encode([wanted.expand(len(every), 4)], [every])
        outputs["deltas"] = deltas.expand(2, -1, -1)
        first, cut = model.rpn.propose(outputs, anchors, [(SIZE, SIZE), (64, 60)])
        torch.testing.assert_close(first, wanted.expand(len(first), 4), atol=1e-3, rtol=0)
        torch.testing.assert_close(cut, torch.tensor([[30.0, 20, 60, 64]]).expand(len(cut), 4), atol=1e-3, rtol=0)


class TestCrowds:
    def test_all_crowd_teaches_nothing(self, model):
        model.train().zero_grad()
        crowd = truth([[0, 0, SIZE, SIZE]], [3], [True])
        losses = model.losses(model(torch.randn(1, 3, SIZE, SIZE)), batch(crowd), unused)
        # Anchors that reach beyond the image by more than a third remain as background.
        assert {name for name, loss in losses.items() if loss != 0} <= {"rpn_objectness"}
        sum(losses.values()).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())

    def test_a_crowd_is_no_truth(self, model):
        model.train()
        outputs = model(torch.randn(1, 3, SIZE, SIZE))
        losses = model.losses(outputs, batch(truth([[20, 20, 60, 60]], [3], [True])), unused)
        assert losses["rpn_box"] == losses["box"] == losses["mask"] == 0
        assert losses["classifier"] > 0


def test_labels_are_the_classes_ids(model):
    model.eval()
    bias = model.roi.box_predictor.cls_score.bias
    with torch.no_grad():
        before = bias.clone()
        bias.copy_(torch.tensor([0.0, 0.0, 20.0]))
        (prediction,) = model.predict(model(torch.randn(1, 3, SIZE, SIZE)), [(SIZE, SIZE)])
        bias.copy_(before)
    assert set(prediction.instances.labels.tolist()) == {7}


def test_a_dataset_without_things_is_refused():
    with pytest.raises(ConfigError, match="stuff classes only"):
        MaskRCNN(classes=Classes(things=(), stuff=(0, 1)), encoder=Choice("test_resnet"), channels=16)
