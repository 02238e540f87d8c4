"""Every check has a dataset here that breaks it, and it alone: one without is a failing test."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import great_expectations.expectations as gxe
import numpy as np
import pytest

from pipelines.data import rle, shards
from pipelines.data.schema import IGNORE, ClassInfo, Record, Segment
from pipelines.errors import RunError
from pipelines.validation.checks import Tables, tabulate
from pipelines.validation.expectations import Check, Count, Limits, guards, judge
from pipelines.validation.intake import Finding, Intake
from pipelines.validation.suites import CHECKS

SKY, SAND, CAT, DOG = range(4)
CLASSES = (
    ClassInfo(name="sky", color=(80, 160, 220), isthing=False),
    ClassInfo(name="sand", color=(230, 210, 150), isthing=False),
    ClassInfo(name="cat", color=(220, 120, 40), isthing=True),
    ClassInfo(name="dog", color=(90, 60, 40), isthing=True),
)
HEIGHT, WIDTH = 32, 48
IMAGES = {"train": 6, "val": 3, "test": 2}
LIMITS = Limits(
    task="panoptic",
    min_images={"train": 6, "val": 3, "test": 2},
    max_ignored=0.2,
    min_class_pixels=1,
    max_class_drift=0.2,
    max_size_drift=0.2,
)


def box(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + height, left : left + width] = True
    return mask


CORNER = box(0, 40, 4, 4)  # of the sky, in every image


def segment(category: int, mask: np.ndarray, *, iscrowd: bool = False) -> Segment:
    area = int(mask.sum())
    return Segment(category=category, bbox=rle.bbox(mask), area=area, iscrowd=iscrowd, counts=rle.encode(mask))


def encode(image: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def painting(seed: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR)


def record(split: str, index: int) -> Record:
    """Sky above sand, a cat and a dog; no two are alike."""
    seed = index + 100 * ("train", "val", "test").index(split)
    cat, dog = box(4 + index, 4, 6, 6), box(14 + index, 20 + seed % 7, 6, 6)
    semantic = np.full((HEIGHT, WIDTH), SKY, np.uint8)
    semantic[HEIGHT // 2 :] = SAND
    semantic[cat], semantic[dog] = CAT, DOG
    return Record(
        id=f"{split}/{index}",
        split=split,
        image=encode(painting(seed)),
        format="png",
        height=HEIGHT,
        width=WIDTH,
        semantic=semantic,
        segments=(segment(CAT, cat), segment(DOG, dog)),
    )


def healthy() -> list[Record]:
    return [record(split, index) for split, count in IMAGES.items() for index in range(count)]


Edit = Callable[[Record], Record]


@dataclass(frozen=True, kw_only=True)
class Broken:
    """How to break one check: records by id, then the measured tables where no dataset that ingest writes can be so."""

    edit: dict[str, Edit] = field(default_factory=dict)
    everywhere: Edit = lambda r: r
    drop: tuple[str, ...] = ()
    more: int = 0  # training images: from fewer, chance explains nearly everything
    classes: tuple[ClassInfo, ...] = CLASSES
    tables: Callable[[Tables], Tables] = lambda tables: tables
    intake: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    also: frozenset[str] = frozenset()  # what cannot hold then either
    says: str = ""


def table(name: str, **columns: Any) -> Callable[[Tables], Tables]:
    """Set columns' first rows."""

    def edit(tables: Tables) -> Tables:
        frame = getattr(tables, name).copy()
        for column, value in columns.items():
            frame.loc[0, column] = value
        return replace(tables, **{name: frame})

    return edit


def paint(category: int, mask: np.ndarray = CORNER) -> Edit:
    def edit(r: Record) -> Record:
        semantic = r.semantic.copy()
        semantic[mask] = category
        return replace(r, semantic=semantic)

    return edit


def recolor(old: int, new: int) -> Edit:
    return lambda r: paint(new, r.semantic == old)(r)


def first(**changes: Any) -> Edit:
    return lambda r: replace(r, segments=(replace(r.segments[0], **changes), *r.segments[1:]))


def add(*segments: Segment) -> Edit:
    return lambda r: replace(r, segments=(*r.segments, *segments))


