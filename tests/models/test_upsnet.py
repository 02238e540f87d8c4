"""UPSNet: its semantic head against the authors' layers, its panoptic head against the paper's equations."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou, roi_align

from pipelines import losses
from pipelines.data.prediction import Instances
from pipelines.data.schema import IGNORE
from pipelines.errors import ConfigError
from pipelines.models.contract import Classes, InstanceTargets, Targets
from pipelines.models.encoders import Choice
from pipelines.models.instance import truths
from pipelines.models.instance.mask_rcnn import MaskRCNN
from pipelines.models.panoptic import upsnet
from pipelines.models.panoptic.panoptic_head import VOID, panoptic_scores, panoptic_truth, split, thin
from pipelines.models.panoptic.upsnet import Deformable, SemanticHead, UPSNet, region_loss
from tests.models import parity
from tests.models.views import assert_they_agree

CLASSES = Classes(things=(3, 1), stuff=(4, 0, 2))
THINGS, STUFF = list(CLASSES.things), list(CLASSES.stuff)
COCO = Classes(things=tuple(range(80)), stuff=tuple(range(80, 133)))
SIZE = 64
PIXEL_LOSS = losses.build({"cross_entropy": {"weight": 1.0, "class_weights": "none", "label_smoothing": 0.0}})


def build(classes: Classes = CLASSES, **options) -> UPSNet:
    torch.manual_seed(0)
    return UPSNet(classes=classes, encoder=Choice("test_resnet"), channels=16, **options)


@pytest.fixture(scope="module")
def model() -> UPSNet:
    return build().eval()


class TestSemanticHead:
    def test_it_has_the_authors_layers(self):
        """Three deformable ones, 256, 128 and 128 wide, shared; offsets by 3x3; 4 x 128 channels scored 133 times."""
        head = parity.on_meta(SemanticHead, inputs=256, width=128, classes=133)
        convolutions = 9 * (256 * 256 + 256 * 128 + 128 * 128)
        offsets = sum(9 * inputs * 18 + 18 for inputs in (256, 256, 128))
        norms = 2 * (256 + 128 + 128)
        assert parity.count(head) == convolutions + offsets + norms + 512 * 133 + 133
        whole = parity.on_meta(UPSNet, classes=COCO, encoder=Choice("resnet18"))
        instances = parity.on_meta(MaskRCNN, classes=COCO, encoder=Choice("resnet18"))
        assert parity.count(whole) == parity.count(instances) + parity.count(head)

    def test_it_is_its_steps_and_looks_straight_at_first(self):
        torch.manual_seed(0)
        head = SemanticHead(16, 8, 5)
        pyramid = [torch.randn(2, 16, 64 // 2**i, 96 // 2**i) for i in (2, 3, 4, 5)]
        levels = []
        for x in pyramid:
            for layer in head.shared:
                norm = layer.norm
                x = F.conv2d(x, layer.conv.weight, padding=1)
                x = F.relu(F.group_norm(x, norm.num_groups, norm.weight, norm.bias))
            levels.append(F.interpolate(x, (16, 24), mode="bilinear", align_corners=False))
        wanted = F.conv2d(torch.cat(levels, dim=1), head.classify.weight, head.classify.bias)
        torch.testing.assert_close(head(pyramid), wanted, atol=1e-5, rtol=1e-5)

    def test_it_looks_where_its_offsets_point(self):
        torch.manual_seed(0)
        layer, x = Deformable(4, 6), torch.randn(1, 4, 12, 16)
        before = layer(x)
        offset = layer.offset.bias.detach()
        offset.view(9, 2)[:] = torch.tensor([2.0, -3.0])  # two rows below, three columns to the left
        norm = layer.norm
        shifted = F.pad(x, (3, 0, 0, 2))[:, :, 2:, :16]
        plain = layer.conv(x, layer.offset(x))
        torch.testing.assert_close(plain[:, :, 1:-1, 1:-1], F.conv2d(shifted, layer.conv.weight), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(layer(x), F.relu(F.group_norm(plain, 2, norm.weight, norm.bias)))
        assert not torch.allclose(before, layer(x))

    def test_offsets_learn(self):
        layer = Deformable(4, 6)
        layer(torch.randn(1, 4, 12, 16)).square().sum().backward()
        assert layer.offset.weight.grad.abs().sum() > 0


def by_the_paper(stuff: Tensor, things: Tensor, boxes: list[list[int]], labels: list[int], masks: Tensor) -> Tensor:
    """Boxes of whole pixels: the logits of the mask scaled to each as an image is."""
    crops, scaled = torch.zeros(2, len(boxes), *stuff.shape[-2:])
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        crops[i, y1:y2, x1:x2] = things[labels[i], y1:y2, x1:x2]
        scaled[i, y1:y2, x1:x2] = F.interpolate(masks[i][None, None], (y2 - y1, x2 - x1), mode="bilinear")[0, 0]
    unknown = things.max(dim=0).values - crops.max(dim=0).values
    return torch.cat([stuff, crops + scaled, unknown[None]])


class TestScores:
    def given(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        torch.manual_seed(0)
        boxes = torch.tensor([[3, 4, 30, 20], [10, 0, 40, 32], [0, 0, 2, 3], [5, 8, 33, 36]])
        return torch.randn(3, 32, 40), torch.randn(2, 32, 40), boxes, torch.tensor([1, 0, 0, 1]), torch.randn(4, 28, 28)

    def test_they_are_the_paper_s(self):
        stuff, things, boxes, labels, masks = self.given()
        boxes, labels, masks = boxes[:3], labels[:3], masks[:3]
        found = panoptic_scores((stuff, things), boxes.float(), labels, masks)
        wanted = by_the_paper(stuff, things, boxes.tolist(), labels.tolist(), masks)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)

    def test_a_fourth_of_the_size_is_every_fourth_place(self):
        """What linear interpolation gives between the pixels of the full size, two by two around each place."""
        stuff, things, boxes, labels, masks = self.given()
        boxes = (boxes * 4).float()
        fine = panoptic_scores(
            (F.interpolate(stuff[None], scale_factor=4)[0], F.interpolate(things[None], scale_factor=4)[0]),
            boxes, labels, masks.new_zeros(4, 28, 28),
        )  # fmt: skip
        coarse = panoptic_scores((stuff, things), boxes, labels, masks.new_zeros(4, 28, 28), step=4)
        torch.testing.assert_close(coarse, fine[:, 2::4, 2::4])
        masks = torch.arange(28.0).expand(1, 28, 28)  # the column
        coarse = panoptic_scores((stuff, things * 0), torch.tensor([[4.0, 4, 116, 116]]), labels[:1], masks, step=4)
        torch.testing.assert_close(coarse[3, 1:29, 1:29], masks[0])

    def test_a_band_of_rows_is_part_of_the_whole(self):
        stuff, things, boxes, labels, masks = self.given()
        whole = panoptic_scores((stuff, things), boxes.float(), labels, masks)
        part = panoptic_scores((stuff[:, 9:23], things[:, 9:23]), boxes.float(), labels, masks, top=9)
        torch.testing.assert_close(part, whole[:, 9:23])

    def test_without_instances_things_are_unknown(self):
        stuff, things, boxes, labels, masks = self.given()
        found = panoptic_scores((stuff, things), boxes[:0].float(), labels[:0], masks[:0])
        assert torch.equal(found, torch.cat([stuff, things.amax(dim=0, keepdim=True)]))


def truth_of(seed: int, count: int, size: int = SIZE) -> tuple[Tensor, InstanceTargets]:
    """Overlapping boxes, every third a crowd; some pixels ignored, and things without an instance."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, size - 6, (count, 2))
    opposite = np.minimum(corner + rng.integers(5, 30, (count, 2)), size)
    labels = torch.from_numpy(rng.choice(THINGS, count)).long()
    masks = torch.zeros(count, size, size, dtype=torch.bool)
    semantic = torch.from_numpy(np.kron(rng.choice([*STUFF, *STUFF, IGNORE, 1], (8, 8)), np.ones((8, 8), np.int64)))
    for mask, label, (x1, y1), (x2, y2) in reversed(list(zip(masks, labels, corner, opposite, strict=True))):
        mask[y1:y2, x1:x2] = True
        semantic[mask] = label
    boxes = torch.from_numpy(np.concatenate([corner, opposite], axis=1)).float()
    return semantic, InstanceTargets(masks=masks, labels=labels, boxes=boxes, iscrowd=torch.arange(count) % 3 == 2)


class TestTruth:
    @pytest.mark.parametrize("seed", range(4))
    def test_it_is_its_definition(self, seed):
        semantic, targets = truth_of(seed, 7)
        truth = truths.of(targets, CLASSES.things)
        shown = torch.tensor([4, 0, 2])
        found = panoptic_truth(semantic, truth, shown, torch.tensor(STUFF), step=4)
        for i, j in np.ndindex(16, 16):
            y, x = 4 * i + 2, 4 * j + 2
            front = [k for k in range(len(truth)) if truth.masks[k, y, x]]
            if front:
                wanted = 3 + shown.tolist().index(front[0]) if front[0] in shown else 6
            elif truth.crowd[y, x] or semantic[y, x] == IGNORE:
                wanted = VOID
            else:
                wanted = STUFF.index(int(semantic[y, x])) if semantic[y, x] in STUFF else 6
            assert found[i, j] == wanted
        assert set(found.unique().tolist()) >= {VOID, 0, 1, 2, 6}

    def test_three_of_ten_are_unknown_in_training(self):
        model, device = build(), torch.device("cpu")
        torch.manual_seed(0)
        for count, wanted in [(0, 0), (1, 1), (2, 1), (10, 7), (300, 210)]:
            rows = model.train()._shown(count, device)
            assert len(rows) == len(rows.unique()) == wanted
        assert set(torch.cat([model._shown(10, device) for _ in range(30)]).tolist()) == set(range(10))
        assert model.eval()._shown(10, device).tolist() == list(range(10))


