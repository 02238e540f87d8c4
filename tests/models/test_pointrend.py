"""PointRend: layers against the paper's and detectron2's figures, rendering and sampling against brute force."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipelines.models.contract import InstanceTargets, Targets
from pipelines.models.encoders import Choice
from pipelines.models.instance import pointrend
from pipelines.models.instance.mask_rcnn import MaskRCNN
from pipelines.models.instance.pointrend import PointRend
from tests.models.parity import classes_of, count, on_meta

SIZE = 64
BOXES = torch.tensor([[3.0, 5, 40, 50], [10.5, 8.2, 62, 63.5], [20, 20, 27, 30]])
LABELS = torch.tensor([1, 3, 2])


@pytest.fixture(scope="module")
def model() -> PointRend:
    torch.manual_seed(0)
    model = PointRend(classes=classes_of(4), encoder=Choice("test_resnet"), channels=16).eval()
    for head in (model.coarse, model.point):  # heads as after some training: they begin without an opinion
        for layer in head.modules():
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.normal_(layer.weight, std=1.5 / layer.in_features**0.5)
                torch.nn.init.normal_(layer.bias, std=0.3)
    return model


@pytest.fixture(scope="module")
def outputs(model) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    with torch.no_grad():
        return {**model(torch.randn(1, 3, SIZE, SIZE)), "p2": torch.randn(1, 16, SIZE // 4, SIZE // 4)}


def at(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """[c, h, w], interpolated at a place where (0.5, 0.5) is the middle of the first cell."""
    _, height, width = image.shape
    x, y = np.clip(x - 0.5, 0, width - 1), np.clip(y - 0.5, 0, height - 1)
    left, top = int(x), int(y)
    right, below = min(left + 1, width - 1), min(top + 1, height - 1)
    upper = image[:, top, left] * (left + 1 - x) + image[:, top, right] * (x - left)
    lower = image[:, below, left] * (left + 1 - x) + image[:, below, right] * (x - left)
    return upper * (top + 1 - y) + lower * (y - top)


def test_the_heads_are_the_paper_s():
    """With 80 classes: detectron2's `CoarseMaskHead` and `StandardPointHead` of its COCO configuration."""
    model = on_meta(PointRend, classes=classes_of(81))
    coarse = 256 * 256 * 2 * 2 + 256 + (256 * 49 * 1024 + 1024) + (1024 * 1024 + 1024) + (1024 * 80 * 49 + 80 * 49)
    point = 3 * ((256 + 80) * 256 + 256) + (256 + 80) * 80 + 80
    assert (count(model.coarse), count(model.point)) == (coarse, point)
    other = on_meta(MaskRCNN, classes=classes_of(81))
    masks = count(other.roi.mask_head) + count(other.roi.mask_predictor)
    assert count(model) == count(other) - masks + coarse + point


def test_a_point_is_decided_from_its_features_and_the_coarse_mask(model, outputs):
    points = torch.rand(3, 11, 2, generator=torch.Generator().manual_seed(0))
    points[0, 0], points[0, 1] = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0])
    with torch.no_grad():
        coarse = model._coarse(outputs, [BOXES])
        found = model._decide(outputs, [BOXES], coarse, points)
    weights = [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in model.point.layers]
    p2 = outputs["p2"][0].numpy()
    for k, (x1, y1, x2, y2) in enumerate(BOXES.numpy()):
        for j, (x, y) in enumerate(points[k].numpy()):
            rough = at(coarse[k].numpy(), 7 * x, 7 * y)
            value = at(p2, (x1 + x * (x2 - x1)) / 4, (y1 + y * (y2 - y1)) / 4)
            for weight, bias in weights:
                value = np.maximum(weight @ np.concatenate([value, rough]) + bias, 0)
            last = model.point.classify
            wanted = last.weight.detach().numpy() @ np.concatenate([value, rough]) + last.bias.detach().numpy()
            np.testing.assert_allclose(found[k, j], wanted, atol=2e-4, rtol=1e-3)


def test_regions_of_several_images_see_their_own(model):
    p2 = torch.randn(2, 16, 16, 16)
    boxes = [BOXES[:0], BOXES[:2]]
    points = torch.rand(2, 5, 2)
    with torch.no_grad():
        coarse = model._coarse({"p2": p2}, boxes)
        alone = model._coarse({"p2": p2[1:]}, boxes[1:])
        assert torch.equal(coarse, alone)
        both = model._decide({"p2": p2}, boxes, coarse, points)
        assert torch.equal(both, model._decide({"p2": p2[1:]}, boxes[1:], coarse, points))


