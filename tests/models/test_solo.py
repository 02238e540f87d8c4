"""SOLO and SOLOv2: what they learn and find against loops over cells, their sizes against layers counted by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.errors import ConfigError
from pipelines.models.contract import Classes, InstanceTargets, Targets
from pipelines.models.encoders import Choice
from pipelines.models.instance.grids import GridModel
from pipelines.models.instance.solo import SOLO
from pipelines.models.instance.solov2 import SOLOv2
from tests.models.parity import classes_of, count, on_meta

CLASSES = Classes(things=(3, 7), stuff=(0, 1, 2))
GRIDS = (8, 6, 5, 4, 3)
CELLS = [g * g for g in GRIDS]
SIZE = 64
KINDS = {"solo": (SOLO, {}), "decoupled": (SOLO, {"decoupled": True}), "solov2": (SOLOv2, {})}


def build(kind: str) -> GridModel:
    """Small, and its masks not all alike; objects of 24 pixels and more are of the second level, too."""
    torch.manual_seed(0)
    model, options = KINDS[kind]
    built = model(classes=CLASSES, encoder=Choice("test_resnet"), channels=8, grids=GRIDS, scale=0.5, **options)
    with torch.no_grad():
        for name, value in built.named_parameters():
            if value.ndim == 4 and not name.startswith("encoder"):
                value.normal_(std=0.1)
    return built


@pytest.fixture(scope="module", params=KINDS)
def model(request) -> GridModel:
    return build(request.param)


def unused(logits: Tensor, labels: Tensor) -> Tensor:
    raise AssertionError("an instance model has no pixel loss")


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


def every_mask(model: GridModel, outputs: dict[str, Tensor], image: int, level: int) -> Tensor:
    """All masks of a level at once, as the papers draw the networks: a channel per cell, after scaling up."""
    if isinstance(model, SOLOv2):
        kernels = outputs["kernel"][image].split(CELLS)[level]
        return F.conv2d(outputs["features"][image : image + 1], kernels[:, :, None, None])[0].sigmoid()
    if f"x_{level}" in outputs:
        x, y = (outputs[f"{axis}_{level}"][image].sigmoid() for axis in "xy")
        return torch.stack([x[j] * y[i] for i in range(GRIDS[level]) for j in range(GRIDS[level])])
    features = outputs[f"mask_{level}"][image : image + 1]
    doubled = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
    return model.mask.cells[level](doubled)[0].sigmoid()


class TestMasks:
    def test_a_cell_s_mask_is_its_channel(self, model):
        outputs = model.eval()(torch.randn(2, 3, SIZE, 96))
        for level, grid in enumerate(GRIDS):
            whole = every_mask(model, outputs, 1, level)
            cells = torch.tensor([grid * grid - 1, 1, 0])
            assert whole.shape[0] == grid * grid
            assert whole.std(dim=0).max() > 1e-3
            torch.testing.assert_close(model.masks(outputs, 1, level, cells), whole[cells])

    def test_strides_of_masks_are_half_of_the_levels(self, model):
        outputs = model.eval()(torch.randn(1, 3, SIZE, 96))
        strides = [96 // model.masks(outputs, 0, level, torch.tensor([0])).shape[2] for level in range(5)]
        assert strides == ([4] * 5 if isinstance(model, SOLOv2) else [4, 4, 8, 16, 16])


def focal(logit: float, positive: bool) -> float:
    """arXiv 1708.02002, with alpha 0.25 and gamma 2."""
    p = 1 / (1 + math.exp(-logit))
    return -0.25 * (1 - p) ** 2 * math.log(p) if positive else -0.75 * p**2 * math.log(1 - p)


class TestLosses:
    def test_they_are_means_over_cells_that_own_an_object(self, model):
        """A box of 12 x 12 is for the first level alone, one of 32 x 28 for the first two. The centre regions are
        2.4 x 2.4 pixels around (10, 14) and 6.4 x 5.6 around (40, 36), the cells 8 and 10.67 pixels wide."""
        owned = {(0, 8 * 1 + 1): 0, (0, 8 * 4 + 4): 1, (0, 8 * 4 + 5): 1, (1, 6 * 3 + 3): 1, (1, 6 * 3 + 4): 1}
        boxes, labels = [[4, 8, 16, 20], [24, 22, 56, 50]], [7, 3]
        outputs = model.train()(torch.randn(2, 3, SIZE, SIZE))
        losses = model.losses(outputs, batch(truth([], []), truth(boxes, labels)), unused)
        logits = outputs["category"].detach().double()
        wanted = {(1, sum(CELLS[:level]) + cell, 1 - k) for (level, cell), k in owned.items()}
        category = sum(focal(logits[at].item(), at in wanted) for at in np.ndindex(*logits.shape))
        assert losses["classifier"].item() == pytest.approx(category / (len(owned) + 1), rel=1e-4)
        missed = []
        for (level, cell), k in owned.items():
            p = every_mask(model, outputs, 1, level)[cell].detach().double().numpy()
            x1, y1, x2, y2 = boxes[k]
            full = np.zeros((SIZE, SIZE))
            full[y1:y2, x1:x2] = 1
            step = SIZE // len(p)
            t = full.reshape(len(p), step, len(p), step).mean(axis=(1, 3))
            missed.append(1 - 2 * (p * t).sum() / ((p * p).sum() + (t * t).sum() + 0.002))
        assert losses["mask"].item() == pytest.approx(3 * np.mean(missed), rel=1e-4)

    def test_what_is_said_of_a_crowd_costs_nothing(self, model):
        outputs = model(torch.randn(1, 3, SIZE, SIZE))
        targets = batch(truth([[0, 0, SIZE, 32], [20, 40, 30, 50]], [3, 3], [True, False]))
        other = {**outputs, "category": outputs["category"].clone()}
        starts = [0, *np.cumsum(CELLS)]
        for grid, start in zip(GRIDS, starts, strict=False):
            other["category"][:, start : start + grid * (grid // 2)] += 3
        before, after = (model.losses(said, targets, unused) for said in (outputs, other))
        assert before == after
        other["category"][:, GRIDS[0] * GRIDS[0] - 1] += 3
        assert model.losses(other, targets, unused)["classifier"] > before["classifier"]

    @pytest.mark.parametrize(
        "given", [truth([], []), truth([[0, 0, SIZE, SIZE]], [3], [True]), truth([[9, 9, 9, 9]], [3])]
    )
    def test_without_an_object_every_weight_has_a_gradient(self, given):
        for model in map(build, KINDS):
            losses = model.train().losses(model(torch.randn(1, 3, SIZE, SIZE)), batch(given), unused)
            sum(losses.values()).backward()
            assert losses["mask"] == 0
            assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())

    def test_the_decoupled_one_learns(self):
        """The contract's test sees the other."""
        torch.manual_seed(0)
        model = SOLO(classes=CLASSES, encoder=Choice("test_resnet"), channels=16, grids=GRIDS, decoupled=True)
        targets = batch(truth([[4, 8, 16, 20], [24, 26, 56, 54]], [7, 3]))
        images = torch.randn(1, 3, SIZE, SIZE) + 2 * targets.instances[0].masks.any(dim=0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        history = []
        for _ in range(12):
            total = sum(model.losses(model(images), targets, unused).values())
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            history.append(total.item())
        assert history[-1] < 0.8 * history[0]


def drawn(said: dict[tuple[int, int], tuple[int, float, tuple[int, int, int, int]]]) -> dict[str, Tensor]:
    """SOLOv2's outputs: {(level, cell): (thing, probability, box in quarter pixels that the kernel draws)}."""
    side = SIZE // 4
    outputs = {
        "category": torch.full((1, sum(CELLS), 2), -9.0),
        "kernel": torch.zeros(1, sum(CELLS), 8),
        "features": torch.full((1, 8, side, side), -1.0),
    }
    for k, ((level, cell), (thing, probability, (x1, y1, x2, y2))) in enumerate(said.items()):
        at = sum(CELLS[:level]) + cell
        outputs["category"][0, at, thing] = math.log(probability / (1 - probability))
        outputs["kernel"][0, at, k] = 20
        outputs["features"][0, k, y1:y2, x1:x2] = 1
    return outputs


class TestPredictions:
    @pytest.fixture
    def model(self) -> GridModel:
        return build("solov2").eval()

    def test_what_is_drawn_is_found(self, model):
        said = {(0, 9): (0, 0.6, (1, 2, 5, 6)), (3, 5): (1, 0.9, (6, 4, 14, 16)), (1, 0): (0, 0.08, (8, 8, 12, 12))}
        (prediction,) = model.predict(drawn(said), [(SIZE, 50)])
        found = prediction.instances
        assert found.labels.tolist() == [7, 3]
        assert found.scores.tolist() == pytest.approx([0.9, 0.6], abs=1e-3)
        wanted = np.zeros((2, SIZE, 50), bool)
        wanted[0, 16:64, 24:56] = wanted[1, 8:24, 4:20] = True
        # Scaling up rounds the four corners off: by one pixel each.
        assert [(a ^ b).sum() <= 4 for a, b in zip(found.masks, wanted, strict=True)] == [True, True]
        assert found.boxes.tolist() == [[24, 16, 50, 64], [4, 8, 20, 24]]

    def test_the_less_sure_of_two_drawings_of_an_object_decays(self, model):
        """Cells of two levels draw boxes of 4 x 4 and 3 x 4; the same box as another class is no other drawing."""
        said = {(0, 9): (0, 0.9, (0, 0, 4, 4)), (1, 20): (0, 0.8, (0, 0, 3, 4)), (2, 0): (1, 0.7, (0, 0, 4, 4))}
        (prediction,) = model.predict(drawn(said), [(SIZE, SIZE)])
        found = prediction.instances
        assert found.labels.tolist() == [3, 7, 3]
        assert found.scores.tolist() == pytest.approx([0.9, 0.7, 0.8 * math.exp(-2 * 0.75**2)], abs=1e-3)

    def test_a_neighbour_that_is_less_sure_says_nothing(self, model):
        """Points NMS looks up, left and up-left: of (1, 1), (1, 2), (2, 1), (2, 2) and, apart, (4, 4)."""
        boxes = [(i, i, i + 2, i + 2) for i in range(5)]
        cells, sure = (9, 10, 17, 18, 36), (0.9, 0.8, 0.7, 0.6, 0.5)
        said = {(0, cell): (0, p, box) for cell, p, box in zip(cells, sure, boxes, strict=True)}
        (prediction,) = model.predict(drawn(said), [(SIZE, SIZE)])
        assert prediction.instances.scores.tolist() == pytest.approx([0.9, 0.5], abs=1e-3)

    def test_scores_are_those_of_the_class_times_those_of_the_mask(self, model):
        outputs = drawn({(0, 9): (0, 0.9, (2, 2, 6, 6))})
        outputs["kernel"][0, 9, 0] = math.log(3)  # a probability of 0.75 inside, and 0.25 outside
        (prediction,) = model.predict(outputs, [(SIZE, SIZE)])
        assert prediction.instances.scores.tolist() == pytest.approx([0.9 * 0.75], abs=1e-4)

    def test_what_lies_beyond_the_image_counts_for_nothing(self, model):
        """Within the image the two masks are the same; with what is beyond, they would overlap by half."""
        said = {(0, 9): (0, 0.9, (2, 2, 4, 6)), (1, 20): (0, 0.8, (2, 2, 6, 6))}
        (prediction,) = model.predict(drawn(said), [(SIZE, 16)])
        assert prediction.instances.scores.tolist() == pytest.approx([0.9, 0.8 * math.exp(-2)], abs=1e-3)

    def test_no_more_than_a_hundred_are_found(self):
        torch.manual_seed(0)
        many = SOLOv2(classes=CLASSES, encoder=Choice("test_resnet"), channels=8, grids=(40, 20, 5, 5, 5)).eval()
        outputs = {
            "category": torch.rand(1, 2075, 2),
            "kernel": torch.randn(1, 2075, 8),
            "features": torch.randn(1, 8, SIZE // 4, SIZE // 4),
        }
        (prediction,) = many.predict(outputs, [(SIZE, SIZE)])
        assert len(prediction.instances) == 100


RESNET50 = 25_557_032 - 2_049_000  # without its classifier
FPN = sum((inputs + 1) * 256 for inputs in (256, 512, 1024, 2048)) + 4 * (256 * 9 + 1) * 256


def convs(inputs: int, channels: int, depth: int) -> int:
    """3x3 without a bias, and a norm's scale and shift."""
    return inputs * 9 * channels + (depth - 1) * channels * 9 * channels + depth * 2 * channels


class TestSizes:
    """Those of the authors' configurations for COCO, of 80 classes: solo_r50_fpn_8gpu_1x,
    decoupled_solo_r50_fpn_8gpu_3x and solov2_r50_fpn_8gpu_1x."""

    GRIDS = (40, 36, 24, 16, 12)
    CATEGORY = convs(256, 256, 7) + (256 * 9 + 1) * 80

    def test_solo(self):
        mask = convs(258, 256, 7) + sum(grid**2 for grid in self.GRIDS) * 257
        assert count(on_meta(SOLO, classes=classes_of(81))) == RESNET50 + FPN + self.CATEGORY + mask == 36_301_232

    def test_decoupled(self):
        axis = convs(257, 256, 7) + sum(self.GRIDS) * (256 * 9 + 1)
        found = count(on_meta(SOLO, classes=classes_of(81), decoupled=True))
        assert found == RESNET50 + FPN + self.CATEGORY + 2 * axis == 40_028_560

    def test_solov2(self):
        category = convs(256, 512, 4) + (512 * 9 + 1) * 80
        kernel = convs(258, 512, 4) + (512 * 9 + 1) * 256
        features = 2 * convs(256, 128, 1) + convs(256, 128, 2) + convs(258, 128, 3) + 128 * 256 + 2 * 256
        found = count(on_meta(SOLOv2, classes=classes_of(81)))
        assert found == RESNET50 + FPN + category + kernel + features == 46_592_912


@pytest.mark.parametrize("kind", [SOLO, SOLOv2])
def test_a_dataset_without_things_is_refused(kind):
    with pytest.raises(ConfigError, match="stuff classes only"):
        kind(classes=Classes(things=(), stuff=(0, 1)), encoder=Choice("test_resnet"), channels=16)