def looks_like(split: str, index: int, *, suffix: str | None = None, relabelled: bool = False) -> Edit:
    """The picture of another record, as it is or saved anew, with its labels or one's own."""

    def edit(r: Record) -> Record:
        other = record(split, index)
        image = cv2.imdecode(np.frombuffer(other.image, np.uint8), cv2.IMREAD_COLOR)
        picture = {"image": encode(image, suffix), "format": "jpeg"} if suffix else {"image": other.image}
        labels = {} if relabelled else {"semantic": other.semantic, "segments": other.segments}
        return replace(r, **picture, **labels)

    return edit


def bare(r: Record) -> Record:
    """No things."""
    semantic = np.where(r.semantic >= CAT, SAND, r.semantic).astype(np.uint8)
    return replace(r, semantic=semantic, segments=())


def written_with(pixels: np.ndarray, **changes: Any) -> Edit:
    """What ingest would not write: bytes that are not these pixels."""
    return lambda r: replace(r, pixels=pixels, **changes)


def larger(r: Record) -> Record:
    """The same scene in 64 x 96, its things as they were."""
    semantic = np.full((2 * HEIGHT, 2 * WIDTH), SKY, np.uint8)
    semantic[HEIGHT:] = SAND
    semantic[:HEIGHT, :WIDTH][r.semantic >= CAT] = r.semantic[r.semantic >= CAT]
    masks = [np.pad(rle.decode(s.counts, HEIGHT, WIDTH), ((0, HEIGHT), (0, WIDTH))) for s in r.segments]
    segments = tuple(segment(s.category, m) for s, m in zip(r.segments, masks, strict=True))
    picture = cv2.resize(cv2.imdecode(np.frombuffer(r.image, np.uint8), cv2.IMREAD_COLOR), (2 * WIDTH, 2 * HEIGHT))
    return replace(r, height=2 * HEIGHT, width=2 * WIDTH, image=encode(picture), semantic=semantic, segments=segments)


