"""What is made of single frames: flow, features, looks, sheets."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.data.prediction import Instances
from pipelines.errors import ConfigError
from pipelines.video import image_model, outputs
from pipelines.video.detections import detections, looks
from pipelines.video.features import Features
from pipelines.video.flow import Flow, warp
from pipelines.video.sheet import Sheet, overlay

RNG = np.random.default_rng(0)


def noise(height: int, width: int) -> np.ndarray:
    coarse = RNG.integers(0, 256, (height // 8, width // 8, 3)).astype(np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)


def test_flow_of_a_picture_that_moves_is_how_it_moved() -> None:
    image = noise(64, 96)
    flow = Flow()
    assert flow.step(image) is None
    moved = np.roll(image, (2, 3), (0, 1))
    back = flow.step(moved)
    assert back is not None
    assert np.abs(back[16:-16, 16:-16] - (-3, -2)).mean() < 0.2
    carried = warp(image[..., 0].astype(np.float32), back)
    assert np.abs(carried - moved[..., 0])[16:-16, 16:-16].mean() < 12


def test_frames_too_small_for_flow_have_none() -> None:
    flow = Flow()
    assert [flow.step(np.zeros((8, 8, 3), np.uint8)) for _ in range(2)] == [None, None]


@pytest.mark.parametrize("size", [(64, 96), (50, 70), (33, 31)])
def test_features_are_unit_vectors_of_each_place(model: Path, size: tuple[int, int]) -> None:
    features = image_model.features(image_model.load(model), 4)
    found = features(RNG.integers(0, 256, (*size, 3)).astype(np.uint8))
    assert found.shape[1:] == (-(-size[0] // 4), -(-size[1] // 4))
    assert found.norm(dim=0).numpy() == pytest.approx(1, abs=1e-5)


def test_a_stride_that_the_encoder_has_not(model: Path) -> None:
    with pytest.raises(ConfigError, match="has feature maps at strides"):
        Features.of(image_model.load(model), stride=5)


def test_looks_tell_things_apart_and_the_best_are_kept() -> None:
    features = torch.zeros(3, 6, 6)
    features[0, :3], features[1, 3:] = 1, 1
    masks = np.zeros((3, 12, 12), bool)
    masks[0, :4, :4], masks[1, 8:, :4], masks[2, :4, 8:] = True, True, True
    boxes, labels = np.zeros((3, 4), np.float32), np.array([1, 2, 3])
    found = Instances(masks=masks, labels=labels, scores=np.array([0.4, 0.9, 0.6], np.float32), boxes=boxes)
    kept = detections(found, min_score=0.3, most=3, features=features)
    assert kept.labels.tolist() == [2, 3, 1]
    alike = kept.looks @ kept.looks.T
    assert alike[1, 2] == pytest.approx(1, abs=1e-5)
    assert alike[0, 1] < 0
    assert not looks(np.zeros((1, 12, 12), bool), features).any()
    assert detections(found, min_score=0.5, most=1).labels.tolist() == [2]


def test_segments_of_a_model_of_pixels_are_the_parts_of_its_classes(semantic: Path) -> None:
    predictor = image_model.load(semantic)
    image = noise(64, 64)
    classes = predictor.predict([image])[0].semantic
    things = [k for k, c in enumerate(predictor.classes) if c.isthing]
    parts = image_model.segments(predictor, image)
    assert classes is not None
    assert np.array_equal(np.any([*parts, np.zeros((64, 64), bool)], axis=0), np.isin(classes, things))
    assert all(len(np.unique(classes[part])) == 1 for part in parts)


def test_a_sheet_holds_few_frames_of_a_long_video_evenly_spread() -> None:
    sheet = Sheet(4)
    for k in range(500):
        sheet.add(str(k), np.zeros((16, 16, 3), np.uint8), {})
        assert len(sheet.kept) <= 8
    titles = [int(title) for title, _ in sheet.kept]
    assert titles[0] == 0
    assert titles[-1] > 400
    assert len({b - a for a, b in pairwise(titles)}) == 1
    assert sheet.picture().dtype == np.uint8


def test_each_object_has_a_colour_of_its_own() -> None:
    left, right = np.zeros((2, 64, 64), bool)
    left[8:24, 8:24], right[40:56, 40:56] = True, True
    picture = overlay(np.full((64, 64, 3), 128, np.uint8), {1: left, 5: right})
    scale = picture.shape[0] // 64
    assert len({tuple(picture[y * scale, x * scale]) for y, x in ((16, 16), (48, 48), (2, 60))}) == 3


def test_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    def fail() -> None:
        with outputs.whole(tmp_path / "video") as folder:
            outputs.write_ids(folder / "0.png", np.zeros((4, 4), np.uint8))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []
