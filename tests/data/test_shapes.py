import hashlib
import subprocess
import sys
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from pipelines.data import panoptic, rle
from pipelines.data.formats import shapes
from pipelines.data.schema import IGNORE, Record, Segment

CLASSES = shapes.classes()
STUFF = [i for i, c in enumerate(CLASSES) if not c.isthing]
THINGS = [i for i, c in enumerate(CLASSES) if c.isthing]
IMAGES = 150


def draw(
    index: int = 0, *, split: str = "train", seed: int = 0, size: tuple[int, int] = (96, 96), d: float = 0.5
) -> Record:
    return shapes.draw(split, index, seed=seed, height=size[0], width=size[1], difficulty=d)


def pixels(record: Record) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(record.image, np.uint8), cv2.IMREAD_UNCHANGED)


def masks(record: Record) -> Iterator[tuple[Segment, np.ndarray]]:
    for segment in record.segments:
        yield segment, rle.decode(segment.counts, record.height, record.width)


def parts(mask: np.ndarray) -> int:
    """Connected parts of at least 8 pixels."""
    stats = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)[2]
    return int((stats[1:, cv2.CC_STAT_AREA] >= 8).sum())


def has_hole(mask: np.ndarray) -> bool:
    """Whether some ground is enclosed: contours that lie within another."""
    hierarchy = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[1]
    return bool((hierarchy[0, :, 3] >= 0).any())


def digest(record: Record) -> str:
    sha = hashlib.sha256(record.image + record.semantic.tobytes())
    for segment in record.segments:
        sha.update(segment.counts.tobytes())
        sha.update(repr((segment.category, segment.bbox, segment.area, segment.iscrowd)).encode())
    return sha.hexdigest()


@pytest.fixture(scope="module")
def default() -> list[Record]:
    return [draw(i, size=(128, 128)) for i in range(IMAGES)]


@pytest.fixture(scope="module")
def clean() -> list[Record]:
    return [draw(i, d=0.0) for i in range(60)]


@pytest.fixture(scope="module")
def hard() -> list[Record]:
    return [draw(i, d=1.0) for i in range(60)]


def test_the_classes_can_be_told_apart() -> None:
    assert len(STUFF) >= 3
    assert len(THINGS) >= 6
    assert len({c.name for c in CLASSES}) == len({c.color for c in CLASSES}) == len(CLASSES)


def test_the_plan_lists_every_image_once_in_order() -> None:
    plan = shapes.plan(splits={"train": 2, "val": 0, "test": 1})
    assert plan == [("train", 0), ("train", 1), ("test", 0)]


class TestDeterminism:
    def test_order_does_not_matter(self) -> None:
        forth = [digest(draw(i)) for i in range(6)]
        back = [digest(draw(i)) for i in reversed(range(6))]
        assert forth == back[::-1]

    def test_another_process_draws_the_same_bytes(self) -> None:
        script = (
            "import hashlib\nfrom pipelines.data.formats import shapes\n"
            "r = shapes.draw('val', 3, seed=7, height=64, width=80, difficulty=0.5)\n"
            "print(hashlib.sha256(r.image + r.semantic.tobytes()).hexdigest())"
        )
        other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        mine = draw(3, split="val", seed=7, size=(64, 80))
        assert other.stdout.strip() == hashlib.sha256(mine.image + mine.semantic.tobytes()).hexdigest()

    def test_the_global_state_is_neither_read_nor_changed(self) -> None:
        np.random.seed(1)
        expected, first = np.random.random(), digest(draw())
        np.random.seed(1)
        assert digest(draw()) == first
        assert np.random.random() == expected

    def test_opencv_s_threads_do_not_matter(self) -> None:
        threads = cv2.getNumThreads()
        try:
            found = set()
            for count in (1, 2, 4):
                cv2.setNumThreads(count)
                found.add(digest(draw(size=(300, 420), d=1.0)))
        finally:
            cv2.setNumThreads(threads)
        assert len(found) == 1

    def test_seeds_splits_and_indices_all_differ(self) -> None:
        drawn = [draw(i, split=s, seed=seed) for seed in (0, 1) for s in ("train", "val", "test") for i in range(12)]
        assert len({r.image for r in drawn}) == len({r.semantic.tobytes() for r in drawn}) == len(drawn)
        assert len({r.id for r in drawn}) == len(drawn) / 2