def halved(r: Record) -> Record:
    """Each thing cut in two: twice as many, half as large."""
    halves = []
    for s in r.segments:
        mask = rle.decode(s.counts, HEIGHT, WIDTH)
        left = mask & (np.arange(WIDTH) < s.bbox[0] + s.bbox[2] // 2)
        halves += [segment(s.category, left), segment(s.category, mask & ~left)]
    return replace(r, segments=tuple(halves))


def crowds(*categories: int) -> Edit:
    return lambda r: replace(r, segments=tuple(replace(s, iscrowd=s.category in categories) for s in r.segments))


def black_and_white(r: Record) -> Record:
    return replace(r, semantic=np.where(r.semantic >= CAT, 255, 0).astype(np.uint8), segments=())


def of_train(edit: Edit, images: int = 6) -> dict[str, Edit]:
    return {f"train/{i}": edit for i in range(images)}


STUFF = tuple(replace(c, isthing=False) for c in CLASSES)
INSTANCE, SEMANTIC = {"task": "instance"}, {"task": "semantic"}
BROKEN = {
    "ingest.quarantined": Broken(
        intake={
            "found": 14,
            "kept": 11,
            "quarantined": 3,
            "findings": (
                *(Finding(file=f, outcome="quarantined", kind="truncated", reason="") for f in ("a.png", "b.png")),
                Finding(file="c.png", outcome="quarantined", kind="no-mask", reason=""),
                Finding(file="d.png", outcome="mended", kind="palette", reason=""),
            ),
        },
        says="ingest left out 3 of 14 images (21.4%), for these faults: truncated 2, no-mask 1",
    ),
    "structure.ids": Broken(tables=table("images", id="train/1"), says="2 images with the same id"),
    "structure.decodes": Broken(edit={"val/0": written_with(painting(0), image=encode(painting(0))[:8])}, says="val/0"),
    "structure.format": Broken(edit={"val/0": lambda r: replace(r, format="jpeg")}, says="val/0: jpeg, holds png"),
    "structure.size": Broken(
        edit={"val/0": written_with(painting(0), image=encode(painting(7, (49, HEIGHT))))},
        says="mask 48x32, image 49x32",
    ),
    "structure.images": Broken(tables=table("splits", declared_images=7), says="train: 6, said 7"),
    "structure.instances": Broken(tables=table("splits", declared_instances=13), says="train: 12, said 13"),
    "structure.statistics": Broken(tables=table("dataset", statistics_agree=False)),
    "splits.train": Broken(drop=("train/5",), says="5 rows, expected at least 6"),
    "splits.val": Broken(drop=("val/0", "val/1", "val/2"), says="0 rows, expected at least 3"),
    "splits.test": Broken(drop=("test/0",), says="1 row, expected at least 2"),
    "task.classes": Broken(
        everywhere=lambda r: replace(r, semantic=np.zeros_like(r.semantic), segments=()),
        classes=CLASSES[:1],
        limits=SEMANTIC,
        also=frozenset({"labels.background"}),
        says="1 class declared",
    ),
    "task.things": Broken(
        everywhere=lambda r: replace(r, segments=()),
        classes=STUFF,
        limits=INSTANCE,
        also=frozenset({"task.instances", "labels.instances"}),
        says="set task: semantic",
    ),
    "task.instances": Broken(
        edit=of_train(crowds(CAT, DOG)),
        limits=INSTANCE,
        also=frozenset({"labels.instances", "classes.instances"}),
        says="task instance learns",
    ),
    "segments.runs": Broken(
        edit={"train/0": first(counts=np.array([10, 20], np.uint32))}, limits=INSTANCE, says="train/0 segment 0"
    ),
    "segments.area": Broken(edit={"train/0": first(area=37)}, says="37, the mask has 36"),
    "segments.box": Broken(edit={"train/0": first(bbox=(4, 4, 10, 10))}, says="4 4 10 10, the mask has 4 4 6 6"),
    "segments.empty": Broken(edit={"train/0": add(segment(CAT, box(0, 0, 0, 0)))}, says="train/0 segment 2"),
    "segments.tiny": Broken(
        edit={"train/0": lambda r: add(segment(SKY, box(0, 45, 1, 3)))(r)},
        classes=(replace(CLASSES[SKY], isthing=True), *CLASSES[1:]),
        limits=INSTANCE,
        says="1 mask of fewer than 4 pixels (train/0 segment 2: 3 pixels)",
    ),
    "segments.declared": Broken(
        edit={"train/0": lambda r: add(segment(21, CORNER))(paint(IGNORE)(r))}, says="train/0 segment 2: class 21"
    ),
    "segments.things": Broken(edit={"train/0": add(segment(SKY, CORNER))}, says="class 0"),
    "segments.agreement": Broken(edit={"train/0": add(segment(CAT, CORNER))}, says="train/0 segment 2: 0% agree"),
    "segments.disjoint": Broken(edit={"train/0": lambda r: add(r.segments[0])(r)}, says="train/0: 2.3%"),
    "segments.complete": Broken(edit={"train/0": paint(CAT)}, says="train/0: 1.0%"),
    "labels.ids": Broken(
        edit={"train/0": paint(21), "val/0": paint(4)},
        says="2 images with class ids {4, 21} outside 0..3, ignore 255 (4: 16 pixels, 21: 16 pixels)",
    ),
    "labels.binary": Broken(
        everywhere=black_and_white,
        limits={**SEMANTIC, "min_class_pixels": 0},
        also=frozenset({"labels.background", "classes.elsewhere"}),
        says="black and white",
    ),
    "labels.empty": Broken(
        edit={"val/0": lambda r: replace(paint(IGNORE, box(0, 0, HEIGHT, WIDTH))(r), segments=())}, says="val/0"
    ),
    "labels.background": Broken(
        edit=of_train(lambda r: replace(bare(r), semantic=np.full_like(r.semantic, SKY)), 4),
        limits={**SEMANTIC, "max_class_drift": 1.0},
        says="4 training images",
    ),
    "labels.instances": Broken(edit=of_train(bare, 4), says="4 training images without an instance"),
    "labels.ignored": Broken(edit=of_train(paint(IGNORE, box(0, 26, HEIGHT, 22))), limits=INSTANCE, says="at most 20%"),
    "classes.train": Broken(
        edit=of_train(recolor(DOG, SAND)), limits={**SEMANTIC, "min_class_pixels": 5}, says="dog: 0 pixels"
    ),
    "classes.instances": Broken(edit=of_train(crowds(DOG)), says="(dog)"),
    "classes.elsewhere": Broken(
        edit={f"val/{i}": recolor(DOG, SAND) for i in range(3)}, limits=SEMANTIC, says="dog in val"
    ),
    "classes.drift": Broken(
        edit={f"val/{i}": paint(SKY, box(24, 0, 8, WIDTH)) for i in range(3)},
        says="val (3 images): total variation 0.25, at most 0.2",
    ),
    "sizes.images": Broken(
        edit={f"val/{i}": larger for i in range(3)}, more=6, says="val (3 images): 1.00, at most 0.2"
    ),
    "sizes.objects": Broken(
        edit={f"val/{i}": halved for i in range(3)}, more=6, says="val (3 images): 1.00, at most 0.2"
    ),
    "leakage.copies": Broken(
        edit={"val/0": looks_like("train", 1, relabelled=True), "test/1": looks_like("train", 2)},
        says="1 image in both train and val, 1 image in both train and test (val/0 is train/1; test/1 is train/2)",
    ),
    "leakage.reencodings": Broken(edit={"val/0": looks_like("train", 1, suffix=".jpg")}, says="val/0 is train/1"),
    "leakage.lookalikes": Broken(
        edit={"test/0": looks_like("val", 1, suffix=".jpg", relabelled=True)}, says="test/0 is like val/1"
    ),
    "leakage.repeats": Broken(edit={"val/1": looks_like("val", 0)}, says="val/1 is val/0"),
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, clean: Intake) -> Callable[..., Tables]:
    def measure(broken: Broken) -> Tables:
        folder = tmp_path_factory.mktemp("dataset")
        records = [broken.edit.get(r.id, broken.everywhere)(r) for r in healthy() if r.id not in broken.drop]
        records += [record("train", IMAGES["train"] + k) for k in range(broken.more)]
        shards.write(records, classes=broken.classes, name="pets", format="folder", out=folder, rows_per_shard=4)
        return broken.tables(tabulate(folder, replace(clean, **broken.intake)))

    return measure


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_check_fires_alone(check, measured):
    broken = BROKEN[check.name]
    outcomes = {o.name: o for o in judge(measured(broken), replace(LIMITS, **broken.limits), CHECKS)}
    assert {o.name for o in outcomes.values() if not o.success} == {check.name, *broken.also}
    assert outcomes[check.name].severity == check.severity
    assert outcomes[check.name].line.startswith(f"{check.name}: ")
    assert broken.says in outcomes[check.name].line


def test_a_healthy_dataset_passes_for_every_task(measured):
    tables = measured(Broken())
    for task in ("semantic", "instance", "panoptic"):
        outcomes = judge(tables, replace(LIMITS, task=task), CHECKS)
        assert [o.line for o in outcomes if not o.success] == []
        assert len({o.name for o in outcomes}) == len(outcomes)


def test_ids_that_start_at_1_are_said_to(measured):
    tables = measured(Broken(everywhere=lambda r: replace(r, semantic=r.semantic + 1, segments=())))
    (outcome,) = (o for o in judge(tables, replace(LIMITS, task="semantic"), CHECKS) if o.name == "labels.ids")
    assert "class ids {4} outside 0..3" in outcome.line
    assert "the ids seem to start at 1" in outcome.line


def test_a_split_of_which_nothing_is_labelled_stops_the_line(measured):
    nothing = lambda r: replace(paint(IGNORE, box(0, 0, HEIGHT, WIDTH))(r), segments=())  # noqa: E731
    tables = measured(Broken(edit={f"val/{i}": nothing for i in range(3)}))
    failed = {o.name: o for o in judge(tables, LIMITS, CHECKS) if not o.success}
    assert failed["classes.drift"].severity == "critical"
    assert "val (3 images): total variation 1.00" in failed["classes.drift"].line
    assert "3 images without a labelled pixel" in failed["labels.empty"].line
    assert "4 classes missing from a split" in failed["classes.elsewhere"].line


def test_a_class_that_is_missing_from_val_and_test_is_named_for_each(measured):
    edit = {**{f"val/{i}": recolor(DOG, SAND) for i in range(3)}, **{f"test/{i}": recolor(CAT, SAND) for i in range(2)}}
    (outcome,) = (
        o for o in judge(measured(Broken(edit=edit)), replace(LIMITS, task="semantic"), CHECKS) if not o.success
    )
    assert (outcome.name, outcome.severity) == ("classes.elsewhere", "warning")
    assert "dog in val; cat in test" in outcome.line


def test_decoded_pixels_are_a_format_too(measured):
    raw = {
        f"val/{i}": lambda r: replace(r, image=painting(int(r.id[-1]) + 50).tobytes(), format="raw") for i in range(3)
    }
    assert [o.line for o in judge(measured(Broken(edit=raw)), LIMITS, CHECKS) if not o.success] == []
    short = {"val/0": written_with(painting(0), image=painting(0).tobytes()[:-1], format="raw")}
    failed = {o.name for o in judge(measured(Broken(edit=short)), LIMITS, CHECKS) if not o.success}
    assert failed == {"structure.decodes", "structure.format"}


def test_nothing_holds_of_empty_tables(measured):
    tables = measured(Broken())
    empty = {name: getattr(tables, name)[:0] for name in ("images", "segments", "coverage", "splits", "dataset")}
    failed = {o.name: o for o in judge(replace(tables, **empty), LIMITS, CHECKS) if not o.success}
    assert set(failed) == {f"rows.{name}" for name in empty}
    assert "the table of images has 0 rows, expected at least 11" in failed["rows.images"].line


def test_an_empty_dataset_fails(measured):
    tables = measured(Broken(drop=tuple(r.id for r in healthy())))
    failed = {o.name for o in judge(tables, LIMITS, CHECKS) if not o.success}
    assert {"rows.images", "splits.train", "splits.val", "splits.test", "classes.train", "task.instances"} <= failed


def test_the_training_split_may_never_be_empty(measured):
    tables = measured(Broken(drop=tuple(f"train/{i}" for i in range(6))))
    limits = replace(LIMITS, min_images={"train": 0, "val": 0, "test": 0}, min_class_pixels=0, max_class_drift=1.0)
    failed = {o.name: o for o in judge(tables, limits, CHECKS) if not o.success}
    assert "0 rows" in failed["splits.train"].line


def test_nothing_holds_of_columns_of_nulls(measured):
    """Each column that a check looks at is null in a row of its own."""
    tables = measured(Broken())
    expected: dict[str, list[str]] = {}
    nulls: dict[str, Any] = {}
    for name in ("images", "segments", "coverage", "splits", "dataset"):
        columns = {column for c in CHECKS if c.table == name and LIMITS.task in c.tasks for column in c.columns()}
        expected[f"known.{name}"] = sorted(columns - {"split"})
        frame = getattr(tables, name).astype("object")
        nulls[name] = frame.assign(**dict.fromkeys(expected[f"known.{name}"]))
    outcomes = {o.name: o for o in judge(replace(tables, **nulls), LIMITS, CHECKS)}
    for name, columns in expected.items():
        assert not outcomes[name].success
        assert outcomes[name].said[0] == ", ".join(columns)


def test_every_guard_is_tested(measured):
    names = {guard.name for guard in guards(measured(Broken()))}
    assert names == {f"{kind}.{name}" for kind in ("rows", "known") for name in {c.table for c in CHECKS}}


def test_a_check_that_cannot_be_computed_is_no_verdict(measured):
    wrong = Check(
        name="wrong",
        table="images",
        type=gxe.ExpectColumnValuesToBeNull,
        arguments={"column": "no such column"},
        expected="",
        fault="",
        do="",
    )
    with pytest.raises(RunError, match=r"wrong could not be computed: .*no such column"):
        judge(measured(Broken()), LIMITS, [wrong])


def test_markup_is_harmless_in_data_docs_and_whole_in_the_outcome(measured, tmp_path):
    evil = "<script>alert(1)</script>"
    rename = {f"train/{i}": lambda r: replace(r, id=f"{r.id}{evil}") for i in range(2)}
    tables = measured(Broken(edit={**rename, "val/0": looks_like("train", 1)}))
    outcomes = {o.name: o for o in judge(tables, LIMITS, CHECKS, docs=tmp_path)}
    assert outcomes["leakage.copies"].examples[0]["copy_of"] == f"train/1{evil}"
    pages = [page.read_text() for page in tmp_path.rglob("*.html")]
    assert any("train/1&lt;script&gt;" in page for page in pages)
    assert not any(evil in page for page in pages)


def test_count_speaks_its_noun():
    assert f"{Count(1):image} {Count(0):image} {Count(2):class|classes} {Count(3)}" == "1 image 0 images 2 classes 3"
