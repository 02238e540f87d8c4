"""Mask2Former: its size against the paper's, its parts against PyTorch's, its losses and merging against their
definitions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.data.schema import IGNORE
from pipelines.errors import ConfigError
from pipelines.models.contract import Classes, InstanceTargets, Targets
from pipelines.models.encoders import Choice
from pipelines.models.panoptic import mask_set
from pipelines.models.panoptic.mask2former import (
    OBJECT,
    OVERLAP,
    Mask2Former,
    Mask2FormerInstance,
    Mask2FormerSemantic,
    merge,
)
from pipelines.models.panoptic.mask_set import Segments
from pipelines.models.panoptic.masked_decoder import HEADS, Attention, inside
from pipelines.models.transformer import positions
from tests.models.parity import assert_equal, count, on_meta

SIZE = 64
CLASSES = Classes(things=(1, 3), stuff=(0, 2, 4))
TASKS = [Mask2Former, Mask2FormerInstance, Mask2FormerSemantic]


def unused(logits: Tensor, targets: Targets) -> Tensor:
    raise AssertionError("the losses are masks' and classes'")


def small(kind: type, **options):
    torch.manual_seed(0)
    return kind(classes=CLASSES, encoder=Choice("test_resnet"), channels=16, **{"queries": 12, "layers": 3, **options})


class TestSize:
    def test_parameters_are_the_paper_s(self):
        """Table 1 of arXiv 2112.01527, COCO's 133 classes and ResNet-50: 44M. By hand, of 256 channels: c = 256."""
        model = on_meta(Mask2Former, classes=Classes(things=tuple(range(80)), stuff=tuple(range(80, 133))))
        c = 256
        linear, norm = c * c + c, 2 * c
        feed = {inner: (c * inner + inner) + (inner * c + c) + norm for inner in (1024, 2048)}
        # Offsets: 8 heads, 3 levels, 4 points, x and y; weights: one for each of them.
        deformable = (c * 192 + 192) + (c * 96 + 96) + 2 * linear
        inputs = (512 + 1024 + 2048) * c + 3 * (c + norm)
        fine = (256 * c + norm) + (9 * c * c + norm) + linear
        assert count(model.pixel_decoder) == inputs + 3 * c + 6 * (deformable + norm + feed[1024]) + fine
        layer = 2 * (4 * linear + norm) + feed[2048]
        assert count(model.decoder) == (2 * 100 + 3) * c + 9 * layer + norm + (c * 134 + 134) + 3 * linear
        assert round(count(model) / 1e6) == 44

    def test_options_are_the_decoder_s(self):
        model = on_meta(Mask2Former, classes=CLASSES, queries=7, layers=4)
        assert len(model.decoder.layers) == 4
        assert model.decoder.start.shape == model.decoder.names.shape == (7, 256)

    def test_layers_see_the_scales_in_turn_from_the_coarsest(self):
        model, seen = small(Mask2Former, layers=7), []
        for layer in model.decoder.layers:
            layer.register_forward_pre_hook(lambda _, given: seen.append(given[2].shape[1]))
        model(torch.randn(2, 3, 64, 96))
        coarsest = 2 * 3
        assert seen == [coarsest * 4 ** (i % 3) for i in range(7)]


