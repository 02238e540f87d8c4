"""Panoptic-DeepLab: its targets and its merging against the definitions, pixel by pixel."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.profiler import profile

from pipelines.data import panoptic, rle
from pipelines.data.formats import shapes
from pipelines.data.prediction import Prediction
from pipelines.data.schema import IGNORE, Record
from pipelines.metrics.panoptic import PanopticMetrics
from pipelines.models.contract import Classes, InstanceTargets, Targets
from pipelines.models.encoders import Choice
from pipelines.models.panoptic import panoptic_deeplab
from pipelines.models.panoptic.panoptic_deeplab import (
    MAX_CENTERS,
    MIN_AREA,
    SIGMA,
    PanopticDeepLab,
    center_targets,
    find_centers,
    group_pixels,
)
from tests.models.parity import count, on_meta

TABLE = shapes.classes()
THINGS = tuple(i for i, c in enumerate(TABLE) if c.isthing)
STUFF = tuple(i for i, c in enumerate(TABLE) if not c.isthing)
GRID = panoptic_deeplab.FINEST


@pytest.fixture(scope="module")
def model() -> PanopticDeepLab:
    classes = Classes(things=THINGS, stuff=STUFF)
    return PanopticDeepLab(classes=classes, encoder=Choice("test_resnet.r160_in1k"), channels=16)


def truth(masks: Tensor, crowd: Tensor | None = None) -> InstanceTargets:
    n = len(masks)
    return InstanceTargets(
        masks=masks,
        labels=torch.full((n,), THINGS[0]),
        boxes=torch.zeros(n, 4),
        iscrowd=torch.zeros(n, dtype=torch.bool) if crowd is None else crowd,
    )


def blobs(height: int, width: int, count: int, seed: int) -> Tensor:
    """Ellipses; they overlap."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    masks = [
        ((y - rng.uniform(0, height)) / rng.uniform(2, height / 2)) ** 2
        + ((x - rng.uniform(0, width)) / rng.uniform(2, width / 2)) ** 2
        < 1
        for _ in range(count)
    ]
    return torch.from_numpy(np.array([m for m in masks if m.any()], bool).reshape(-1, height, width))


