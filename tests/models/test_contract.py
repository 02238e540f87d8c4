"""What every architecture must do, whichever it is."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.fx.experimental._config
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines import config, losses
from pipelines.data.prediction import Prediction
from pipelines.data.schema import IGNORE
from pipelines.errors import ConfigError
from pipelines.models import MODELS
from pipelines.models.contract import Classes, FittedModel, InstanceTargets, Pixels, SegmentationModel, Targets
from pipelines.models.encoders import Choice

PARAMS = config.read(Path(__file__).parents[2] / "params.yaml")
PIXEL_LOSS = losses.build(
    {
        "cross_entropy": {"weight": 1.0, "class_weights": "none", "label_smoothing": 0.1},
        "dice": {"weight": 0.5, "squared": False},
        "focal": {"weight": 1.0, "class_weights": "none", "gamma": 2.0},
    }
)
PIXELS = Pixels.of((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
# These are their own encoders; the others take any of timm's, of which this is a small one.
OWN_ENCODER = ("segnet", "ddrnet23_slim")
# Nine layers of a decoder compile as three do, and take three times as long.
FEWER = {name: {"layers": 3, "queries": 20} for name in MODELS if name.startswith("mask2former")}
LEARNING = [name for name in MODELS if name not in config.CLASSICAL]
WEIGHTS = config.get(PARAMS, "loss.terms")
SIZE = 64
VIEWS = {"semantic": {"semantic"}, "instance": {"instances"}, "panoptic": {"semantic", "instances", "panoptic"}}


def classes_of(count: int) -> Classes:
    """Things and stuff in turn, so that neither set is a run of ids from 0."""
    return Classes(things=tuple(range(1, count, 2)), stuff=tuple(range(0, count, 2)))


def build(name: str, count: int = 5, in_channels: int = 3, encoder: str = "", seed: int = 0) -> SegmentationModel:
    """A small one; one without weights has seen two images."""
    torch.manual_seed(seed)
    model = MODELS[name].build(
        classes=classes_of(count),
        encoder=Choice(encoder or ("paper" if name in OWN_ENCODER else "test_resnet"), in_channels=in_channels),
        channels=16,
        **PARAMS["model"].get(name, {}) | FEWER.get(name, {}),
    )
    model.pixels = PIXELS if in_channels == 3 else Pixels.of([0.5] * in_channels, [0.25] * in_channels)
    if isinstance(model, FittedModel):
        images = np.random.default_rng(seed).integers(0, 256, (2, SIZE, SIZE, in_channels), np.uint8)
        model.fit(zip(images, targets_of(2, classes_of(count)).semantic.numpy().astype(np.uint8), strict=True))
    return model


def images_of(batch: int, height: int = SIZE, width: int = SIZE, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def targets_of(batch: int, classes: Classes, height: int = SIZE, width: int = SIZE) -> Targets:
    """Two overlapping boxes on the first stuff class, and a crowd; all of it inside 40 x 40 pixels."""
    boxes = torch.tensor([[4, 6, 24, 30], [16, 10, 36, 40], [0, 32, 12, 40]])
    masks = torch.zeros(3, height, width, dtype=torch.bool)
    semantic = torch.full((height, width), classes.stuff[0])
    labels = torch.tensor([classes.things[0], classes.things[-1], classes.things[0]])
    for mask, (x1, y1, x2, y2), label in zip(masks, boxes, labels, strict=True):
        mask[y1:y2, x1:x2] = True
        semantic[mask] = label
    crowd = torch.tensor([False, False, True])
    one = InstanceTargets(masks=masks, labels=labels, boxes=boxes.float(), iscrowd=crowd)
    return Targets(semantic=semantic.expand(batch, -1, -1), instances=[one] * batch)


def without(targets: Targets, semantic: bool = False, keep: str = "none") -> Targets:
    """Nothing labelled, and of the segments none, or the crowds alone."""
    chosen = [t.iscrowd if keep == "crowds" else torch.zeros_like(t.iscrowd) for t in targets.instances]
    return Targets(
        semantic=targets.semantic if semantic else torch.full_like(targets.semantic, IGNORE),
        instances=[
            InstanceTargets(masks=t.masks[k], labels=t.labels[k], boxes=t.boxes[k], iscrowd=t.iscrowd[k])
            for t, k in zip(targets.instances, chosen, strict=True)
        ],
    )


def learn(model: SegmentationModel, images: Tensor, targets: Targets) -> dict[str, Tensor]:
    """Losses with their gradients; all of both finite, and in training no weight left out."""
    model.zero_grad()
    terms = model.losses(model(images), targets, PIXEL_LOSS)
    sum(WEIGHTS[key] * term for key, term in terms.items()).backward()
    assert all(term.dtype == torch.float32 and term.ndim == 0 and term.isfinite() for term in terms.values())
    left_out = [name for name, p in model.named_parameters() if p.grad is None]
    assert not (model.training and left_out)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    return terms


@torch.inference_mode()
def predict(model: SegmentationModel, images: Tensor, sizes: list[tuple[int, int]] | None = None) -> list[Prediction]:
    model.eval()
    return model.predict(model(images), sizes or [tuple(images.shape[-2:])] * len(images))


def check(prediction: Prediction, task: str, classes: Classes, height: int, width: int) -> None:
    given = {view for view in ("semantic", "instances", "panoptic") if getattr(prediction, view) is not None}
    assert given == VIEWS[task]
    if (semantic := prediction.semantic) is not None:
        assert (semantic.dtype, semantic.shape) == (np.uint8, (height, width))
        assert semantic.max() < classes.count
    if (found := prediction.instances) is not None:
        assert found.masks.shape == (len(found), height, width)
        assert found.masks.any(axis=(1, 2)).all()
        assert (found.labels.dtype, found.scores.dtype, found.boxes.dtype) == (np.int64, np.float32, np.float32)
        assert set(found.labels.tolist()) <= set(classes.things)
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
        assert ((found.boxes >= 0) & (found.boxes <= [width, height, width, height])).all()
        assert (found.boxes[:, :2] < found.boxes[:, 2:]).all()
    if (panoptic := prediction.panoptic) is not None:
        assert (panoptic.ids.dtype, panoptic.ids.shape) == (np.int32, (height, width))
        assert set(np.unique(panoptic.ids)) - {0} == set(range(1, len(panoptic.labels) + 1))
        stuff = [label for label in panoptic.labels.tolist() if label in classes.stuff]
        assert len(stuff) == len(set(stuff))
        assert not panoptic.iscrowd.any()


def same(one: Prediction, other: Prediction) -> bool:
    arrays = [
        [p.semantic]
        + ([p.instances.masks, p.instances.labels, p.instances.scores, p.instances.boxes] if p.instances else [])
        + ([p.panoptic.ids, p.panoptic.labels] if p.panoptic else [])
        for p in (one, other)
    ]
    return all(np.array_equal(a, b) for a, b in zip(*arrays, strict=True))


def test_the_table_and_the_parameters_name_the_same_models():
    assert {name: spec.task for name, spec in MODELS.items()} == config.MODEL_TASKS


@pytest.mark.parametrize("name", MODELS)
class TestEveryModel:
    """Networks and models without weights alike."""

    @pytest.mark.parametrize(("count", "in_channels"), [(2, 1), (9, 4)])
    def test_it_predicts_any_number_of_classes_from_any_number_of_channels(self, name, count, in_channels):
        model, images = build(name, count, in_channels), torch.randn(2, in_channels, SIZE, SIZE)
        for prediction in predict(model, images):
            check(prediction, MODELS[name].task, classes_of(count), SIZE, SIZE)

    def test_odd_sizes_are_predicted(self, name):
        sizes = [(41, 64), (63, 33), (64, 64)]
        for prediction, (height, width) in zip(predict(build(name), images_of(3), sizes), sizes, strict=True):
            check(prediction, MODELS[name].task, classes_of(5), height, width)

    def test_weights_survive_a_file(self, name, tmp_path):
        model = build(name)
        if name in LEARNING:
            learn(model, images_of(2), targets_of(2, classes_of(5)))  # moves the norms' statistics
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        other = build(name, seed=1)
        other.load_state_dict(load_file(tmp_path / "model.safetensors"))
        images = images_of(2, seed=1)
        ours, theirs = model.eval()(images), other.eval()(images)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        assert all(same(a, b) for a, b in zip(predict(model, images), predict(other, images), strict=True))

    def test_all_that_it_keeps_are_tensors(self, name):
        state = build(name).state_dict()
        assert all(isinstance(value, Tensor) for value in state.values())
        pointers = [value.data_ptr() for value in state.values() if value.numel()]
        assert len(set(pointers)) == len(pointers)  # safetensors stores no shared memory

    def test_evaluation_is_deterministic_and_leaves_no_trace(self, name):
        model = build(name)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        torch.manual_seed(1)
        first = predict(model, images_of(2))
        torch.manual_seed(2)
        second = predict(model, images_of(2))
        assert all(same(a, b) for a, b in zip(first, second, strict=True))
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())

    def test_a_prediction_is_its_own_image_s(self, name):
        model = build(name).eval()
        with torch.inference_mode():
            outputs = model(images_of(2))
            both = model.predict(outputs, [(SIZE, SIZE)] * 2)
            alone = model.predict({key: value[1:] for key, value in outputs.items()}, [(SIZE, SIZE)])
        assert same(both[1], alone[0])

    def test_it_compiles_without_a_break(self, name):
        model, images = build(name).eval(), images_of(2)
        torch._dynamo.reset()
        with torch.no_grad():
            plain, compiled = model(images), torch.compile(model, backend="eager", fullgraph=True)(images)
        assert plain.keys() == compiled.keys()
        for key, value in plain.items():
            torch.testing.assert_close(compiled[key], value)

    def test_it_is_exported_for_any_batch_and_size(self, name):
        model = build(name).eval()
        axes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
        # A map of one pixel is a size like others: DDRNet pools to strides of hundreds.
        oblivious = torch.fx.experimental._config.patch(backed_size_oblivious=True)
        with torch.no_grad(), oblivious:
            example = images_of(2, 2 * SIZE, 3 * SIZE)
            exported = torch.export.export(model, (example,), dynamic_shapes=(axes,), strict=False).module()
            images = images_of(3, 3 * SIZE, 2 * SIZE + model.stride)
            plain, found = model(images), exported(images)
        assert plain.keys() == found.keys()
        for key, value in plain.items():
            torch.testing.assert_close(found[key], value, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", LEARNING)
class TestEveryNetwork:
    @pytest.mark.parametrize("count", [2, 21])
    def test_it_learns_and_predicts_any_number_of_classes(self, name, count):
        model, classes = build(name, count), classes_of(count)
        terms = learn(model, images_of(2), targets_of(2, classes))
        assert set(terms) <= set(WEIGHTS)
        assert all(term.item() > 0 for term in terms.values())
        for prediction in predict(model, images_of(2)):
            check(prediction, MODELS[name].task, classes, SIZE, SIZE)

    def test_every_multiple_of_its_stride_is_a_size(self, name):
        model = build(name)
        for height, width in [(3 * model.stride, 4 * model.stride), (4 * model.stride, 3 * model.stride)]:
            learn(model, images_of(2, height, width), targets_of(2, classes_of(5), height, width))

    @pytest.mark.parametrize("training", [True, False])
    def test_one_image_is_a_batch(self, name, training):
        model = build(name).train(training)
        learn(model, images_of(1), targets_of(1, classes_of(5)))
        (prediction,) = predict(model, images_of(1))
        check(prediction, MODELS[name].task, classes_of(5), SIZE, SIZE)

    @pytest.mark.parametrize("keep", ["none", "crowds"])
    @pytest.mark.parametrize("semantic", [True, False])
    def test_images_with_nothing_to_learn_from_do_no_harm(self, name, semantic, keep):
        terms = learn(build(name), images_of(2), without(targets_of(2, classes_of(5)), semantic, keep))
        if not semantic and "semantic" in terms:
            assert terms["semantic"] == 0

    def test_one_empty_image_does_not_hide_the_others(self, name):
        model, full = build(name), targets_of(2, classes_of(5))
        empty = without(full)
        semantic = torch.stack([full.semantic[0], empty.semantic[1]])
        mixed = Targets(semantic=semantic, instances=[full.instances[0], empty.instances[1]])
        assert all(term.item() > 0 for term in learn(model, images_of(2), mixed).values())

    def test_it_learns(self, name):
        model, images, targets = build(name).train(), images_of(2), targets_of(2, classes_of(5))
        images += targets.semantic.unsqueeze(1)  # something to see
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        history = []
        for _ in range(12):
            terms = learn(model, images, targets)
            optimizer.step()
            history.append(sum(WEIGHTS[key] * term.item() for key, term in terms.items()))
        assert min(history[-3:]) < 0.8 * history[0]

    def test_losses_are_float32_in_mixed_precision_too(self, name):
        model, images, targets = build(name), images_of(2), targets_of(2, classes_of(5))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = model(images)
        terms = model.losses(outputs, targets, PIXEL_LOSS)
        sum(terms.values()).backward()
        assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())
        for prediction in predict(model, images):
            check(prediction, MODELS[name].task, classes_of(5), SIZE, SIZE)

    def test_the_same_seed_gives_the_same_step(self, name):
        steps = []
        for _ in range(2):
            model = build(name)
            torch.manual_seed(3)
            learn(model, images_of(2), targets_of(2, classes_of(5)))
            steps.append([p.grad for p in model.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(*steps, strict=True))


@pytest.mark.parametrize("name", [name for name, spec in MODELS.items() if spec.task == "semantic"])
def test_right_scores_are_the_truth(name):
    truth = torch.randint(0, 5, (2, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    logits = torch.nn.functional.one_hot(truth, 5).movedim(-1, 1).float()
    for prediction, labels in zip(build(name).predict({"semantic": logits}, [(64, 50)] * 2), truth, strict=True):
        assert np.array_equal(prediction.semantic, labels[:, :50].numpy())


@pytest.mark.parametrize("name", [name for name in LEARNING if name not in OWN_ENCODER])
def test_encoders_that_start_at_stride_4_serve(name):
    model = build(name, encoder="test_convnext")
    learn(model, images_of(2), targets_of(2, classes_of(5)))


@pytest.mark.parametrize("name", OWN_ENCODER)
def test_who_has_no_choice_of_encoder_says_so(name):
    with pytest.raises(ConfigError, match=r"model\.encoder: (.|\n)*set model\.encoder: paper"):
        build(name, encoder="resnet18")
