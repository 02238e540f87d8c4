import cv2
import numpy as np
import pytest

from pipelines.data.formats import shapes
from pipelines.validation import leakage
from pipelines.validation.inspection import decode


def scene(index: int, *, side: int = 96, difficulty: float = 0.5) -> np.ndarray:
    image = decode(shapes.draw("train", index, seed=3, height=side, width=side, difficulty=difficulty))
    assert image is not None
    return image


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(leakage.fingerprint(a).astype(np.float32) @ leakage.fingerprint(b).astype(np.float32))


def as_jpeg(image: np.ndarray) -> np.ndarray:
    encoded = cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 50))[1]
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)


@pytest.mark.parametrize(
    "change",
    [
        as_jpeg,
        lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
        lambda image: cv2.resize(image, None, fx=1.7, fy=1.7),
        lambda image: cv2.GaussianBlur(image, (0, 0), 1),
        lambda image: np.clip(image * 1.1 + 5, 0, 255).astype(np.uint8),
        lambda image: (255 * (image / 255) ** 0.8).astype(np.uint8),
    ],
    ids=["jpeg", "half", "larger", "blurred", "brighter", "gamma"],
)
def test_a_picture_saved_anew_is_a_lookalike(change):
    for index in range(5):
        assert correlation(scene(index), change(scene(index))) > leakage.RESEMBLES


def test_a_mirrored_picture_and_a_flat_one_are_none():
    image = scene(0)
    flat = np.full((40, 40, 3), 17, np.uint8)
    assert correlation(image, np.ascontiguousarray(image[:, ::-1])) < leakage.RESEMBLES
    assert correlation(flat, flat) == 0


@pytest.mark.parametrize("difficulty", [0.0, 1.0])
def test_generated_scenes_are_never_lookalikes(difficulty):
    """200 x 200 pairs here; the closest of 8000 x 8000 correlate by 0.905."""
    splits = ["train"] * 200 + ["val"] * 200
    prints = np.stack([leakage.fingerprint(scene(i, side=64, difficulty=difficulty)) for i in range(400)])
    assert leakage.lookalikes(prints, splits) == [None] * 400


def test_lookalikes_are_the_closest_of_an_earlier_split_whatever_the_block(monkeypatch):
    rng = np.random.default_rng(0)
    base = rng.standard_normal((6, 256))
    prints = base[rng.integers(0, 6, 60)] + rng.normal(0, 0.05, (60, 256))
    prints = (prints / np.linalg.norm(prints, axis=1, keepdims=True)).astype(np.float16)
    splits = [str(s) for s in rng.permutation(["train"] * 30 + ["val"] * 15 + ["test"] * 15)]

    order = ("train", "val", "test")
    similar = prints.astype(np.float32) @ prints.astype(np.float32).T
    expected = []
    for i, split in enumerate(splits):
        earlier = [k for k, other in enumerate(splits) if order.index(other) < order.index(split)]
        best = max(earlier, key=lambda k: similar[i, k], default=None)
        expected.append(best if best is not None and similar[i, best] > leakage.RESEMBLES else None)

    assert sum(k is not None for k in expected) > 20
    for block in (7, 2048):
        monkeypatch.setattr(leakage, "BLOCK", block)
        assert leakage.lookalikes(prints, splits) == expected


def test_copies_name_the_image_to_keep():
    hashes = [b"a", b"b", b"a", b"a", b"b", b"c", b"a"]
    splits = ["train", "train", "train", "val", "test", "test", "test"]
    across, within = leakage.copies(hashes, splits)
    assert across == [None, None, None, 0, 1, None, 0]
    assert within == [None, None, 0, None, None, None, None]


def test_no_image_has_no_lookalike():
    assert leakage.lookalikes(np.empty((0, 256), np.float16), []) == []
    assert leakage.copies([], []) == ([], [])