class TestLosses:
    def test_the_panoptic_one_is_its_definition(self, model):
        torch.manual_seed(0)
        pairs = [truth_of(5, 7), truth_of(6, 4)]
        targets = Targets(semantic=torch.stack([s for s, _ in pairs]), instances=[t for _, t in pairs])
        with torch.no_grad():
            outputs = model(torch.randn(2, 3, SIZE, SIZE))
            found = model.losses(outputs, targets, PIXEL_LOSS)
            total = pixels = 0
            for i, (semantic, given) in enumerate(pairs):
                truth = truths.of(given, CLASSES.things)
                alone = {name: v[i : i + 1] for name, v in outputs.items()}
                masks = model.mask_rcnn._masks(alone, [truth.boxes], truth.labels + 1)
                scores = outputs["semantic"][i]
                logits = panoptic_scores((scores[STUFF], scores[THINGS]), truth.boxes, truth.labels, masks, step=4)
                wanted = panoptic_truth(semantic, truth, torch.arange(len(truth)), torch.tensor(STUFF), step=4)
                logs = logits.log_softmax(dim=0)
                for y, x in (wanted != VOID).nonzero().tolist():
                    total, pixels = total - logs[wanted[y, x], y, x], pixels + 1
        torch.testing.assert_close(found["panoptic"], 0.1 * total / pixels)
        torch.testing.assert_close(
            found["semantic"],
            0.2 * PIXEL_LOSS(F.interpolate(outputs["semantic"], (SIZE, SIZE), mode="bilinear"), targets),
        )

    def test_scoring_regions_is_pooling_features_and_scoring_them(self):
        """The authors pool the 4 x 128 channels; truth is cut out by the nearest pixel."""
        torch.manual_seed(0)
        head = SemanticHead(16, 8, 5)
        features, (semantic, given) = torch.randn(1, 32, 16, 16), truth_of(1, 5)
        pooled = F.conv2d(
            roi_align(features, [given.boxes], 28, 0.25, sampling_ratio=2, aligned=True),
            head.classify.weight, head.classify.bias,
        )  # fmt: skip
        labels = torch.empty(5, 28, 28, dtype=torch.int64)
        for k, (x1, y1, x2, y2) in enumerate(given.boxes.tolist()):
            for i, j in np.ndindex(28, 28):
                labels[k, i, j] = semantic[int(y1 + (i + 0.5) * (y2 - y1) / 28), int(x1 + (j + 0.5) * (x2 - x1) / 28)]
        wanted = PIXEL_LOSS(pooled, Targets(semantic=labels, instances=[]))
        targets = Targets(semantic=semantic[None], instances=[given])
        torch.testing.assert_close(region_loss(head.classify(features), targets, [given.boxes], PIXEL_LOSS), wanted)

    def test_the_border_map_goes_where_the_truth_goes(self):
        semantic, given = truth_of(1, 5)
        border = (semantic * 2.0)[None]

        def check(logits: Tensor, targets: Targets) -> Tensor:
            assert torch.equal(targets.border, targets.semantic * 2.0)
            return logits.sum()

        targets = Targets(semantic=semantic[None], instances=[given], border=border)
        region_loss(torch.randn(1, 5, 16, 16), targets, [given.boxes], check)

    def test_more_instances_than_a_byte_can_number_are_all_learned_from(self, model):
        corner = torch.stack(torch.meshgrid(torch.arange(0, 64, 4), torch.arange(0, 64, 4), indexing="xy"), dim=2)
        boxes = torch.cat([corner.reshape(-1, 2), corner.reshape(-1, 2) + 4], dim=1)
        masks = torch.zeros(256, SIZE, SIZE, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
            mask[y1:y2, x1:x2] = True
        truth = truths.Truth(
            boxes=boxes.float(), labels=torch.zeros(256).long(), masks=masks, crowd=torch.zeros(SIZE, SIZE) > 0
        )
        semantic = torch.full((SIZE, SIZE), 3)
        found = panoptic_truth(semantic, truth, torch.arange(256), torch.tensor(STUFF), step=4)
        assert torch.equal(found.flatten(), torch.arange(3, 259))


class TestPredictions:
    def untrained(self, seed: int) -> tuple[dict[str, Tensor], UPSNet]:
        model = build(min_score=0.0, min_stuff=0.0).eval()
        torch.manual_seed(seed)
        with torch.no_grad():
            outputs = model(torch.randn(1, 3, SIZE, SIZE))
        outputs["semantic"] = 3 * F.interpolate(torch.randn(1, 5, 4, 4), (16, 16), mode="bilinear")
        return outputs, model

    @pytest.mark.parametrize("seed", range(3))
    def test_instances_are_thinned_by_boxes_and_by_masks_of_their_class(self, seed):
        outputs, model = self.untrained(seed)
        found = model.mask_rcnn.predict(outputs, [(SIZE, SIZE)])[0].instances
        floor = float(np.median(found.scores))
        apart, canvas, wanted = [], np.zeros((5, SIZE, SIZE), bool), []
        for k in range(len(found)):
            boxes = torch.from_numpy(found.boxes)
            if found.scores[k] >= floor and not any(box_iou(boxes[k, None], boxes[m, None]) > 0.5 for m in apart):
                apart.append(k)
        for k in apart:
            own = canvas[found.labels[k]]
            if (own & found.masks[k]).sum() / found.masks[k].sum() <= 0.3 and not (found.masks[k] <= own).all():
                own |= found.masks[k]
                wanted.append(k)
        assert sorted(thin(found, floor, 0.3).tolist()) == wanted
        assert 2 < len(wanted) < len(apart) < len(found)

    @pytest.mark.parametrize("band", [2**25, 64 * 30])
    def test_each_pixel_has_the_best_score(self, band, monkeypatch):
        monkeypatch.setattr(upsnet, "BAND", band)
        outputs, model = self.untrained(0)
        size = (50, 61)
        with torch.no_grad():
            (prediction,) = model.predict(outputs, [size])
            found = model.mask_rcnn.predict(outputs, [size])[0].instances
            rows = thin(found, 0.0, 0.3)
            boxes = torch.from_numpy(found.boxes[rows])
            labels = torch.tensor([THINGS.index(c) for c in found.labels[rows]])
            masks = model.mask_rcnn._masks(outputs, [boxes], labels + 1)
            scores = F.interpolate(outputs["semantic"], (SIZE, SIZE), mode="bilinear")[0, :, :50, :61]
            best = panoptic_scores((scores[STUFF], scores[THINGS]), boxes, labels, masks).argmax(dim=0).numpy()
        assert_they_agree(prediction, CLASSES, size)
        semantic, whole, shown = scores.argmax(dim=0).numpy(), prediction.panoptic, 0
        for place in np.unique(best).tolist():
            pixels, names = best == place, np.append(0, whole.labels)[whole.ids]
            if place < 3:
                assert (names[pixels] == STUFF[place]).all()
            elif place == 3 + len(rows):
                assert not whole.ids[pixels].any()
                assert (prediction.semantic[pixels] == semantic[pixels]).all()
            else:
                votes = np.bincount(semantic[pixels], minlength=5)
                stuff = votes.max() > 0.5 * votes.sum() and votes.argmax() in STUFF
                assert (names[pixels] == (votes.argmax() if stuff else THINGS[labels[place - 3]])).all()
                shown += not stuff
        assert shown == len(prediction.instances) > 1
        assert 3 + len(rows) in best

    def test_an_instance_that_is_mostly_one_stuff_becomes_it(self):
        owner = np.array([[3, 3, 3, 3], [4, 4, 4, 4], [5, 5, 6, 0]])
        semantic = np.array([[4, 4, 4, 1], [2, 2, 1, 1], [1, 1, 1, 4]])
        ids, rest = split(owner, semantic, 3, (4, 0, 2))
        assert ids.tolist() == [[0, 0, 0, 0], [2, 2, 2, 2], [3, 3, 0, 0]]
        assert rest[0].tolist() == [4, 4, 4, 4]
        assert rest[2, 2:].tolist() == [IGNORE, 4]
        assert ids.dtype == np.int32

    def test_no_instance_is_thinned_to_none(self):
        nobody = Instances(
            masks=np.zeros((0, 4, 4), bool),
            labels=np.zeros(0, np.int64),
            scores=np.zeros(0, np.float32),
            boxes=np.zeros((0, 4), np.float32),
        )
        assert thin(nobody, 0.5, 0.3).tolist() == []

    def test_a_dataset_without_stuff_is_one_of_things(self):
        classes = Classes(things=(0, 1), stuff=())
        model = build(classes, min_score=0.0)
        semantic, given = torch.zeros(1, SIZE, SIZE, dtype=torch.int64), truth_of(0, 3)[1]
        given = InstanceTargets(masks=given.masks, labels=given.labels % 2, boxes=given.boxes, iscrowd=given.iscrowd)
        outputs = model(torch.randn(1, 3, SIZE, SIZE))
        found = model.losses(outputs, Targets(semantic=semantic, instances=[given]), PIXEL_LOSS)
        assert all(value.isfinite() for value in found.values())
        assert_they_agree(model.eval().predict(outputs, [(SIZE, SIZE)])[0], classes, (SIZE, SIZE))


def test_a_dataset_without_things_is_refused():
    with pytest.raises(ConfigError, match="stuff classes only"):
        build(Classes(things=(), stuff=(0, 1)))
