"""Panoptic-FPN: its branch and its loss against the paper's, its merging one pixel at a time."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines import losses
from pipelines.data.prediction import Instances
from pipelines.data.schema import IGNORE
from pipelines.errors import ConfigError
from pipelines.models.contract import Classes, InstanceTargets, Targets
from pipelines.models.encoders import Choice
from pipelines.models.instance.mask_rcnn import MaskRCNN
from pipelines.models.panoptic.panoptic_fpn import NEVER, PanopticFPN, SemanticBranch
from tests.models import parity
from tests.models.views import assert_they_agree

CLASSES = Classes(things=(3, 1), stuff=(4, 0, 2))
COCO = Classes(things=tuple(range(80)), stuff=tuple(range(80, 133)))
SIZE = 64


def build(**options) -> PanopticFPN:
    torch.manual_seed(0)
    return PanopticFPN(classes=CLASSES, encoder=Choice("test_resnet"), channels=16, **options)


@pytest.fixture(scope="module")
def model() -> PanopticFPN:
    return build().eval()


class TestBranch:
    def test_it_has_the_paper_s_layers(self):
        """Figure 3: 3, 2, 1 and again 1 convolutions from 256, then 128 channels; 53 classes of stuff and "other"."""
        branch = parity.on_meta(SemanticBranch, inputs=256, width=128, scores=54)
        convolutions = 4 * (9 * 256 * 128) + 3 * (9 * 128 * 128)
        norms = 7 * 2 * 128
        assert parity.count(branch) == convolutions + norms + 128 * 54 + 54
        whole = parity.on_meta(PanopticFPN, classes=COCO, encoder=Choice("resnet18"))
        instances = parity.on_meta(MaskRCNN, classes=COCO, encoder=Choice("resnet18"))
        assert parity.count(whole) == parity.count(instances) + parity.count(branch)
        assert [type(m).__name__ for m in branch.modules()].count("Upsample") == 3 + 2 + 1
        assert {m.num_groups for m in branch.modules() if isinstance(m, torch.nn.GroupNorm)} == {32}

    def test_it_is_its_steps(self):
        torch.manual_seed(0)
        branch = SemanticBranch(16, 8, 5).eval()
        for p in branch.parameters():
            torch.nn.init.normal_(p, std=0.3)
        values = iter(branch.parameters())
        pyramid = {f"p{i}": torch.randn(2, 16, 64 // 2**i, 96 // 2**i) for i in (2, 3, 4, 5)}
        total = torch.zeros(2, 8, 16, 24)
        for (_, x), convolutions in zip(pyramid.items(), (1, 1, 2, 3), strict=True):
            for _ in range(convolutions):
                x = F.relu(F.group_norm(F.conv2d(x, next(values), padding=1), 8, next(values), next(values)))
                if x.shape[-1] < 24:
                    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            total += x
        weight, bias = values
        torch.testing.assert_close(branch(pyramid), F.conv2d(total, weight, bias))


class TestLoss:
    """The paper's is the cross entropy of the stuff and one class for all things."""

    def scores(self, seed: int = 0) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        truth = torch.randint(0, 6, (2, 12, 16), generator=generator)
        return torch.randn(2, 4, 12, 16, generator=generator).requires_grad_(), truth.where(truth < 5, IGNORE)

    def in_the_paper(self, truth: Tensor) -> Tensor:
        """Positions among stuff and "other"."""
        table = torch.full((256,), len(CLASSES.stuff))
        table[list(CLASSES.stuff)] = torch.arange(len(CLASSES.stuff))
        table[IGNORE] = IGNORE
        return table[truth]

    def both(self, model: PanopticFPN, **loss) -> tuple[Tensor, Tensor, Tensor]:
        scores, truth = self.scores()
        pixel_loss = losses.build(loss, {"given": [1.0, 2.0, 3.0, 4.0, 5.0]})
        found = pixel_loss(model._of_all_classes(scores, truth), Targets(semantic=truth, instances=[]))
        return found, scores, truth

    def assert_equal(self, found: Tensor, wanted: Tensor, scores: Tensor) -> None:
        torch.testing.assert_close(found, wanted)
        ours, theirs = (torch.autograd.grad(value, scores, retain_graph=True)[0] for value in (found, wanted))
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)

    def test_cross_entropy_is_the_paper_s(self, model):
        found, scores, truth = self.both(
            model, cross_entropy={"weight": 1.0, "class_weights": "none", "label_smoothing": 0.0}
        )
        self.assert_equal(found, F.cross_entropy(scores, self.in_the_paper(truth), ignore_index=IGNORE), scores)

    def test_each_class_has_its_own_weight(self, model):
        found, scores, truth = self.both(
            model, cross_entropy={"weight": 1.0, "class_weights": "given", "label_smoothing": 0.0}
        )
        entropy = F.cross_entropy(scores, self.in_the_paper(truth), ignore_index=IGNORE, reduction="none")
        weights = (truth + 1.0) * (truth != IGNORE)
        self.assert_equal(found, (weights * entropy).sum() / weights.sum(), scores)

    def test_focal_is_that_of_the_paper_s_classes(self, model):
        found, scores, truth = self.both(model, focal={"weight": 1.0, "class_weights": "none", "gamma": 2.0})
        wanted = self.in_the_paper(truth)
        entropy = F.cross_entropy(scores, wanted, ignore_index=IGNORE, reduction="none")
        self.assert_equal(found, ((1 - (-entropy).exp()) ** 2 * entropy).sum() / (wanted != IGNORE).sum(), scores)

    def test_smoothed_labels_ask_nothing_of_what_cannot_be(self, model):
        """Per class 0.02 is expected: of the stuff each its own; where a thing is, of that one, elsewhere of both."""
        found, scores, truth = self.both(
            model, cross_entropy={"weight": 1.0, "class_weights": "none", "label_smoothing": 0.1}
        )
        logs, places = scores.log_softmax(dim=1), self.in_the_paper(truth)
        known, thing = places != IGNORE, (truth == 1) | (truth == 3)
        own = logs.gather(1, places.where(known, 0).unsqueeze(1))[:, 0]
        shared = logs[:, :3].sum(dim=1) + torch.where(thing, logs[:, 3] - NEVER, 2 * (logs[:, 3] - math.log(2)))
        wanted = -((0.9 * own + 0.02 * shared) * known).sum() / known.sum()
        self.assert_equal(found, wanted, scores)

    @pytest.mark.parametrize(
        "loss", [{"dice": {"weight": 1.0, "squared": False}}, {"lovasz": {"weight": 1.0}}, {"jaccard": {"weight": 1.0}}]
    )
    def test_losses_on_regions_are_0_when_all_is_right(self, model, loss):
        _, truth = self.scores()
        wanted = self.in_the_paper(truth)
        right = 40 * F.one_hot(wanted.where(wanted != IGNORE, 0), 4).movedim(-1, 1).float()
        targets = Targets(semantic=truth, instances=[])
        assert losses.build(loss)(model._of_all_classes(right, truth), targets) < 1e-4
        assert losses.build(loss)(model._of_all_classes(-right, truth), targets) > 0.9

    def test_it_weighs_half_of_mask_rcnn_s(self, model):
        outputs, instances = model(torch.randn(1, 3, SIZE, SIZE)), one_thing()
        pixel_loss = losses.build({"dice": {"weight": 1.0, "squared": False}})
        torch.manual_seed(1)
        found = model.losses(outputs, instances, pixel_loss)
        torch.manual_seed(1)
        theirs = model.mask_rcnn.losses(outputs, instances, pixel_loss)
        every = model._of_all_classes(outputs["semantic"], instances.semantic)
        torch.testing.assert_close(found, {**theirs, "semantic": 0.5 * pixel_loss(every, instances)})