class TestTruth:
    @pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
    def test_the_segments_are_exactly_the_thing_pixels(self, difficulty: float) -> None:
        for index in range(60):
            record = draw(index, d=difficulty)
            painted = np.full(record.semantic.shape, -1)
            for segment, mask in masks(record):
                assert (painted[mask] == -1).all(), f"{record.id}: masks overlap"
                painted[mask] = segment.category
            isthing = np.isin(record.semantic, THINGS)
            assert (painted[isthing] == record.semantic[isthing]).all()
            assert (painted[~isthing] == -1).all()
            assert np.isin(record.semantic[~isthing], [*STUFF, IGNORE]).all()

    def test_area_and_box_are_those_of_the_mask(self, default: list[Record]) -> None:
        for record in default[:40]:
            for segment, mask in masks(record):
                rows, cols = np.nonzero(mask)
                assert segment.area == len(rows) > 0
                box = (cols.min(), rows.min(), np.ptp(cols) + 1, np.ptp(rows) + 1)
                assert segment.bbox == tuple(int(x) for x in box)

    def test_the_panoptic_view_loses_nothing(self, default: list[Record]) -> None:
        for record in default[:40]:
            truth = panoptic.truth(record, tuple(THINGS))
            named = np.append(truth.labels, IGNORE)[truth.ids - 1]  # void is 0: the last of the list
            assert (named == record.semantic).all()

    def test_things_stand_out_from_the_ground_they_hide(self) -> None:
        """The truth lies where the picture changes: image edges gather on the outlines of things."""
        contrast = []
        for index in range(20):
            record = draw(index, size=(128, 128), d=0.0)
            grey = cv2.cvtColor(pixels(record), cv2.COLOR_BGR2GRAY).astype(np.float32)
            edges = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
            for _, mask in masks(record):
                inside = mask.astype(np.uint8)
                outline = cv2.dilate(inside, np.ones((3, 3), np.uint8)) > cv2.erode(inside, np.ones((3, 3), np.uint8))
                contrast.append(edges[outline].mean() / edges.mean())
        assert np.median(contrast) > 1.5


class TestTraits:
    """Everything that makes segmentation hard occurs within some images of the default difficulty."""

    def test_every_class_is_common(self, default: list[Record]) -> None:
        counts = sum(np.bincount(r.semantic.ravel(), minlength=256) for r in default)
        share = counts / counts.sum()
        instances = np.bincount([s.category for r in default for s in r.segments], minlength=len(CLASSES))[THINGS]
        assert share[STUFF].min() > 0.15
        assert share[THINGS].min() > 0.008
        assert share[IGNORE] < 0.03
        assert instances.min() > 0.6 * instances.mean()

    def test_holes(self, default: list[Record]) -> None:
        assert sum(has_hole(m) for r in default for _, m in masks(r)) > IMAGES / 4

    def test_several_parts(self, default: list[Record]) -> None:
        assert sum(parts(m) > 1 for r in default for s, m in masks(r) if not s.iscrowd) > IMAGES / 4

    def test_things_cut_in_two_by_another(self, default: list[Record]) -> None:
        sandals = [c.name for c in CLASSES].index("sandals")  # in two parts by nature
        cut = [parts(m) > 1 for r in default for s, m in masks(r) if not s.iscrowd and s.category != sandals]
        assert 0.01 < np.mean(cut) < 0.15

    def test_crowds_of_many_parts(self, default: list[Record]) -> None:
        crowds = [parts(m) for r in default for s, m in masks(r) if s.iscrowd]
        assert IMAGES * 0.02 < len(crowds) < IMAGES * 0.12
        assert max(crowds) >= 4

    def test_small_and_large_things(self, default: list[Record]) -> None:
        extents = np.array([max(s.bbox[2:]) for r in default for s in r.segments if not s.iscrowd]) / 128
        assert np.mean(extents < 0.15) > 0.1
        assert np.mean(extents > 0.35) > 0.1
        assert np.mean((extents > 0.1) & (extents < 0.5)) > 0.85  # most are of a size that can be learned

    def test_several_things_in_an_image(self, default: list[Record]) -> None:
        things = [sum(not s.iscrowd for s in r.segments) for r in default]
        assert 4 < np.mean(things) < 7

    def test_ignored_borders_lie_around_things(self, default: list[Record]) -> None:
        bordered = 0
        for record in default:
            if not record.segments:
                continue
            ignored = record.semantic == IGNORE
            around = np.zeros(ignored.shape, bool)
            touching = 0
            for _, mask in masks(record):
                ring = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & ~mask
                around |= ring
                touching += bool(ignored[ring].any())
            bordered += touching == len(record.segments)
        assert IMAGES * 0.1 < bordered < IMAGES * 0.35

    def test_ignored_patches(self, default: list[Record]) -> None:
        solid = np.ones((9, 9), np.uint8)
        patches = [cv2.erode((r.semantic == IGNORE).astype(np.uint8), solid).any() for r in default]
        assert 0.01 < np.mean(patches) < 0.15


