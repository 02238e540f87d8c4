"""FCIS against its paper: the formulas of its position-sensitive maps in numpy, its layers counted by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.errors import ConfigError
from pipelines.models.contract import Classes
from pipelines.models.encoders import Choice
from pipelines.models.instance import fcis
from pipelines.models.instance.fcis import FCIS
from tests.models.parity import classes_of, count, on_meta

BOXES = torch.tensor([[16.0, 20, 150, 110], [3.3, 7.1, 60.2, 90.9], [100, 90, 190, 140]])


@pytest.fixture(scope="module")
def model() -> FCIS:
    torch.manual_seed(0)
    return FCIS(classes=classes_of(4), encoder=Choice("test_resnet"), channels=16).eval()


def maps_of(channels: int, images: int = 1) -> Tensor:
    return torch.randn(images, channels * 49, 10, 14, generator=torch.Generator().manual_seed(0))


def at(image: np.ndarray, x: float, y: float) -> float:
    """[h, w], interpolated at a place where (0.5, 0.5) is the middle of the first cell."""
    height, width = image.shape
    x, y = np.clip(x - 0.5, 0, width - 1), np.clip(y - 0.5, 0, height - 1)
    left, top = int(x), int(y)
    near = image[np.ix_([top, min(top + 1, height - 1)], [left, min(left + 1, width - 1)])]
    return np.array([top + 1 - y, y - top]) @ near @ np.array([left + 1 - x, x - left])


def assembled(maps: np.ndarray, box: np.ndarray) -> np.ndarray:
    """[c, 7, 7, h, w] -> [c, 21, 21]: a pixel of the region takes its score from the map of the cell that it is in."""
    x1, y1, x2, y2 = box / 16
    found = np.zeros((len(maps), 21, 21))
    for row, column in np.ndindex(21, 21):
        x, y = x1 + (column + 0.5) * (x2 - x1) / 21, y1 + (row + 0.5) * (y2 - y1) / 21
        for channel in range(len(maps)):
            found[channel, row, column] = at(maps[channel, row // 3, column // 3], x, y)
    return found


class TestAssembling:
    def test_each_cell_reads_its_own_map(self):
        maps = maps_of(3)
        found = fcis.assemble(maps, torch.cat([torch.zeros(3, 1), BOXES], dim=1))
        wanted = [assembled(maps[0].double().numpy().reshape(3, 7, 7, 10, 14), b) for b in BOXES.double().numpy()]
        np.testing.assert_allclose(found, np.stack(wanted), atol=1e-4)

    def test_classes_masks_and_moves_are_the_paper_s(self, model):
        """Its section 3.2: the larger of inside and outside, averaged; their softmax; the mean of the moves."""
        outputs = {"scores": maps_of(8), "moves": maps_of(4)}
        logits, masks, deltas = (x.numpy() for x in model._assemble(outputs, [BOXES]))
        scores = outputs["scores"][0].double().numpy().reshape(8, 7, 7, 10, 14)
        for k, box in enumerate(BOXES.double().numpy()):
            inside, outside = np.split(assembled(scores, box), 2)
            np.testing.assert_allclose(logits[k], np.maximum(inside, outside).mean(axis=(1, 2)), atol=1e-4)
            softmax = np.exp(inside) / (np.exp(inside) + np.exp(outside))
            np.testing.assert_allclose(1 / (1 + np.exp(-masks[k])), softmax[1:], atol=1e-4)
            moves = assembled(outputs["moves"][0].double().numpy().reshape(4, 7, 7, 10, 14), box)
            np.testing.assert_allclose(deltas[k], moves.mean(axis=(1, 2)), atol=1e-4)

    def test_regions_read_their_own_image(self, model):
        outputs = {"scores": maps_of(8, images=2), "moves": maps_of(4, images=2)}
        both = model._assemble(outputs, [BOXES[:1], BOXES[1:]])
        second = {name: maps[1:] for name, maps in outputs.items()}
        for found, wanted in zip(both, model._assemble(second, [BOXES[1:]]), strict=True):
            assert torch.equal(found[1:], wanted)


def test_the_layers_are_the_paper_s():
    """ResNet-101 without its classifier: 42.5 million; the maps as in section 3.3, proposals from conv4 by 3x3x512."""
    model = on_meta(FCIS, classes=classes_of(81))
    assert count(model.encoder) == 42_500_160
    assert count(model.reduce) == 2048 * 1024 + 1024
    assert count(model.score) == (1024 + 1) * 2 * 49 * 81
    assert count(model.move) == (1024 + 1) * 4 * 49
    assert count(model.rpn) == 9 * 1024 * 512 + 512 + (512 + 1) * 5 * 15
    assert model.encoder.reductions == [2, 4, 8, 16, 16]
    assert model.last == 4


def test_the_last_stage_is_dilated(model):
    outputs = model(torch.zeros(1, 3, 64, 96))
    assert outputs["scores"].shape == (1, 2 * 49 * 4, 4, 6)
    assert outputs["moves"].shape == (1, 4 * 49, 4, 6)
    assert outputs["deltas"].shape == (1, 4 * 6 * 15, 4)


class TestLearning:
    def test_the_hardest_of_each_image_teach(self):
        losses = torch.rand(500), torch.rand(40), torch.zeros(0)
        found = fcis.hardest(losses).tolist()
        first, second = [k for k in found if k < 500], [k - 500 for k in found if k >= 500]
        assert set(first) == set(np.argsort(-losses[0].numpy())[:128].tolist())
        assert sorted(second) == list(range(40))

    def test_losses_are_the_formulas(self, model):
        """Few enough regions for all to teach: of two objects, one of them met, and of background."""
        truth = {
            "boxes": torch.tensor([[16.0, 20, 150, 110], [100, 90, 190, 140]]),
            "labels": torch.tensor([3, 1]),
            "masks": torch.zeros(2, 160, 224, dtype=torch.bool),
            "crowds": torch.zeros(0, 4),
        }
        truth["masks"][0, 20:110, 16:83] = True  # the left half
        truth["masks"][1, 90:140, 100:190] = True
        boxes = torch.tensor([[16.0, 20, 150, 110], [20, 20, 150, 115], [3.3, 7.1, 60.2, 90.9]])
        outputs = {"scores": maps_of(8), "moves": maps_of(4)}
        losses = model._region_losses(outputs, [boxes], [truth])
        logits, masks, deltas = (x.double().numpy() for x in model._assemble(outputs, [boxes]))
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        classifier = -np.log(probabilities[[0, 1, 2], [3, 3, 0]])
        box = np.zeros(3)
        for k in (0, 1):
            x1, y1, x2, y2 = boxes[k].double().numpy()
            w, h = x2 - x1, y2 - y1
            move = np.array([10 * (83 - (x1 + x2) / 2) / w, 10 * (65 - (y1 + y2) / 2) / h])
            size = np.array([5 * np.log(134 / w), 5 * np.log(90 / h)])
            away = np.abs(deltas[k] - np.concatenate([move, size]))
            box[k] = np.where(away < 1, away**2 / 2, away - 0.5).sum()
        mask = []
        for k in (0, 1):
            x1, _, x2, _ = boxes[k].double().numpy()
            inside = x1 + (np.arange(21) + 0.5) * (x2 - x1) / 21 < 83
            inside = np.broadcast_to(inside, (21, 21)).copy()
            if k == 1:
                inside[np.arange(21) * 95 / 21 + 20 + 95 / 42 > 110] = False
            probability = 1 / (1 + np.exp(-masks[k, 2]))
            mask.append(-np.log(np.where(inside, probability, 1 - probability)).mean())
        np.testing.assert_allclose(losses["classifier"].item(), classifier.mean(), rtol=1e-4)
        np.testing.assert_allclose(losses["box"].item(), box.mean(), rtol=1e-4)
        np.testing.assert_allclose(losses["mask"].item(), np.mean(mask), rtol=1e-2)  # a column cut in half


class TestDetections:
    def test_what_is_kept_is_the_greedy_choice_of_each_class(self):
        random = np.random.default_rng(0)
        corner = random.uniform(0, 60, (60, 2))
        boxes = np.concatenate([corner, corner + random.uniform(0.5, 40, (60, 2))], axis=1).astype(np.float32)
        scores = random.random((60, 3)).astype(np.float32) ** 3
        kept, labels = fcis.detections(torch.from_numpy(boxes), torch.from_numpy(scores))
        wanted: list[tuple[int, int]] = []
        for row, label in sorted(np.ndindex(60, 3), key=lambda at: -scores[at]):
            if scores[row, label] <= 0.05 or (boxes[row, 2:] - boxes[row, :2]).min() < 1:
                continue
            if all(iou(boxes[row], boxes[other]) <= 0.3 for other, theirs in wanted if theirs == label):
                wanted.append((row, label))
        assert list(zip(kept.tolist(), labels.tolist(), strict=True)) == wanted[:100]

    def test_masks_are_the_weighted_mean_of_overlapping_ones(self):
        random = np.random.default_rng(0)
        corner = random.uniform(0, 15, (12, 2))
        boxes = np.concatenate([corner, corner + random.uniform(40, 60, (12, 2))], axis=1).astype(np.float32)
        scores = random.random((12, 2)).astype(np.float32)
        masks = random.random((12, 2, 21, 21)).astype(np.float32)
        kept, labels = np.array([4, 7]), np.array([1, 0])
        given = (torch.from_numpy(x) for x in (kept, labels, boxes, scores, masks))
        for found, row, label in zip(fcis.vote(*given).numpy(), kept, labels, strict=True):
            voters = [k for k in range(12) if iou(boxes[k], boxes[row]) > 0.5]
            assert len(voters) > 2
            seen = [seen_from(boxes[row], boxes[k], masks[k, label]) for k in voters]
            np.testing.assert_allclose(found, np.average(seen, axis=0, weights=scores[voters, label]), atol=1e-4)

    def test_perfect_maps_give_the_object_back(self, model):
        """Maps that say of any region that it is of class 2, and its four upper rows of cells the object's."""
        scores = torch.full((4, 7, 7, 10, 14), -10.0).repeat(2, 1, 1, 1, 1)
        scores[2, :4], scores[6, 4:] = 10, 10  # inside, outside
        outputs = {
            "scores": scores.flatten(0, 2)[None],
            "moves": torch.zeros(1, 4 * 49, 10, 14),
            "objectness": torch.zeros(1, 10 * 14 * 15),
            "deltas": torch.zeros(1, 10 * 14 * 15, 4),
        }
        (prediction,) = model.predict(outputs, [(160, 224)])
        found = prediction.instances
        assert len(found) > 0
        assert set(found.labels.tolist()) == {2}
        assert (found.scores > 0.99).all()
        best = found.boxes[0]
        rows = found.masks[0].any(axis=1).nonzero()[0]
        assert abs(rows.max() + 1 - (best[1] + 4 / 7 * (best[3] - best[1]))) < 0.1 * (best[3] - best[1])

    def test_nothing_but_background_is_nothing_found(self, model):
        scores = torch.zeros(2, 4, 49, 10, 14)
        scores[:, 0] = 20
        outputs = {
            "scores": scores.flatten(0, 2)[None],
            "moves": torch.zeros(1, 4 * 49, 10, 14),
            "objectness": torch.zeros(1, 10 * 14 * 15),
            "deltas": torch.zeros(1, 10 * 14 * 15, 4),
        }
        (prediction,) = model.predict(outputs, [(160, 200)])
        assert prediction.instances.masks.shape == (0, 160, 200)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    common = np.clip(sides, 0, None).prod()
    return common / ((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - common)


def seen_from(box: np.ndarray, voter: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The voter's mask at the middles of the box's cells, 0 beyond it."""
    around = np.pad(mask.astype(float), 1)
    found = np.zeros((21, 21))
    for row, column in np.ndindex(21, 21):
        place = box[:2] + (np.array([column, row]) + 0.5) / 21 * (box[2:] - box[:2])
        x, y = (place - voter[:2]) / (voter[2:] - voter[:2]) * 21 + 1
        if 0.5 < x < 22.5 and 0.5 < y < 22.5:
            found[row, column] = at(around, x, y)
    return found


def test_an_encoder_that_cannot_be_dilated_is_refused():
    with pytest.raises(ConfigError, match=r"model\.encoder: 'vgg11'"):
        FCIS(classes=classes_of(3), encoder=Choice("vgg11"), channels=16)


def test_a_dataset_without_things_is_refused():
    with pytest.raises(ConfigError, match="fcis finds things"):
        FCIS(classes=Classes(things=(), stuff=(0, 1)), encoder=Choice("test_resnet"), channels=16)
