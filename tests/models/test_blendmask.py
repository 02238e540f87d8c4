"""BlendMask: the blender against torchvision's RoIAlign and sums counted one by one, and against geometry."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection import fcos_resnet50_fpn
from torchvision.ops import RoIAlign

from pipelines.errors import ConfigError
from pipelines.models.contract import Classes, InstanceTargets, Targets
from pipelines.models.encoders import Choice
from pipelines.models.instance import blendmask, fcos, regions
from pipelines.models.instance.blendmask import ATTENTION, BASES, CELLS, MAX_LEARNED, BlendMask
from tests.models.parity import classes_of, count, on_meta

SIZE = 128
CLASSES = Classes(things=(3, 7), stuff=(0, 1, 2))
BOXES = [[8, 8, 40, 48], [60, 70, 120, 100], [70, 10, 90, 40]]


def unused(logits: Tensor, targets: Targets) -> Tensor:
    raise AssertionError("an instance model has no pixel loss")


@pytest.fixture(scope="module")
def model() -> BlendMask:
    torch.manual_seed(0)
    return BlendMask(classes=CLASSES, encoder=Choice("test_resnet"), channels=16)


def discs(boxes: list[list[int]]) -> Tensor:
    """An ellipse in each box."""
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    masks = [
        ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 <= 1 for x1, y1, x2, y2 in boxes
    ]
    return torch.stack(masks)


def truth(boxes: list[list[int]], labels: list[int]) -> InstanceTargets:
    return InstanceTargets(
        masks=discs(boxes),
        labels=torch.tensor(labels, dtype=torch.int64),
        boxes=torch.tensor(boxes, dtype=torch.float32),
        iscrowd=torch.zeros(len(boxes), dtype=torch.bool),
    )


def batch(*instances: InstanceTargets) -> Targets:
    return Targets(semantic=torch.zeros(len(instances), SIZE, SIZE, dtype=torch.int64), instances=list(instances))


def blended(bases: Tensor, attention: Tensor, box: Tensor) -> Tensor:
    """The paper's equations 1 to 4 for one box, basis after basis."""
    cut = RoIAlign(CELLS, 0.25, sampling_ratio=1, aligned=True)(bases[None], [box[None]])[0]
    maps = F.interpolate(attention.reshape(1, BASES, ATTENTION, ATTENTION), (CELLS, CELLS), mode="bilinear")[0]
    shares = [m.exp() / sum(other.exp() for other in maps) for m in maps]
    return sum(share * basis for share, basis in zip(shares, cut, strict=True))


class TestBlender:
    def test_it_is_the_paper_s_sum(self):
        torch.manual_seed(0)
        bases, attention = torch.randn(BASES, 32, 32), torch.randn(3, BASES * ATTENTION**2)
        boxes = torch.tensor(BOXES).float() + torch.rand(3, 4)
        found = blendmask.blend(blendmask.crop(bases, boxes), attention)
        wanted = torch.stack([blended(bases, a, b) for a, b in zip(attention, boxes, strict=True)])
        torch.testing.assert_close(found, wanted)

    def test_attention_chooses_among_bases_by_place(self):
        """Bases that hold each cell's own x and y: an attention to x in the upper half and to y in the lower one."""
        place = torch.arange(32).add(0.5).mul(4)
        bases = torch.stack([place.expand(32, 32), place[:, None].expand(32, 32), *torch.randn(2, 32, 32)])
        attention = torch.full((BASES, ATTENTION, ATTENTION), -50.0)
        attention[0, :7] = attention[1, 7:] = 50
        crops = blendmask.crop(bases, torch.tensor([[20.0, 16, 76, 72]]))
        (found,) = blendmask.blend(crops, attention.flatten()[None])
        torch.testing.assert_close(found[:26], torch.arange(20.5, 76).expand(26, CELLS))
        torch.testing.assert_close(found[30:], torch.arange(46.5, 72)[:, None].expand(26, CELLS))

    def test_without_boxes_there_are_no_masks(self):
        crops = blendmask.crop(torch.randn(BASES, 32, 32), torch.zeros(0, 4))
        masks = blendmask.blend(crops, torch.zeros(0, BASES * ATTENTION**2))
        assert masks.shape == (0, CELLS, CELLS)