@pytest.mark.parametrize(
    ("height", "width", "step", "seed"), [(32, 48, 4, 0), (64, 32, 8, 1), (24, 24, 2, 2), (8, 8, 1, 3)]
)
def test_targets_are_their_definition(height, width, step, seed):
    masks = blobs(height, width, 5, seed)
    crowds = torch.arange(len(masks)) % 3 == 1
    heatmap, offset, crowd, thing = center_targets(
        truth(masks, crowds), torch.Size((height, width)), torch.Size((height // step, width // step))
    )
    whole = masks[~crowds].numpy()
    middles = [np.argwhere(m).mean(axis=0) for m in whole]
    for i in range(height // step):
        for j in range(width // step):
            cell = np.array([i * step + (step - 1) / 2, j * step + (step - 1) / 2])
            pixel = (i * step + step // 2, j * step + step // 2)
            peaks = [np.exp(-((cell - m) ** 2).sum() / (2 * (SIGMA * step) ** 2)) for m in middles]
            assert heatmap[i, j].item() == pytest.approx(max(peaks), abs=1e-5)
            owners = [k for k, m in enumerate(whole) if m[pixel]]
            assert thing[i, j].item() == bool(owners)
            assert crowd[i, j].item() == bool(masks[crowds][(slice(None), *pixel)].any())
            wanted = middles[owners[0]] - cell if owners else np.zeros(2)
            assert offset[:, i, j].tolist() == pytest.approx(wanted.tolist(), abs=1e-3)


@pytest.mark.parametrize("crowd", [False, True])
def test_without_an_instance_there_is_nothing_to_find(crowd):
    masks = torch.ones(int(crowd), 16, 32, dtype=torch.bool)
    heatmap, offset, crowded, thing = center_targets(
        truth(masks, torch.ones(len(masks), dtype=torch.bool)), torch.Size((16, 32)), torch.Size((4, 8))
    )
    assert [t.shape for t in (heatmap, offset, crowded, thing)] == [(4, 8), (2, 4, 8), (4, 8), (4, 8)]
    assert not heatmap.any()
    assert not offset.any()
    assert not thing.any()
    assert crowded.all().item() is crowd


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([(7, 9), (40, 30)]))
def test_each_pixel_goes_to_the_centre_nearest_to_where_it_points(seed, count, size):
    rng = np.random.default_rng(seed)
    scale = rng.choice([1.0, 2000.0])  # an image of thousands of pixels
    offsets = torch.from_numpy(rng.normal(0, 5 * scale, (2, *size)).astype(np.float32))
    centers = torch.from_numpy(rng.uniform(0, 40 * scale, (count, 2)).astype(np.float32))
    is_thing = torch.from_numpy(rng.random(size) < 0.5)
    group = group_pixels(offsets, centers, is_thing)
    assert not group[~is_thing].any()
    for y, x in is_thing.nonzero().tolist():
        point = np.array([y, x]) + offsets[:, y, x].double().numpy()
        apart = np.hypot(*(centers.double().numpy() - point).T)
        assert 1 <= group[y, x] <= count
        assert apart[group[y, x] - 1] <= apart.min() + 1e-6 * scale * 100


def test_without_a_centre_nothing_is_grouped():
    assert not group_pixels(torch.zeros(2, 4, 4), torch.zeros(0, 2), torch.ones(4, 4, dtype=torch.bool)).any()


def gaussian(y: float, x: float, size: tuple[int, int] = (32, 32)) -> Tensor:
    """A centre's heatmap, in pixels, as `center_targets` would paint it."""
    ys, xs = (panoptic_deeplab.cell_centers(n, GRID, torch.device("cpu")) for n in size)
    return torch.exp(-((ys[:, None] - y) ** 2 + (xs - x) ** 2) / (2 * (SIGMA * GRID) ** 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("at", [(61.5, 61.5), (63.5, 61.5), (63.5, 63.5), (60.2, 63.4), (63.47, 66.1)])
def test_a_centre_is_found_once_wherever_it_lies_between_the_cells(at, dtype):
    heatmap = gaussian(*at).to(dtype).float()
    centers, scores = find_centers(heatmap, torch.Size((128, 128)))
    assert len(centers) == 1
    assert (centers[0] - torch.tensor(at)).abs().max() <= GRID / 2
    assert scores[0] == heatmap.max()


def test_centres_come_highest_first_and_no_more_than_can_be_used():
    heatmap = torch.zeros(64, 64)
    heatmap[::2, ::2] = 0.05  # below what counts
    assert find_centers(heatmap, torch.Size((256, 256)))[0].shape == (0, 2)
    heatmap[::2, ::2] = torch.linspace(0.2, 0.9, 32 * 32).reshape(32, 32)
    centers, scores = find_centers(heatmap, torch.Size((256, 256)))
    assert len(centers) == MAX_CENTERS
    assert (scores.diff() < 0).all()
    assert centers[0].tolist() == [62 * 4 + 1.5, 62 * 4 + 1.5]


def drawn(index: int, size: int = 128) -> Record:
    return shapes.draw("train", index, seed=0, height=size, width=size, difficulty=0.5)


def perfect(record: Record, *, offsets_on_grid: bool) -> tuple[dict[str, Tensor], list[Tensor]]:
    """What a model without fault would put out, made from the truth, crowds as one instance each; and the centres."""
    masks = [torch.from_numpy(rle.decode(s.counts, record.height, record.width).copy()) for s in record.segments]
    whole = truth(torch.stack(masks) if masks else torch.zeros(0, record.height, record.width, dtype=torch.bool))
    full = torch.Size(record.semantic.shape)
    grid = torch.Size((full[0] // GRID, full[1] // GRID))
    heatmap, coarse, _, _ = center_targets(whole, full, grid)
    offset = coarse if offsets_on_grid else center_targets(whole, full, full)[1]
    semantic = torch.from_numpy(np.where(record.semantic == IGNORE, STUFF[0], record.semantic).astype(np.int64))
    logits = 20 * F.one_hot(semantic, len(TABLE)).permute(2, 0, 1).float()
    outputs = {"semantic": logits[None], "center": heatmap[None, None], "offset": offset[None]}
    return outputs, [m.nonzero().float().mean(dim=0) for m in masks]


def quality(record: Record, prediction: Prediction) -> float:
    metrics = PanopticMetrics([c.name for c in TABLE], things=THINGS)
    assert prediction.panoptic is not None
    metrics.update(panoptic.truth(record, THINGS), prediction.panoptic)
    return float(metrics.compute()["pq"])


def representable(record: Record, centers: list[Tensor]) -> bool:
    """No two centres so near that their peaks are one, and no segment that is too small to be kept."""
    near = any((a - b).abs().max() < 4 * GRID for i, a in enumerate(centers) for b in centers[:i])
    areas = np.bincount(panoptic.truth(record, THINGS).ids.ravel())[1:]
    return not near and (areas[areas > 0] >= MIN_AREA).all()


def test_perfect_outputs_give_the_truth(model):
    """All of it: every pixel that is neither void nor in a crowd lies in the segment where the truth has it."""
    exact = 0
    for index in range(30):
        record = drawn(index)
        outputs, centers = perfect(record, offsets_on_grid=False)
        if not representable(record, centers):
            continue
        exact += 1
        prediction = model.predict(outputs, [(128, 128)])[0]
        assert quality(record, prediction) == 1.0
        wanted, found = panoptic.truth(record, THINGS), prediction.panoptic
        judged = (wanted.ids > 0) & ~np.append(False, wanted.iscrowd)[wanted.ids]
        pairs = np.unique(np.stack([wanted.ids[judged], found.ids[judged]]), axis=1).T.tolist()
        assert len({w for w, _ in pairs}) == len({f for _, f in pairs}) == len(pairs)
        assert all(f > 0 and wanted.labels[w - 1] == found.labels[f - 1] for w, f in pairs)
        np.testing.assert_array_equal(prediction.semantic[judged], record.semantic[judged])
    assert exact >= 20


def test_the_output_grid_costs_little(model):
    """Offsets at a fourth of the resolution blur the borders between things: the most that the model can reach."""
    assert np.mean([quality(drawn(i), model.predict(perfect(drawn(i), offsets_on_grid=True)[0], [(128, 128)])[0])
                    for i in range(20)]) > 0.97  # fmt: skip


def assert_consistent(prediction: Prediction, size: tuple[int, int]) -> None:
    semantic, instances, whole = prediction.semantic, prediction.instances, prediction.panoptic
    assert semantic.shape == whole.ids.shape == instances.masks.shape[1:] == size
    assert semantic.dtype == np.uint8
    things = [k for k, label in enumerate(whole.labels.tolist(), start=1) if label in THINGS]
    assert instances.labels.tolist() == [whole.labels[k - 1] for k in things]
    for k, mask, box in zip(things, instances.masks, instances.boxes, strict=True):
        np.testing.assert_array_equal(mask, whole.ids == k)
        x, y, width, height = rle.bbox(mask)
        assert box.tolist() == [x, y, x + width, y + height]
    assert prediction.confidence.shape == size
    assert ((prediction.confidence > 0) & (prediction.confidence <= 1)).all()
    inside = whole.ids > 0
    np.testing.assert_array_equal(semantic[inside], whole.labels[whole.ids[inside] - 1])
    assert np.bincount(whole.ids.ravel(), minlength=len(whole.labels) + 1)[1:].min(initial=MIN_AREA) >= MIN_AREA
    stuff = [label for label in whole.labels.tolist() if label in STUFF]
    assert len(stuff) == len(set(stuff))
    assert ((instances.scores >= 0) & (instances.scores <= 1)).all()


@pytest.mark.parametrize("seed", range(8))
def test_the_three_views_agree_whatever_the_model_says(model, seed):
    torch.manual_seed(seed)
    spread = [0.5, 5.0][seed % 2]
    outputs = {
        "semantic": F.interpolate(spread * torch.randn(2, len(TABLE), 8, 8), (64, 64), mode="bilinear"),
        "center": torch.randn(2, 1, 16, 16) * 0.5,
        "offset": torch.randn(2, 2, 16, 16) * 10,
    }
    sizes = [(64, 64), (50, 37)]
    for prediction, size in zip(model.predict(outputs, sizes), sizes, strict=True):
        assert_consistent(prediction, size)
        assert len(prediction.instances) > 0


def flat(semantic: Tensor) -> Tensor:
    return 20 * F.one_hot(semantic, len(TABLE)).permute(2, 0, 1)[None].float()


def test_an_image_without_things_has_stuff_alone(model):
    semantic = torch.full((32, 32), STUFF[1])
    outputs = {"semantic": flat(semantic), "center": torch.zeros(1, 1, 8, 8), "offset": torch.zeros(1, 2, 8, 8)}
    prediction = model.predict(outputs, [(32, 32)])[0]
    assert_consistent(prediction, (32, 32))
    assert len(prediction.instances) == 0
    assert prediction.panoptic.labels.tolist() == [STUFF[1]]
    assert (prediction.panoptic.ids == 1).all()


def test_things_without_a_centre_belong_to_nothing(model):
    semantic = torch.full((32, 32), STUFF[0])
    semantic[:16] = THINGS[0]
    outputs = {"semantic": flat(semantic), "center": torch.zeros(1, 1, 8, 8), "offset": torch.zeros(1, 2, 8, 8)}
    prediction = model.predict(outputs, [(32, 32)])[0]
    assert len(prediction.instances) == 0
    assert (prediction.panoptic.ids[:16] == 0).all()
    assert (prediction.semantic[:16] == THINGS[0]).all(), "what each pixel shows is known all the same"


def test_most_pixels_of_an_instance_name_its_class(model):
    semantic = torch.full((32, 32), STUFF[0])
    semantic[8:24, 8:24] = THINGS[1]
    semantic[8:12, 8:24] = THINGS[2]
    center = torch.zeros(1, 1, 8, 8)
    center[0, 0, 4, 4] = 0.8
    prediction = model.predict(
        {"semantic": flat(semantic), "center": center, "offset": torch.zeros(1, 2, 8, 8)}, [(32, 32)]
    )[0]
    assert_consistent(prediction, (32, 32))
    assert prediction.instances.labels.tolist() == [THINGS[1]]
    assert prediction.instances.masks[0].sum() == 256
    assert prediction.instances.scores[0] == pytest.approx(0.8 * 192 / 256, abs=1e-3)
    # Where the vote overrules a pixel, the class that it is given is the one that it thinks little of.
    assert (prediction.confidence[8:12, 8:24] < 1e-6).all()
    assert (prediction.confidence[12:24, 8:24] > 0.99).all()


def pixel_loss(logits: Tensor, targets: Targets) -> Tensor:
    return F.cross_entropy(logits, targets.semantic, ignore_index=IGNORE)


def outputs(seed: int, images: int = 2, size: int = 32) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    cells = size // GRID
    return {
        "semantic": torch.randn(images, len(TABLE), size, size),
        "center": torch.randn(images, 1, cells, cells),
        "offset": torch.randn(images, 2, cells, cells),
    }


def test_losses_are_means_over_what_is_known(model):
    masks = blobs(32, 32, 4, seed=5)
    crowds = torch.arange(len(masks)) == 0
    targets = Targets(
        semantic=torch.zeros(2, 32, 32, dtype=torch.int64),
        instances=[truth(masks, crowds), truth(masks[:0])],
    )
    found = outputs(0)
    losses = model.losses(found, targets, pixel_loss)
    heatmap, offset, crowd, thing = center_targets(targets.instances[0], torch.Size((32, 32)), torch.Size((8, 8)))
    assert crowd.any()
    assert thing.any()
    missed = ((found["center"][0, 0] - heatmap) ** 2)[~crowd].sum() + (found["center"][1, 0] ** 2).sum()
    torch.testing.assert_close(losses["center"], missed / ((~crowd).sum() + 64))
    apart = (found["offset"][0] - offset).abs().sum(dim=0)[thing].sum() / thing.sum()
    torch.testing.assert_close(losses["offset"], apart)
    torch.testing.assert_close(losses["semantic"], pixel_loss(found["semantic"], targets))


def test_what_is_said_of_a_crowd_costs_nothing(model):
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[0, :16] = True
    masks[1, 20:28, 4:28] = True
    targets = Targets(
        semantic=torch.zeros(1, 32, 32, dtype=torch.int64),
        instances=[truth(masks, torch.tensor([True, False]))],
    )
    found = outputs(1, images=1)
    other = {**found, "center": found["center"].clone(), "offset": found["offset"].clone()}
    other["center"][:, :, :4] += 3
    other["offset"][:, :, :4] += 3
    before, after = (model.losses(said, targets, pixel_loss) for said in (found, other))
    assert before == after


def test_a_batch_with_nothing_to_learn_from_costs_no_nan(model):
    targets = Targets(
        semantic=torch.zeros(2, 32, 32, dtype=torch.int64), instances=[truth(torch.zeros(0, 32, 32) > 0)] * 2
    )
    everywhere = truth(torch.ones(1, 32, 32, dtype=torch.bool), torch.tensor([True]))
    for each in (targets, replace(targets, instances=[everywhere] * 2)):
        found = {k: v.requires_grad_() for k, v in outputs(2).items()}
        losses = model.losses(found, each, pixel_loss)
        sum(losses.values()).backward()
        assert all(torch.isfinite(loss) for loss in losses.values())
        assert all(torch.isfinite(value.grad).all() for value in found.values())
        assert losses["offset"] == 0


def test_a_perfect_model_has_nothing_to_learn(model):
    record = drawn(0)
    found, _ = perfect(record, offsets_on_grid=True)
    masks = [torch.from_numpy(rle.decode(s.counts, 128, 128).copy()) for s in record.segments]
    semantic = torch.from_numpy(record.semantic.astype(np.int64))[None]
    losses = model.losses(found, Targets(semantic=semantic, instances=[truth(torch.stack(masks))]), pixel_loss)
    assert losses["center"] == losses["offset"] == 0
    assert losses["semantic"] < 1e-6


class TestFullSize:
    """`output_stride: 16`: the paper's network, ResNet-50 and the 19 classes of Cityscapes."""

    def test_parameters_are_the_authors(self):
        """By hand, from the widths in the authors' PyTorch code: both ASPPs 256; decoders 256 and 128; of strides 8
        and 4 come 64 and 32 channels for semantics, 32 and 16 for instances."""
        classes = Classes(things=tuple(range(11, 19)), stuff=tuple(range(11)))
        model = on_meta(PanopticDeepLab, classes=classes, output_stride=16)

        def conv(inputs: int, outputs: int) -> int:
            return inputs * outputs + 2 * outputs  # 1x1, and its norm

        def separable(inputs: int, outputs: int, kernel: int) -> int:
            return kernel**2 * inputs + 2 * inputs + conv(inputs, outputs)

        aspp = conv(2048, 256) + 3 * separable(2048, 256, 3) + (2048 * 256 + 256) + conv(5 * 256, 256)
        semantic = conv(512, 64) + separable(256 + 64, 256, 5) + conv(256, 32) + separable(256 + 32, 256, 5)
        instance = conv(512, 32) + separable(256 + 32, 128, 5) + conv(256, 16) + separable(128 + 16, 128, 5)
        heads = separable(256, 256, 5) + 2 * separable(128, 128, 5) + (256 * 19 + 19) + (128 + 1) + (128 * 2 + 2)
        resnet50 = 25_557_032 - (2048 * 1000 + 1000)  # torchvision's documentation; without its classifier
        assert count(model) == resnet50 + 2 * aspp + semantic + instance + heads

    def test_its_deepest_features_are_at_stride_16(self):
        model = PanopticDeepLab(
            classes=Classes(things=THINGS, stuff=STUFF), encoder=Choice("resnet18"), channels=32, output_stride=16
        )
        assert model.stride == 16
        shapes = []
        model.semantic_decoder.aspp.register_forward_hook(lambda _, given, found: shapes.append(found.shape[-2:]))
        found = model(torch.randn(2, 3, 64, 96))
        assert shapes == [(4, 6)]
        assert found["center"].shape == (2, 1, 16, 24)
        dilated = [c for c in model.encoder.modules() if isinstance(c, torch.nn.Conv2d) and c.dilation == (2, 2)]
        assert dilated


def test_hundreds_of_instances_are_merged_in_little_memory(model):
    """512x512 all of things, 256 centres: distances of every pixel to every centre would be 256 MiB, and so would the
    probabilities of every mask. The masks themselves are 64 MiB."""
    middles = torch.arange(16) * 32 + 17.5
    field = torch.stack([torch.cat([gaussian(y, x, (128, 128))[None] for x in middles]).amax(dim=0) for y in middles])
    nearest = ((torch.arange(128) * 4 + 1.5) // 32 * 32 + 17.5) - (torch.arange(128) * 4 + 1.5)
    offsets = torch.stack([nearest[:, None].expand(128, 128), nearest.expand(128, 128)])
    outputs = {
        "semantic": flat(torch.full((512, 512), THINGS[0])),
        "center": field.amax(dim=0)[None, None],
        "offset": offsets[None],
    }
    with profile(profile_memory=True) as profiled:
        (prediction,) = model.predict(outputs, [(512, 512)])
    assert len(prediction.instances) == 256
    largest = max(event.self_cpu_memory_usage for event in profiled.events())
    assert largest <= 256 * 512 * 512
    square = np.arange(512) // 32
    pairs = np.unique(np.stack([prediction.panoptic.ids, 16 * square[:, None] + square]).reshape(2, -1), axis=1)
    assert pairs.shape[1] < 1.5 * 256  # the offsets between two cells belong to neither
    assert prediction.instances.masks.sum() == 512 * 512