class TestAttention:
    def test_it_is_pytorch_s(self):
        torch.manual_seed(0)
        ours, theirs = Attention(16), nn.MultiheadAttention(16, HEADS, batch_first=True)
        parts = (ours.query, ours.key, ours.value)
        for layer in (*parts, ours.project):
            nn.init.normal_(layer.bias)
        with torch.no_grad():
            theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
            theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        theirs.out_proj.load_state_dict(ours.project.state_dict())
        x, names, cells, places = (torch.randn(2, n, 16) for n in (5, 5, 30, 30))
        seen = torch.rand(2, 5, 30) < 0.3
        seen[:, :, 0] = True
        mask = ~seen.repeat_interleave(HEADS, dim=0)
        wanted, _ = theirs(x + names, cells + places, cells, attn_mask=mask)
        assert_equal(ours(x, names, cells, places, seen[:, None]), ours.norm(x + wanted))

    def test_an_empty_mask_may_look_everywhere(self):
        logits = torch.tensor([[[-1.0, 2, -3], [-1, -1, -1], [0, 1, 2]]])
        assert inside(logits).tolist() == [[[False, True, False], [True, True, True], [True, True, True]]]

    def test_positions_are_the_formula_s(self):
        """Sines at even and cosines at odd channels, of 2 pi times the share of the map; rows first."""
        found = positions(torch.zeros(1, 16, 3, 5))[0].double().numpy()
        for channel in range(8):
            wave = np.cos if channel % 2 else np.sin
            frequency = 10000.0 ** -(2 * (channel // 2) / 8)
            for y in range(3):
                for x in range(5):
                    assert found[channel, y, x] == pytest.approx(wave(2 * np.pi * (y + 1) / 3 * frequency), abs=1e-5)
                    assert found[8 + channel, y, x] == pytest.approx(
                        wave(2 * np.pi * (x + 1) / 5 * frequency), abs=1e-5
                    )


def scene() -> Targets:
    """Four stripes of 16 columns: thing 3, stuff 0, thing 1, stuff 4. Corners would be rounded."""
    semantic = torch.tensor([3, 0, 1, 4]).repeat_interleave(16).expand(1, SIZE, SIZE).clone()
    masks = torch.cat([semantic == 3, semantic == 1])
    things = InstanceTargets(
        masks=masks,
        labels=torch.tensor([3, 1]),
        boxes=torch.tensor([[0.0, 0, 16, SIZE], [32, 0, 48, SIZE]]),
        iscrowd=torch.tensor([False, False]),
    )
    return Targets(semantic=semantic, instances=[things])


def with_crowd(targets: Targets) -> Targets:
    """The second thing a crowd, and a stripe of nothing known."""
    (things,), semantic = targets.instances, targets.semantic.clone()
    semantic[0, 52:], things.masks[0, 52:] = IGNORE, False
    crowd = InstanceTargets(
        masks=things.masks, labels=things.labels, boxes=things.boxes, iscrowd=torch.tensor([False, True])
    )
    return Targets(semantic=semantic, instances=[crowd])


def outputs_of(masks: Tensor, columns: Tensor, classes: int, queries: int = 6) -> dict[str, Tensor]:
    """What a model without fault puts out: the first queries are the segments, the others no object."""
    n = len(masks)
    cells = masks[:, 2::4, 2::4].float() * 40 - 20
    logits = torch.zeros(queries, classes + 1)
    logits[torch.arange(queries), F.pad(columns, (0, queries - n), value=classes)] = 20
    embeddings = torch.zeros(queries, n)
    embeddings[:n] = torch.eye(n)
    embeddings[n:] = -1 / n
    return {"classes": logits[None, None], "embeddings": embeddings[None, None], "pixels": cells[None]}


def perfect(model, targets: Targets) -> dict[str, Tensor]:
    truth = model.truth(targets, 0)
    return outputs_of(truth.masks, truth.labels, len(model.labels))


class TestPerfectOutputs:
    def test_panoptic(self):
        model, targets = small(Mask2Former), scene()
        (found,) = model.predict(perfect(model, targets), [(SIZE, 50)])
        semantic = targets.semantic[0, :, :50].numpy()
        np.testing.assert_array_equal(found.semantic, semantic)
        assert (found.confidence[:, 4:12] > 0.99).all()
        assert ((found.confidence > 0.4) & (found.confidence <= 1)).all()
        np.testing.assert_array_equal(found.panoptic.labels[found.panoptic.ids - 1], semantic)
        assert sorted(found.panoptic.labels.tolist()) == [0, 1, 3, 4]
        for label, mask, score in zip(
            found.instances.labels, found.instances.masks, found.instances.scores, strict=True
        ):
            if score > 0.5:
                np.testing.assert_array_equal(mask, semantic == label)
        assert (found.instances.scores > 0.99).sum() == 2

    def test_instances(self):
        model, targets = small(Mask2FormerInstance), scene()
        (found,) = model.predict(perfect(model, targets), [(SIZE, SIZE)])
        best = found.instances.scores > 0.99
        assert found.instances.labels[best].tolist() == [3, 1]
        np.testing.assert_array_equal(found.instances.masks[best], targets.instances[0].masks.numpy())

    def test_semantic(self):
        model, targets = small(Mask2FormerSemantic).eval(), scene()
        outputs = perfect(model, targets)
        model.decoder.forward = lambda scales, pixels: (outputs["classes"], outputs["embeddings"])
        model.pixel_decoder.forward = lambda features: (outputs["pixels"], [])
        given = model(torch.zeros(1, 3, SIZE, SIZE))
        torch.testing.assert_close(given["semantic"].exp().sum(dim=1), torch.ones(1, SIZE, SIZE))
        (found,) = model.predict(given, [(SIZE, SIZE)])
        np.testing.assert_array_equal(found.semantic, targets.semantic[0].numpy())

    @pytest.mark.parametrize("kind", TASKS)
    @pytest.mark.parametrize("crowded", [False, True])
    def test_they_cost_nothing(self, kind, crowded):
        model, targets = small(kind), with_crowd(scene()) if crowded else scene()
        losses = model.losses(perfect(model, targets), targets, unused)
        assert losses["classifier"] < 1e-4
        # Between cells of -20 and 20 the mask crosses 0, and a point may lie there.
        assert losses["mask"] < 0.5
        assert losses["dice"] < 0.2


class TestLosses:
    def test_costs_are_the_losses_of_each_pair(self):
        torch.manual_seed(0)
        logits, masks, known = torch.randn(2, 3, 50), torch.rand(4, 50) < 0.4, torch.rand(50) < 0.8
        costs = mask_set.mask_costs(logits, masks.float(), known.float())
        for s in range(2):
            for q in range(3):
                for n in range(4):
                    x, t = logits[s, q][known].double(), masks[n][known].double()
                    p = 1 / (1 + (-x).exp())
                    crossed = -(t * p.log() + (1 - t) * (1 - p).log()).mean()
                    dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
                    assert costs[s, q, n].item() == pytest.approx((5 * crossed + 5 * dice).item(), abs=1e-4)

    @pytest.mark.parametrize("kind", TASKS)
    def test_masks_in_unknown_places_cost_nothing(self, kind):
        model, targets = small(kind), with_crowd(scene())
        outputs = perfect(model, targets)
        other = {**outputs, "pixels": outputs["pixels"].clone()}
        # A cell away from all else: in the crowd, which to the semantic task is a class, and where nothing is known,
        # which to the instance task is no thing.
        if kind is not Mask2FormerSemantic:
            other["pixels"][:, :, :, 9:11] = 20
        if kind is not Mask2FormerInstance:
            other["pixels"][:, :, 14:] = 20
        torch.manual_seed(1)
        before = model.losses(outputs, targets, unused)
        torch.manual_seed(1)
        after = model.losses(other, targets, unused)
        # Points are drawn where masks are in doubt, which has moved; nothing else. Elsewhere it costs above 10.
        assert after["mask"] == pytest.approx(before["mask"].item(), abs=0.3)
        assert after["dice"] == pytest.approx(before["dice"].item(), abs=0.1)
        other["pixels"][:, :, :8] = 20
        assert model.losses(other, targets, unused)["mask"] > 10

    def test_who_finds_a_crowd_is_not_told_that_it_is_nothing(self):
        model, targets = small(Mask2FormerInstance), with_crowd(scene())
        whole = outputs_of(scene().instances[0].masks, torch.tensor([1, 0]), 2)
        said = model.losses(whole, targets, unused)["classifier"]
        assert said < 1e-4
        alone = with_crowd(scene()).instances[0]
        nothing = InstanceTargets(
            masks=alone.masks[:1], labels=alone.labels[:1], boxes=alone.boxes[:1], iscrowd=alone.iscrowd[:1]
        )
        assert model.losses(whole, Targets(semantic=targets.semantic, instances=[nothing]), unused)["classifier"] > 1

    def test_classes_are_weighed_as_in_the_paper(self):
        """One of six queries is matched; logits are level: log 3 for each, whatever the weights."""
        model, targets = small(Mask2FormerInstance), scene()
        outputs = outputs_of(scene().instances[0].masks, torch.tensor([1, 0]), 2)
        outputs["classes"] = torch.zeros(1, 1, 6, 3)
        outputs["classes"][..., 2] = 2.0  # sure of nothing
        p = torch.tensor([1.0, 1, np.e**2]) / (2 + np.e**2)
        wanted = 2 * -(2 * p[0].log() + 4 * 0.1 * p[2].log()) / (2 + 4 * 0.1)
        assert model.losses(outputs, targets, unused)["classifier"].item() == pytest.approx(wanted.item(), rel=1e-4)

    def test_every_state_learns(self):
        model, targets = small(Mask2Former), scene()
        once = perfect(model, targets)
        once["classes"] = torch.zeros_like(once["classes"])
        thrice = {**once, "classes": once["classes"].expand(-1, 3, -1, -1)}
        thrice["embeddings"] = once["embeddings"].expand(-1, 3, -1, -1)
        losses = [model.losses(given, targets, unused)["classifier"] for given in (once, thrice)]
        torch.testing.assert_close(losses[1], 3 * losses[0])
        assert small(Mask2Former)(torch.randn(2, 3, SIZE, SIZE))["classes"].shape[1] == 3 + 1

    def test_most_points_are_where_a_mask_is_in_doubt(self):
        ramp = torch.linspace(-8, 8, 32).expand(1, 32, 32)
        points = mask_set.doubtful(ramp, 400)
        assert points.shape == (1, 400, 2)
        near = (points[0, :, 0] - 0.5).abs() < 0.15
        assert 0.75 <= near.float().mean() < 0.95  # the third of 1200 that is nearest, and some by chance

    def test_small_images_have_fewer_points(self):
        for height, width, points in [(128, 128, 4096), (224, 224, 12544), (1024, 1024, 12544)]:
            blank = torch.zeros(0, height, width, dtype=torch.bool)
            known = torch.ones(height, width, dtype=torch.bool)
            assert Segments(labels=torch.zeros(0), masks=blank, known=known).points == points

    def test_a_point_lies_in_a_pixel(self):
        known = torch.ones(4, 8, dtype=torch.bool)
        truth = Segments(labels=torch.zeros(0), masks=known[None], known=known)
        y, x = truth.at(torch.tensor([[0.0, 0.0], [0.99, 0.99], [0.13, 0.26], [1.0, 1.0]]))
        assert (y.tolist(), x.tolist()) == ([0, 3, 1, 3], [0, 7, 1, 7])


def published(masks: np.ndarray, scores: list[float], labels: list[int], stuff: tuple[int, ...]) -> dict[int, tuple]:
    """Segment by segment, as section 3.3 of MaskFormer (arXiv 2107.06278) merges them: pixel -> what it is of."""
    owner = (np.array(scores)[:, None, None] * masks).argmax(axis=0)
    found = {}
    for k, label in enumerate(labels):
        own, whole = owner == k, masks[k] >= 0.5
        if not (own & whole).any() or own.sum() / whole.sum() < OVERLAP:
            continue
        name = ("stuff", label) if label in stuff else ("thing", k, label)
        for pixel in np.flatnonzero(own & whole):
            found[pixel] = name
    return found


@pytest.mark.parametrize("seed", range(8))
def test_merging_is_the_published_one(seed):
    rng = np.random.default_rng(seed)
    n, size = 9, (40, 60)
    y, x = np.mgrid[: size[0], : size[1]]
    apart = [np.hypot(y - rng.uniform(0, 40), x - rng.uniform(0, 60)) - rng.uniform(3, 9) for _ in range(n)]
    masks = (1 / (1 + np.exp(4 * np.array(apart)))).astype(np.float32)
    scores, labels = rng.uniform(OBJECT, 1, n).astype(np.float32), rng.integers(0, 5, n)
    ids, rows = merge(torch.from_numpy(masks), torch.from_numpy(scores), torch.from_numpy(labels), CLASSES.stuff)
    wanted = published(masks, scores.tolist(), labels.tolist(), CLASSES.stuff)
    found = ids.flatten().tolist()
    assert set(np.flatnonzero(found)) == set(wanted)
    pairs = {(found[pixel], name) for pixel, name in wanted.items()}
    assert len(pairs) == len({i for i, _ in pairs}) == len({name for _, name in pairs}) == len(rows) > 1
    assert all(rows[i - 1] == name[-1] for i, name in pairs)


def test_nothing_sure_is_nothing_found():
    ids, labels = merge(torch.zeros(0, 4, 6), torch.zeros(0), torch.zeros(0, dtype=torch.int64), (0,))
    assert ids.shape == (4, 6)
    assert not ids.any()
    assert not len(labels)


def test_a_dataset_without_things_has_no_instances():
    with pytest.raises(ConfigError, match="stuff classes only"):
        Mask2FormerInstance(classes=Classes(things=(), stuff=(0, 1)), encoder=Choice("test_resnet"), channels=16)


def test_a_width_that_heads_cannot_share_is_refused():
    with pytest.raises(ConfigError, match="multiple of 8"):
        Mask2Former(classes=CLASSES, encoder=Choice("test_resnet"), channels=20)