def test_rendering_is_adaptive_subdivision(model, outputs):
    """Step by step for one region at a time: scale up by two, decide the 28 x 28 least sure cells anew."""
    with torch.no_grad():
        rendered = model._render(outputs, BOXES, LABELS)
        assert rendered.shape == (3, 224, 224)
        for box, label, found in zip(BOXES, LABELS.tolist(), rendered, strict=True):
            coarse = model._coarse(outputs, [box[None]])
            logits = coarse[0, label - 1]
            for side in (14, 28, 56, 112, 224):
                logits = F.interpolate(logits[None, None], scale_factor=2, mode="bilinear")[0, 0]
                order = logits.abs().flatten().argsort(stable=True)[: 28 * 28].tolist()
                cells = [divmod(cell, side) for cell in order]
                points = torch.tensor([[[(column + 0.5) / side, (row + 0.5) / side] for row, column in cells]])
                decided = model._decide(outputs, [box[None]], coarse, points)[0, :, label - 1]
                for (row, column), value in zip(cells, decided, strict=True):
                    logits[row, column] = value
            # Cells as unsure as the last one that is decided may be another's.
            assert (~torch.isclose(found, logits, atol=1e-3, rtol=1e-3)).float().mean() < 1e-3


def test_points_to_learn_are_mostly_near_the_border():
    torch.manual_seed(0)
    logits = torch.linspace(-6, 6, 7).expand(4, 7, 7)  # the border runs down the middle
    points = pointrend.points_to_learn(logits)
    assert points.shape == (4, 196, 2)
    assert ((points >= 0) & (points <= 1)).all()
    away = (points[..., 0] - 0.5).abs()
    # A third of all candidates makes three quarters of the points: the nearest quarter of the square, that is.
    assert (away[:, :147] < 0.16).all()
    assert (away[:, 147:] > 0.3).float().mean() > 0.25


def test_losses_are_the_formulas(model, outputs):
    """Four of seven columns are the object; every cell and point of its own box is known."""
    masks = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    masks[0, 8:50, 8:32] = True
    objects = pointrend.Objects(
        boxes=[torch.tensor([[8.0, 8, 50, 50]])],
        labels=torch.tensor([2]),
        masks=[masks],
        which=[torch.tensor([0])],
    )
    torch.manual_seed(0)
    with torch.no_grad():
        losses = model.learn_masks(outputs, objects)
        coarse = model._coarse(outputs, objects.boxes)
        torch.manual_seed(0)
        points = pointrend.points_to_learn(coarse[:, 1])
        decided = model._decide(outputs, objects.boxes, coarse, points)[0, :, 1]
    left = torch.arange(7) < 4
    wanted = F.binary_cross_entropy_with_logits(coarse[0, 1], left.float().expand(7, 7))
    torch.testing.assert_close(losses["mask"], wanted)
    truth = (points[0, :, 0] < 4 / 7).float()
    torch.testing.assert_close(losses["point"], F.binary_cross_entropy_with_logits(decided, truth))


def test_it_learns_what_a_coarse_mask_cannot_hold():
    """Eight stripes over seven cells: the points' features tell, once trained, what the coarse mask leaves open."""
    torch.manual_seed(0)
    model = PointRend(classes=classes_of(2), encoder=Choice("test_resnet"), channels=16)
    stripes = (torch.arange(SIZE) // 8 % 2 == 0).expand(SIZE, SIZE).clone()
    features = stripes[None, None, ::4, ::4].float().expand(1, 16, -1, -1)
    box = torch.tensor([[0.0, 0, SIZE, SIZE]])
    objects = pointrend.Objects(boxes=[box], labels=torch.tensor([1]), masks=[stripes[None]], which=[torch.tensor([0])])
    optimizer = torch.optim.Adam([*model.coarse.parameters(), *model.point.parameters()], lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        sum(model.learn_masks({"p2": features}, objects).values()).backward()
        optimizer.step()
    with torch.no_grad():
        rough = model._coarse({"p2": features}, [box])
        (drawn,) = model.draw({"p2": features}, box, torch.tensor([1]), (SIZE, SIZE))
    rough = F.interpolate(rough, size=(SIZE, SIZE), mode="bilinear")[0, 0] >= 0
    assert (rough == stripes).float().mean() < 0.9
    assert (drawn == stripes).float().mean() > 0.97


def test_without_objects_the_heads_learn_zeros(model):
    model.zero_grad()
    empty = InstanceTargets(
        masks=torch.zeros(0, SIZE, SIZE, dtype=torch.bool),
        labels=torch.zeros(0, dtype=torch.int64),
        boxes=torch.zeros(0, 4),
        iscrowd=torch.zeros(0, dtype=torch.bool),
    )
    targets = Targets(semantic=torch.zeros(1, SIZE, SIZE, dtype=torch.int64), instances=[empty])
    losses = model.losses(model(torch.randn(1, 3, SIZE, SIZE)), targets, lambda logits, targets: logits.sum())
    assert losses["mask"] == losses["point"] == 0
    sum(losses.values()).backward()
    assert all((p.grad == 0).all() for head in (model.coarse, model.point) for p in head.parameters())