class TestMaskLoss:
    def test_each_point_weighs_as_much_as_it_is_central(self, model):
        targets = batch(truth(BOXES, [3, 7, 7]), truth(BOXES[:1], [7]))
        with torch.no_grad():
            outputs = model(torch.randn(2, 3, SIZE, SIZE))
            found = model.losses(outputs, targets, unused)["mask"]
        total = weights = torch.zeros(())
        for i, instances in enumerate(targets.instances):
            points = outputs["points"][i]
            owner = fcos.assign(points, instances.boxes, fcos.middles_of(instances.boxes))
            for k in (owner >= 0).nonzero()[:, 0].tolist():
                x1, y1, x2, y2 = box = instances.boxes[owner[k]]
                (left, right), (top, bottom) = (
                    (points[k, 0] - x1, x2 - points[k, 0]),
                    (points[k, 1] - y1, y2 - points[k, 1]),
                )
                weight = (min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom)).sqrt()
                logits = blended(outputs["bases"][i], outputs["attention"][i, k], box)
                mask = regions.cut(instances.masks, owner[k, None], box[None], CELLS)[0]
                total = total + weight * -torch.where(mask > 0, logits.sigmoid(), 1 - logits.sigmoid()).log().mean()
                weights = weights + weight
        assert weights > 5
        torch.testing.assert_close(found, total / weights)

    def test_no_more_points_learn_than_fit(self, model):
        boxes = [[x, y, x + 15, y + 15] for y in range(0, SIZE, 16) for x in range(0, SIZE, 16)]
        targets = batch(truth(boxes, [3] * len(boxes)))
        outputs = model(torch.randn(1, 3, SIZE, SIZE))
        outputs["attention"].retain_grad()
        model.losses(outputs, targets, unused)["mask"].backward()
        owner = fcos.assign(
            outputs["points"][0], targets.instances[0].boxes, fcos.middles_of(targets.instances[0].boxes)
        )
        assert (owner >= 0).sum() > MAX_LEARNED
        assert outputs["attention"].grad.any(dim=2).sum() == MAX_LEARNED


@pytest.mark.parametrize("size", [(SIZE, SIZE), (94, 110)])
def test_right_outputs_are_the_truth(model, size):
    """A first basis that shows all objects, and attention to it; each box cuts out its own."""
    instances = truth(BOXES, [3, 7, 7])
    outputs = {name: v.detach().clone() for name, v in model(torch.zeros(1, 3, SIZE, SIZE)).items()}
    points = outputs["points"][0]
    owner = fcos.assign(points, instances.boxes, fcos.middles_of(instances.boxes))
    here = (owner >= 0).nonzero()[:, 0]
    boxes = instances.boxes[owner[here]]
    outputs["logits"].fill_(-20)
    outputs["logits"][0, here, torch.tensor([0, 1, 1])[owner[here]]] = 5.0
    outputs["distances"][0, here] = torch.cat([points[here, :2] - boxes[:, :2], boxes[:, 2:] - points[here, :2]], dim=1)
    shown = F.avg_pool2d(instances.masks.any(dim=0)[None].float(), 4)
    outputs["bases"][0] = torch.cat([40 * shown - 20, torch.randn(BASES - 1, 32, 32)])
    outputs["attention"] = outputs["attention"].unflatten(2, (BASES, -1)).fill_(-20)
    outputs["attention"][:, :, 0] = 20
    outputs["attention"] = outputs["attention"].flatten(2)
    (prediction,) = model.predict(outputs, [size])
    found = prediction.instances
    assert len(found) == 3
    for mask, label in zip(instances.masks[:, : size[0], : size[1]].numpy(), [3, 7, 7], strict=True):
        overlaps = (found.masks & mask).sum(axis=(1, 2)) / (found.masks | mask).sum(axis=(1, 2))
        assert overlaps.max() > 0.93
        assert found.labels[overlaps.argmax()] == label


def test_what_it_weighs():
    """torchvision's FCOS and a scale for each of the 5 levels; attention; the authors' bottom module, by layers."""
    ours = count(on_meta(BlendMask, classes=classes_of(92)))
    theirs = count(on_meta(fcos_resnet50_fpn, weights=None, weights_backbone=None, num_classes=91))
    norm = 2 * 128
    laterals, refined = 3 * (256 * 128 * 9 + norm), 4 * (128 * 128 * 9 + norm)
    assert ours - theirs == 5 + 784 * (256 * 9 + 1) + laterals + refined + 4 * (128 + 1)


def test_a_dataset_without_things_is_refused():
    with pytest.raises(ConfigError, match="stuff classes only"):
        BlendMask(classes=Classes(things=(), stuff=(0, 1)), encoder=Choice("test_resnet"), channels=16)