def one_thing() -> Targets:
    masks = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    masks[0, 10:40, 8:50] = True
    one = InstanceTargets(
        masks=masks,
        labels=torch.tensor([3]),
        boxes=torch.tensor([[8.0, 10, 50, 40]]),
        iscrowd=torch.tensor([False]),
    )
    return Targets(semantic=torch.where(masks, 3, 0), instances=[one])


class TestPredictions:
    def test_things_are_the_instances_and_stuff_the_branch_s(self):
        """Of an untrained network, whose every instance is kept that finds room."""
        model = build(min_score=0.0, max_overlap=0.5, min_stuff=0.0).eval()
        size = (50, 61)
        with torch.no_grad():
            outputs = model(torch.randn(1, 3, SIZE, SIZE))
            outputs["semantic"] = F.interpolate(torch.randn(1, 4, 6, 6) * 3, (SIZE, SIZE), mode="bilinear")
            (instances,) = (p.instances for p in model.mask_rcnn.predict(outputs, [size]))
            (found,) = model.predict(outputs, [size])
        assert_they_agree(found, CLASSES, size)
        assert len(found.instances) > 3
        best = outputs["semantic"][0].argmax(dim=0)[:50, :61].numpy()
        owner = np.full(size, -1)
        for row in range(len(instances)):  # they come most certain first
            free = instances.masks[row] & (owner < 0)
            if free.sum() >= 0.5 * instances.masks[row].sum():
                owner[free] = row
        for y, x in np.ndindex(size):
            k, label = found.panoptic.ids[y, x], found.semantic[y, x]
            if owner[y, x] >= 0:
                assert label == found.panoptic.labels[k - 1] == instances.labels[owner[y, x]]
            elif best[y, x] < 3:
                assert label == found.panoptic.labels[k - 1] == CLASSES.stuff[best[y, x]]
            else:
                assert k == 0
                assert label in CLASSES.things

    def test_other_is_the_most_certain_thing_that_covers_it(self, model):
        masks = np.zeros((3, 4, 6), bool)
        masks[0, :2], masks[1, 1:3], masks[2, :, 0] = True, True, True
        instances = Instances(
            masks=masks,
            labels=np.array([3, 1, 3]),
            scores=np.float32([0.2, 0.4, 0.1]),
            boxes=np.zeros((3, 4), np.float32),
        )
        scores = torch.zeros(4, 4, 6)
        scores[3, :, :5] = 1
        scores[1, :, 5] = 1
        found = model._semantic(scores, instances)
        assert found[:, 5].tolist() == [0] * 4
        assert found[:, 0].tolist() == [3, 1, 1, 3]
        assert found[:, 1].tolist() == [3, 1, 1, 1]
        nobody = Instances(
            masks=masks[:0], labels=np.zeros(0, np.int64), scores=instances.scores[:0], boxes=instances.boxes[:0]
        )
        assert model._semantic(scores, nobody).tolist() == [[3] * 5 + [0]] * 4


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (Classes(things=(), stuff=(0, 1)), "stuff classes only(.|\n)*task: semantic"),
        (Classes(things=(0, 1), stuff=()), "things only(.|\n)*task: instance"),
    ],
)
def test_a_dataset_without_either_is_refused(classes, message):
    with pytest.raises(ConfigError, match=message):
        PanopticFPN(classes=classes, encoder=Choice("test_resnet"), channels=16)
