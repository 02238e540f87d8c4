"""RDSNet: the object stream against torchvision's RetinaNet with equal weights, its masks against the definitions."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetRegressionHead
from torchvision.ops import box_area

from pipelines.errors import ConfigError
from pipelines.models.contract import Classes, InstanceTargets, Targets
from pipelines.models.encoders import Choice
from pipelines.models.instance import anchors, prototypes, rdsnet
from pipelines.models.instance.rdsnet import RDSNet
from tests.models import parity

SIZE = 64
CLASSES = Classes(things=(3, 7), stuff=(0, 1, 2))
COCO = Classes(things=tuple(range(1, 81)), stuff=(0,))
NORM = partial(nn.GroupNorm, 2)


def unused(logits: Tensor, labels: Targets) -> Tensor:
    raise AssertionError("an instance model has no pixel loss")


@pytest.fixture(scope="module")
def model() -> RDSNet:
    torch.manual_seed(0)
    network = RDSNet(classes=CLASSES, encoder=Choice("test_resnet"), channels=16)
    with torch.no_grad():
        for head in (network.classify, network.locate, network.represent):
            head[-1].weight.normal_(std=0.3)  # as after some training: a fresh one finds nothing
    return network


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


@pytest.fixture
def outputs(model) -> dict[str, Tensor]:
    torch.manual_seed(1)
    with torch.no_grad():
        return model.eval()(torch.randn(1, 3, SIZE, SIZE))


def convolution(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel**2 + outputs


def test_it_has_the_layers_of_the_authors():
    """A block's convolution has no bias, and its norm a scale and a shift per channel."""
    encoder = 42_500_160  # ResNet-101 without its classifier: 44,549,160 - 2,049,000
    pyramid = sum(convolution(c, 256, 1) for c in (512, 1024, 2048)) + 5 * convolution(256, 256, 3)
    block = 256 * 256 * 9 + 2 * 256
    objects = 3 * 4 * block + convolution(256, 9 * (80 + 4 + 2 * 32), 3)
    pixels = (1 + 1 + 2 + 1) * block + convolution(256, 32, 1)
    refinement = 9 + 1
    assert parity.count(parity.on_meta(RDSNet, classes=COCO)) == encoder + pyramid + objects + pixels + refinement