class TestParameters:
    @pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 160), (200, 96), (32, 512), (256, 384)])
    @pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
    def test_any_size(self, size: tuple[int, int], difficulty: float) -> None:
        for index in range(4):
            record = draw(index, size=size, d=difficulty)
            assert (record.height, record.width) == record.semantic.shape == size
            assert record.format == "png"
            image = pixels(record)
            assert image.shape == (*size, 3)
            assert image.dtype == np.uint8
            assert image.std() > 8

    def test_things_scale_with_the_image(self) -> None:
        def extent(side: int) -> float:
            sizes = [max(s.bbox[2:]) for i in range(30) for s in draw(i, size=(side, side), d=0.0).segments]
            return float(np.mean(sizes)) / side

        assert extent(64) == pytest.approx(extent(192), rel=0.1)

    def test_easy_images_are_clean(self, clean: list[Record]) -> None:
        assert not any(s.iscrowd for r in clean for s in r.segments)
        solid = np.ones((5, 5), np.uint8)
        assert not any(cv2.erode((r.semantic == IGNORE).astype(np.uint8), solid).any() for r in clean)

    def test_difficulty_adds_noise(self, clean: list[Record], hard: list[Record]) -> None:
        def noise(records: list[Record]) -> float:
            """What a median filter takes away, within areas of one class."""
            left = []
            for record in records:
                image = pixels(record)
                rest = image.astype(np.float32) - cv2.medianBlur(image, 3)
                left.append(np.abs(rest)[record.semantic == STUFF[0]].mean() if STUFF[0] in record.semantic else 0)
            return float(np.mean(left))

        assert noise(hard) > 1.5 * noise(clean)

    def test_difficulty_adds_small_and_hidden_things(self, clean: list[Record], hard: list[Record]) -> None:
        def small(records: list[Record]) -> list[bool]:
            return [max(s.bbox[2:]) < 0.15 * r.height for r in records for s in r.segments if not s.iscrowd]

        assert np.mean(small(hard)) > 2 * np.mean(small(clean))
        assert len(small(hard)) > 1.5 * len(small(clean))
        assert any(s.iscrowd for r in hard for s in r.segments)

    def test_the_colour_of_a_thing_tells_less_the_harder_it_is(self, clean: list[Record], hard: list[Record]) -> None:
        def scatter(records: list[Record]) -> float:
            """Mean over classes of the circular spread of the instances' hues: 0 all the same, 1 uniform."""
            hues: dict[int, list[complex]] = {}
            for record in records:
                hsv = cv2.cvtColor(pixels(record), cv2.COLOR_BGR2HSV)
                for segment, mask in masks(record):
                    vivid = mask & (hsv[..., 1] > 90)
                    if vivid.any():
                        angle = np.median(hsv[..., 0][vivid]) / 90 * np.pi
                        hues.setdefault(segment.category, []).append(np.exp(1j * angle))
            return float(np.mean([1 - abs(np.mean(h)) for h in hues.values()]))

        assert scatter(hard) > scatter(clean) + 0.15
