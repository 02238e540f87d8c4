"""YOLACT: its size against the paper's layers, its losses and detections against the definitions, object by object."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.data.schema import IGNORE
from pipelines.errors import ConfigError
from pipelines.models.contract import Classes, InstanceTargets, Targets
from pipelines.models.encoders import Choice
from pipelines.models.instance import anchors, prototypes, yolact
from pipelines.models.instance.yolact import YOLACT
from tests.models import parity

SIZE = 64
CLASSES = Classes(things=(3, 7), stuff=(0, 1, 2))
COCO = Classes(things=tuple(range(1, 81)), stuff=(0,))


def unused(logits: Tensor, labels: Targets) -> Tensor:
    raise AssertionError("an instance model has no pixel loss")


@pytest.fixture(scope="module")
def model() -> YOLACT:
    torch.manual_seed(0)
    return YOLACT(classes=CLASSES, encoder=Choice("test_resnet"), channels=16)


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


def convolution(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel**2 + outputs


def test_it_has_the_paper_s_parameters():
    encoder = 42_500_160  # ResNet-101 without its classifier: 44,549,160 - 2,049,000
    pyramid = sum(convolution(c, 256, 1) for c in (512, 1024, 2048)) + 5 * convolution(256, 256, 3)
    protonet = 4 * convolution(256, 256, 3) + convolution(256, 32, 1)
    head = convolution(256, 256, 3) + convolution(256, 3 * (4 + 81 + 32), 3)
    semantic = convolution(256, 80, 1)
    network = parity.on_meta(YOLACT, classes=COCO)
    assert parity.count(network) == encoder + pyramid + protonet + head + semantic


def test_550_pixels_have_the_paper_s_anchors():
    """19,248 of them: 69 x 69, 35 x 35, 18 x 18, 9 x 9 and 5 x 5 cells of three."""
    levels = anchors.pyramid((550, 550), yolact.STRIDES, yolact.SIZES, yolact.RATIOS, torch.device("cpu"))
    assert sum(len(level) for level in levels) == 19_248


class TestForward:
    def test_coefficients_are_of_both_signs_and_prototypes_of_one(self, model):
        outputs = model(torch.randn(2, 3, SIZE, SIZE))
        assert outputs["prototypes"].shape == (2, 32, SIZE // 4, SIZE // 4)
        assert outputs["prototypes"].min() == 0
        assert -1 <= outputs["coefficients"].min() < 0 < outputs["coefficients"].max() <= 1

    @pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 160), (224, 32)])
    def test_there_is_a_row_for_every_anchor(self, model, height, width):
        outputs = model(torch.zeros(2, 3, height, width))
        rows = len(model._anchors(outputs))
        assert outputs["classes"].shape == (2, rows, 3)
        assert outputs["deltas"].shape == (2, rows, 4)
        assert outputs["coefficients"].shape == (2, rows, 32)

    def test_what_is_seen_at_a_place_is_said_of_the_anchors_there(self, model):
        """A change in one corner of the image moves the anchors there more than those in the opposite corner."""
        images = torch.zeros(1, 3, 256, 256)
        changed = images.clone()
        changed[:, :, 160:, 192:] = 5
        with torch.no_grad():
            before, after = model.eval()(images), model(changed)
        moved = (after["deltas"] - before["deltas"]).abs().sum(dim=2)[0]
        x, y = model._anchors(before)[:, :2].add(model._anchors(before)[:, 2:]).div(2).unbind(dim=1)
        finest = torch.arange(len(x)) < 3 * 32**2
        assert moved[finest & (x > 208) & (y > 176)].mean() > 2 * moved[finest & (x < 48) & (y < 48)].mean()


def test_the_hardest_background_is_mined_three_to_one():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 2, (3, 50, 4)))
    labels = torch.from_numpy(rng.choice([0, 0, 0, 0, 0, 0, 0, 0, -1, 1, 3], (3, 50)))
    labels[1] = labels[1].clamp(max=0)  # an image without objects
    labels[2, :45] = 2  # one of little else
    wanted = 0.0
    for image, truths in zip(logits.numpy(), labels.tolist(), strict=True):
        costs = [
            float(np.log(np.exp(row).sum()) - row[max(label, 0)]) for row, label in zip(image, truths, strict=True)
        ]
        objects = [cost for cost, label in zip(costs, truths, strict=True) if label > 0]
        background = sorted((cost for cost, label in zip(costs, truths, strict=True) if label == 0), reverse=True)
        wanted += sum(objects) + sum(background[: 3 * max(len(objects), 1)])
    assert float(yolact.mined_cross_entropy(logits, labels)) == pytest.approx(wanted)


def test_a_mask_is_learned_in_its_box_and_a_cell_around():
    torch.manual_seed(0)
    logits = torch.randn(3, 16, 16, dtype=torch.float64)
    boxes = torch.tensor([[8.0, 12, 40, 32], [60, 60, 64, 64], [33, 21, 34, 23]])
    masks = torch.rand(3, 16, 16) < 0.5
    found = yolact.mask_loss(logits, masks, boxes)
    for loss, logit, mask, (x1, y1, x2, y2) in zip(found, logits, masks, boxes.tolist(), strict=True):
        wanted = 0.0
        for row in range(16):
            for column in range(16):
                x, y = column * 4 + 2, row * 4 + 2
                if x1 - 4 < x < x2 + 4 and y1 - 4 < y < y2 + 4:
                    sign = 1 if mask[row, column] else -1
                    wanted += math.log1p(math.exp(-sign * logit[row, column]))
        assert wanted > 0, "the least object has cells of its own"
        assert float(loss) == pytest.approx(wanted / max((x2 - x1) * (y2 - y1) / 16, 1))


def test_box_and_mask_losses_are_means_over_the_objects_anchors(model):
    """Few enough objects that each of their anchors learns a mask."""
    targets = batch(truth([[8, 8, 36, 40], [30, 20, 62, 60]], [3, 7]), truth([[4, 30, 24, 44]], [7]))
    with torch.no_grad():
        outputs = model.eval()(torch.randn(2, 3, SIZE, SIZE))
        found = model.losses(outputs, targets, unused)
    boxes = model._anchors(outputs)
    box = mask = objects = 0.0
    for i, each in enumerate(targets.instances):
        matches = anchors.assign(boxes, each.boxes, torch.zeros(0, 4), positive=0.5, negative=0.4).tolist()
        for row, match in enumerate(matches):
            if match < 0:
                continue
            objects += 1
            (ax1, ay1, ax2, ay2), (x1, y1, x2, y2) = boxes[row].tolist(), each.boxes[match].tolist()
            width, height = ax2 - ax1, ay2 - ay1
            deltas = [  # SSD's, with its variances
                (x1 + x2 - ax1 - ax2) / 2 / width / 0.1,
                (y1 + y2 - ay1 - ay2) / 2 / height / 0.1,
                math.log((x2 - x1) / width) / 0.2,
                math.log((y2 - y1) / height) / 0.2,
            ]
            gaps = [abs(said - wanted) for said, wanted in zip(outputs["deltas"][i, row].tolist(), deltas, strict=True)]
            box += sum(gap**2 / 2 if gap < 1 else gap - 0.5 for gap in gaps)
            logits = (outputs["coefficients"][i, row, :, None, None] * outputs["prototypes"][i]).sum(dim=0)
            cells = prototypes.cells(each.masks[match : match + 1], 4)
            mask += float(yolact.mask_loss(logits[None], cells, each.boxes[match : match + 1]))
    assert 3 <= objects <= 100
    assert float(found["box"]) == pytest.approx(1.5 * box / objects, rel=1e-4)
    assert float(found["mask"]) == pytest.approx(6.125 * mask / objects, rel=1e-4)


class TestSemantics:
    def test_every_class_of_a_cell_counts(self, model):
        """Two objects that overlap, of two classes: cells have either class, both, or none."""
        targets = batch(truth([[8, 8, 40, 40], [24, 24, 56, 48]], [3, 7]))
        logits = torch.randn(1, 2, 8, 8)
        found = yolact.semantic_loss(logits, truths_of(targets), targets.semantic)
        seen = torch.zeros(1, 2, 8, 8)
        seen[0, 0, 1:5, 1:5] = 1
        seen[0, 1, 3:6, 3:7] = 1
        wanted = F.binary_cross_entropy_with_logits(logits, seen, reduction="sum") / 64
        torch.testing.assert_close(found, wanted)

    def test_crowds_and_what_is_unknown_count_not(self, model):
        targets = batch(truth([[8, 8, 40, 40], [0, 48, 64, 64]], [3, 7], [False, True]))
        targets.semantic[:, :, :8] = IGNORE
        logits = torch.randn(1, 2, 8, 8)
        before = yolact.semantic_loss(logits, truths_of(targets), targets.semantic)
        logits[:, :, 6:] += 1
        logits[:, :, :, :1] += 1
        assert before == yolact.semantic_loss(logits, truths_of(targets), targets.semantic)


def truths_of(targets: Targets) -> list:
    return [yolact.truths.of(t, CLASSES.things) for t in targets.instances]


def test_what_is_said_of_anchors_in_a_crowd_costs_nothing(model):
    targets = batch(truth([[4, 4, 30, 30], [0, 32, 64, 64]], [3, 7], [False, True]))
    with torch.no_grad():
        outputs = model.eval()(torch.randn(1, 3, SIZE, SIZE))
    boxes = model._anchors(outputs)
    within = (boxes[:, 1] > 32) & (boxes[:, 3] < 64) & (boxes[:, 0] > 0) & (boxes[:, 2] < 64)
    assert within.any()
    other = {**outputs, "classes": outputs["classes"].clone()}
    other["classes"][0, within, 1:] += 9
    torch.manual_seed(0)
    before = model.losses(outputs, targets, unused)
    torch.manual_seed(0)
    assert before == model.losses(other, targets, unused)


def said(model: YOLACT, instances: InstanceTargets) -> dict[str, Tensor]:
    """What a model without fault puts out: a prototype for each object, and of one anchor each all that is true."""
    outputs = {name: value.detach() for name, value in model.eval()(torch.zeros(1, 3, SIZE, SIZE)).items()}
    outputs = {name: torch.zeros_like(value) for name, value in outputs.items()}
    boxes = model._anchors(outputs)
    outputs["classes"][..., 0] = 10
    for k, (mask, label, box) in enumerate(zip(instances.masks, instances.labels, instances.boxes, strict=True)):
        row = 7 * k
        outputs["prototypes"][0, k] = prototypes.cells(mask[None], 4)[0].float()
        outputs["coefficients"][0, row, k] = 1
        outputs["classes"][0, row, 1 + CLASSES.things.index(int(label))] = 20 - k  # best first
        outputs["deltas"][0, row] = yolact.BOX_CODER.encode_single(box[None], boxes[row : row + 1])[0]
    return outputs


def test_right_outputs_are_the_truth(model):
    wanted = truth([[8, 8, 36, 40], [32, 20, 60, 60], [0, 44, 24, 64]], [3, 7, 3])
    (prediction,) = model.predict(said(model, wanted), [(SIZE, SIZE)])
    found = prediction.instances
    assert found.labels.tolist() == [3, 7, 3]
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-3)
    np.testing.assert_array_equal(found.masks, wanted.masks)
    assert (found.scores > 0.99).all()


def test_a_prototype_may_be_taken_away(model):
    """One object is the first prototype without the second."""
    outputs = said(model, truth([[8, 8, 56, 56], [24, 0, 40, 64]], [3, 7]))
    outputs["coefficients"][0, 0, 1] = -1
    (prediction,) = model.predict(outputs, [(SIZE, SIZE)])
    wanted = truth([[8, 8, 56, 56]], [3]).masks[0]
    wanted[:, 24:40] = False
    agreed = prediction.instances.masks[0] == wanted.numpy()
    assert agreed[:, 20:44].mean() > 0.85  # at its edges the border between cells is blurred
    assert not prediction.instances.masks[0][:, 26:38].any()


def test_masks_are_cut_to_boxes_and_images(model):
    outputs = said(model, truth([[8, 8, 36, 40]], [7]))
    outputs["prototypes"][0, 0] = 1
    (prediction,) = model.predict(outputs, [(30, 50)])
    assert prediction.instances.masks.shape == (1, 30, 50)
    assert prediction.instances.boxes.tolist() == pytest.approx(np.array([[8, 8, 36, 30]]), abs=1e-3)
    np.testing.assert_array_equal(prediction.instances.masks[0], truth([[8, 8, 36, 30]], [7]).masks[0, :30, :50])


def test_a_dataset_without_things_is_refused():
    with pytest.raises(ConfigError, match="stuff classes only"):
        YOLACT(classes=Classes(things=(), stuff=(0, 1)), encoder=Choice("test_resnet"), channels=16)