class TestAgainstTorchvision:
    def test_heads_are_equal(self, model):
        theirs = (
            (RetinaNetClassificationHead(16, 9, 2, norm_layer=NORM), model.classify),
            (RetinaNetRegressionHead(16, 9, norm_layer=NORM), model.locate),
        )
        levels = [torch.randn(2, 16, 8, 8), torch.randn(2, 16, 4, 4)]
        for head, ours in theirs:
            parity.pour(ours, head)
            found = torch.cat([anchors.rows_of(ours(level), 9) for level in levels], dim=1)
            parity.assert_equal(found, head(levels))

    def test_a_fresh_head_begins_as_theirs(self):
        torch.manual_seed(0)
        fresh = RDSNet(classes=CLASSES, encoder=Choice("test_resnet"), channels=64).classify
        theirs = RetinaNetClassificationHead(64, 9, 2, norm_layer=partial(nn.GroupNorm, 8))
        for ours, other in zip(fresh.state_dict().values(), theirs.state_dict().values(), strict=True):
            torch.testing.assert_close(ours.mean(), other.mean(), atol=1e-3, rtol=0)
            torch.testing.assert_close(ours.std(), other.std(), atol=1e-3, rtol=0)

    def test_losses_of_class_and_box_are_equal(self, model, outputs):
        target = truth([[8, 8, 36, 40], [30, 20, 62, 60]], [3, 7])
        found = model.losses(outputs, batch(target), unused)
        boxes = torch.cat(model._anchors(outputs))
        matches = anchors.assign(boxes, target.boxes, torch.zeros(0, 4), positive=0.5, negative=0.4)
        given = [{"boxes": target.boxes, "labels": torch.tensor([0, 1])}]
        said = {"cls_logits": outputs["classes"], "bbox_regression": outputs["deltas"]}
        theirs = RetinaNetClassificationHead(16, 9, 2).compute_loss(given, said, [matches])
        torch.testing.assert_close(found["classifier"], theirs)
        # Theirs is the absolute difference; the authors' is smooth below a ninth, which is a quadratic less.
        absolute = RetinaNetRegressionHead(16, 9).compute_loss(given, said, [boxes], [matches])
        rows = torch.where(matches >= 0)[0]
        wanted = rdsnet.BOX_CODER.encode_single(target.boxes[matches[rows]], boxes[rows])
        gap = (outputs["deltas"][0, rows] - wanted).abs()
        less = torch.where(gap < 1 / 9, gap - 4.5 * gap**2, 1 / 18).sum() / len(rows)
        torch.testing.assert_close(found["box"], absolute - less)

    @pytest.mark.parametrize("size", [(SIZE, SIZE), (50, 41)])
    def test_detections_are_equal(self, model, outputs, size):
        levels = model._anchors(outputs)
        rows, labels, scores, boxes = rdsnet.detect(outputs["classes"][0], outputs["deltas"][0], levels, size)
        backbone = nn.Identity()
        backbone.out_channels = 16
        theirs = RetinaNet(backbone, 2, score_thresh=0.05, nms_thresh=0.5, detections_per_img=10**6)
        lengths = [len(level) for level in levels]
        said = {
            "cls_logits": list(outputs["classes"].split(lengths, dim=1)),
            "bbox_regression": list(outputs["deltas"].split(lengths, dim=1)),
        }
        (wanted,) = theirs.postprocess_detections(said, [levels], [size])
        within = torch.where(box_area(wanted["boxes"]) > 0)[0][:200]
        assert len(rows) == len(within) > 20
        torch.testing.assert_close(scores, wanted["scores"][within])
        torch.testing.assert_close(boxes, wanted["boxes"][within])
        assert torch.equal(labels, wanted["labels"][within])
        torch.testing.assert_close(outputs["classes"][0, rows, labels].sigmoid(), scores)


def test_a_mask_is_a_softmax_of_two_correlations(model, outputs):
    rows = torch.tensor([0, 5, 100])
    found = model._correlate({name: value[0] for name, value in outputs.items()}, rows).sigmoid()
    pixels = outputs["pixels"][0].permute(1, 2, 0)
    for row, probability in zip(rows.tolist(), found, strict=True):
        of_object, of_surroundings = (pixels @ vector for vector in outputs["objects"][0, row])
        both = torch.stack([of_object, of_surroundings]).softmax(dim=0)
        torch.testing.assert_close(probability, both[0])


def test_a_mask_is_learned_near_its_box_from_as_much_background():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 2, (5, 8, 8)))
    masks, near = (torch.from_numpy(rng.random((5, 8, 8)) < share) for share in (0.2, 0.6))
    masks[1], near[2] = True, False
    masks[3] = False
    found = rdsnet.mined_mask_loss(logits, masks, near)
    for loss, logit, mask, here in zip(found, logits.numpy(), masks.numpy(), near.numpy(), strict=True):
        objects = np.log1p(np.exp(-logit[mask & here]))
        around = np.sort(np.log1p(np.exp(logit[~mask & here])))[::-1][: len(objects)]
        taken = np.concatenate([objects, around])
        assert float(loss) == pytest.approx(taken.mean() if len(taken) else 0)
    assert found[2] == found[3] == 0


def test_mask_loss_is_a_mean_over_the_objects_anchors(model, outputs):
    target = truth([[8, 8, 36, 40], [30, 20, 62, 60]], [3, 7])
    boxes = torch.cat(model._anchors(outputs))
    matches = anchors.assign(boxes, target.boxes, torch.zeros(0, 4), positive=0.5, negative=0.4)
    each = []
    for row in torch.where(matches >= 0)[0].tolist():
        box = target.boxes[matches[row]]
        of_object, of_surroundings = outputs["objects"][0, row]
        logits = torch.einsum("d,dhw->hw", of_object, outputs["pixels"][0])
        logits = logits - torch.einsum("d,dhw->hw", of_surroundings, outputs["pixels"][0])
        margin = (box[2:] - box[:2]) / 4
        near = prototypes.inside(torch.cat([box[:2] - margin, box[2:] + margin])[None], (16, 16), 4)
        cells = prototypes.cells(target.masks[matches[row]][None], 4)
        each.append(rdsnet.mined_mask_loss(logits[None], cells, near))
    assert 3 <= len(each) <= 100
    torch.testing.assert_close(model.losses(outputs, batch(target), unused)["mask"], torch.cat(each).mean())


