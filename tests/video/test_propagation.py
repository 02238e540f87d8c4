"""Masks that follow their objects: as far as the simplest cannot, around each other, out of the frame and back."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.video import affinity
from pipelines.video.propagation import Options, Propagator

OPTIONS = Options(flow=True, memory=3, finer=1, radius=6, most=5, temperature=0.05, snap=None, again=0.8)
STRIDE = 4


def colors(image: np.ndarray) -> Tensor:
    """An encoder that sees nothing but colours."""
    seen = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None] / 255 - 0.45
    return F.normalize(F.avg_pool2d(seen, STRIDE)[0], dim=0)


def followed(film, options: Options, given: Sequence[int], **parts) -> list[np.ndarray]:
    propagator = Propagator(options, features=colors, **parts)
    found = []
    for k, (image, ids) in enumerate(film):
        now = propagator.step(image)
        found.append(propagator.give(ids, given) if k == 0 else now)
    return found


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return np.count_nonzero(one & other) / max(np.count_nonzero(one | other), 1)


PATHS = [[(14.0, 12.0 + 3 * k) for k in range(14)], [(36.0, 60.0 - 3 * k) for k in range(14)]]


@pytest.mark.parametrize(
    ("options", "least"),
    [(OPTIONS, 0.6), (replace(OPTIONS, flow=False), 0.6), (replace(OPTIONS, flow=False, finer=2, radius=12), 0.7)],
    ids=["both", "resemblance", "finer"],
)
def test_objects_are_followed(film: Callable, options: Options, least: float) -> None:
    made = film(PATHS)
    found = followed(made, options, [1, 2])
    still = [iou(made.ids[0] == i, made.ids[-1] == i) for i in (1, 2)]
    assert max(still) < 0.1
    assert min(iou(found[-1] == i, made.ids[-1] == i) for i in (1, 2)) > least


def test_flow_alone_is_better_than_to_stay(film: Callable) -> None:
    made = film([[path[0], *path[1:6]] for path in PATHS])
    found = followed(made, replace(OPTIONS, memory=0), [1, 2])
    for i in (1, 2):
        assert iou(found[-1] == i, made.ids[-1] == i) > iou(made.ids[0] == i, made.ids[-1] == i) + 0.2


def test_the_given_frame_is_what_was_given(film: Callable) -> None:
    made = film(PATHS)
    assert np.array_equal(followed(made, OPTIONS, [1, 2])[0], made.ids[0])
    assert np.array_equal(followed(made, OPTIONS, [2])[0], np.where(made.ids[0] == 2, 2, 0))


def test_segments_of_the_image_model_keep_outlines_sharp(film: Callable) -> None:
    made = film(PATHS)
    truth = {image.tobytes(): ids for image, ids in made}

    def segments(image: np.ndarray) -> list[np.ndarray]:
        ids = truth[image.tobytes()]
        return [ids == i for i in (1, 2) if (ids == i).any()]

    found = followed(made, replace(OPTIONS, snap=0.3), [1, 2], segments=segments)
    assert all(np.array_equal(f, t) for f, t in zip(found, made.ids, strict=True))


def test_one_that_left_is_gone_and_comes_back_as_itself(film: Callable) -> None:
    out = [(24.0, 60.0), (24.0, 66.0), (24.0, 72.0), *[(24.0, 200.0)] * 5, (24.0, 8.0), (24.0, 12.0)]
    made = film([out, [(24.0, 30.0)] * len(out)])  # it comes back on the other side
    truth = {image.tobytes(): ids for image, ids in made}

    def segments(image: np.ndarray) -> list[np.ndarray]:
        return [truth[image.tobytes()] == i for i in (1, 2) if (truth[image.tobytes()] == i).any()]

    found = followed(made, replace(OPTIONS, snap=0.3), [1, 2], segments=segments)
    assert not (found[6] == 1).any()
    assert iou(found[-1] == 1, made.ids[-1] == 1) > 0.9
    assert iou(found[-1] == 2, made.ids[-1] == 2) > 0.9
    never = followed(made, replace(OPTIONS, snap=0.3, again=None), [1, 2], segments=segments)
    assert not (never[-1] == 1).any()


def test_an_object_may_be_given_later(film: Callable) -> None:
    made = film(PATHS)
    propagator = Propagator(OPTIONS, features=colors)
    for k, (image, ids) in enumerate(made):
        now = propagator.step(image)
        if k in (0, 5):
            now = propagator.give(ids, [2 if k else 1])
        if k < 5:
            assert set(np.unique(now)) <= {0, 1}
    assert min(iou(now == i, made.ids[-1] == i) for i in (1, 2)) > 0.5


def test_memory_does_not_grow_with_the_video(film: Callable) -> None:
    made = film([[(24.0, 36.0)] * 2])
    propagator = Propagator(OPTIONS, features=colors)
    propagator.step(made.images[0])
    propagator.give(made.ids[0], [1])
    for _ in range(20):
        propagator.step(made.images[1])
    assert (len(propagator.given), len(propagator.recent)) == (1, OPTIONS.memory)


def test_nothing_given_is_nothing_found(film: Callable) -> None:
    made = film(PATHS)
    propagator = Propagator(OPTIONS, features=colors)
    assert not any(propagator.step(image).any() for image in made.images[:3])


@pytest.mark.parametrize("radius", [1, 3, 20])
def test_carried_labels_are_those_of_brute_force(radius: int) -> None:
    generator = torch.Generator().manual_seed(radius)
    size, frames, most, temperature = (5, 7), 3, 4, 0.1
    query = F.normalize(torch.randn(6, *size, generator=generator), dim=0)
    known = [
        (F.normalize(torch.randn(6, *size, generator=generator), dim=0), torch.rand(2, *size, generator=generator))
        for _ in range(frames)
    ]
    found = affinity.carry(query, known, radius=radius, most=most, temperature=temperature)
    for y in range(size[0]):
        for x in range(size[1]):
            near = [
                (float(features[:, v, u] @ query[:, y, x]), labels[:, v, u])
                for features, labels in known
                for v in range(size[0])
                for u in range(size[1])
                if abs(v - y) <= radius and abs(u - x) <= radius
            ]
            best = sorted(near, key=lambda pair: -pair[0])[:most]
            weights = (torch.tensor([s for s, _ in best]) / temperature).softmax(dim=0)
            expected = (weights[:, None] * torch.stack([labels for _, labels in best])).sum(dim=0)
            assert found[:, y, x].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