def test_what_is_said_of_anchors_in_a_crowd_costs_nothing(model, outputs):
    targets = batch(truth([[4, 4, 30, 30], [0, 32, 64, 64]], [3, 7], [False, True]))
    boxes = torch.cat(model._anchors(outputs))
    within = (boxes[:, 1] > 32) & (boxes[:, 3] < 64) & (boxes[:, 0] > 0) & (boxes[:, 2] < 64)
    assert within.any()
    other = {**outputs, "classes": outputs["classes"].clone()}
    other["classes"][0, within] += 9
    torch.manual_seed(0)
    before = model.losses(outputs, targets, unused)
    torch.manual_seed(0)
    assert before == model.losses(other, targets, unused)


def test_the_refinement_teaches_masks_nothing(model):
    model.train().zero_grad()
    target = truth([[8, 8, 36, 40]], [3])
    model.losses(model(torch.randn(1, 3, SIZE, SIZE)), batch(target), unused)["boundary"].backward()
    assert model.boundaries.likelihood.weight.grad.abs().sum() > 0
    assert all(p.grad is None or not p.grad.any() for p in model.pixels_of.parameters())
    model.zero_grad()


def said(model: RDSNet, instances: InstanceTargets, shift: float = 0) -> dict[str, Tensor]:
    """What a model without fault puts out: pixels that know their object, and of one anchor each all that is true; but
    for boxes that are too far right and too low by so much."""
    outputs = {name: torch.zeros_like(v) for name, v in model.eval()(torch.zeros(1, 3, SIZE, SIZE)).items()}
    boxes = torch.cat(model._anchors(outputs))
    outputs["classes"] -= 10
    outputs["pixels"][0, -1] = 1
    for k, (mask, label, box) in enumerate(zip(instances.masks, instances.labels, instances.boxes, strict=True)):
        row = 20 * k
        outputs["pixels"][0, k] = prototypes.cells(mask[None], 4)[0].float()
        outputs["objects"][0, row, 0, k] = 20
        outputs["objects"][0, row, 1, -1] = 10
        outputs["classes"][0, row, CLASSES.things.index(int(label))] = 5 - k  # best first
        outputs["deltas"][0, row] = rdsnet.BOX_CODER.encode_single(box[None] + shift, boxes[row : row + 1])[0]
    return outputs


@pytest.mark.parametrize("shift", [0.0, 1.2, -1.2])
def test_right_outputs_are_the_truth(model, shift):
    """Also where boxes are slightly off: the masks correct them, to the pixel that blurred edges leave open."""
    wanted = truth([[8, 8, 36, 40], [32, 20, 60, 60], [4, 44, 24, 64]], [3, 7, 3])
    (prediction,) = model.predict(said(model, wanted, shift), [(SIZE, SIZE)])
    found = prediction.instances
    assert found.labels.tolist() == [3, 7, 3]
    np.testing.assert_allclose(found.scores, [1 / (1 + math.exp(-s)) for s in (5, 4, 3)], rtol=1e-5)
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1.0)
    assert (found.masks & wanted.masks.numpy()).sum() / (found.masks | wanted.masks.numpy()).sum() > 0.93


def test_masks_are_cut_to_boxes_that_are_grown_by_a_tenth(model):
    outputs = said(model, truth([[10, 20, 40, 50]], [7]))
    outputs["pixels"][0, 0] = 1
    (prediction,) = model.predict(outputs, [(52, 60)])
    np.testing.assert_array_equal(prediction.instances.masks[0], truth([[7, 17, 43, 52]], [7]).masks[0, :52, :60])


def test_a_dataset_without_things_is_refused():
    with pytest.raises(ConfigError, match="stuff classes only"):
        RDSNet(classes=Classes(things=(), stuff=(0, 1)), encoder=Choice("test_resnet"), channels=16)
