"""Two models side by side: differences, intervals and pictures against what each of the two gives alone."""

from dataclasses import replace
from functools import cache

import pytest

from pipelines.errors import DataError
from pipelines.evaluation.evaluator import VIEWS, Detail, score
from pipelines.evaluation.per_image import PerImage
from pipelines.metrics import paired
from pipelines.reporting import charts, comparison
from pipelines.reporting.charts.differences import Difference
from pipelines.reporting.comparison import signed
from pipelines.reporting.sides import Side
from tests.reporting.test_report import Page
from tests.scenes import Memory, prediction

HEADLINES = {"semantic": ("miou", "iou"), "instance": ("ap", "ap_per_class"), "panoptic": ("pq", "pq_per_class")}
COST = {"latency_ms": 20.0, "images_per_second": 50.0, "parameters": 100, "device": "cpu"}
RESAMPLES, SEED = 60, 3
DATASET = {"name": "shapes", "split": "test", "dataset hash": "f" * 64}


@pytest.fixture(scope="module")
def sides(records, classes):
    """sides(task) -> a model that gets worse from image to image, and one that gets better."""

    @cache
    def make(task: str) -> tuple[Side, Side]:
        made = []
        for name, shifts in (("version 1", range(len(records))), ("version 2", range(len(records))[::-1])):
            answers = [prediction(r, classes, shift=s, task=task) for r, s in zip(records, shifts, strict=True)]
            model = Memory(task, classes, records, answers)
            found = score(model, records, batch_size=4, detail=Detail(boundary=0.02, edge=0, resamples=40, seed=0))
            images = PerImage.of(found, [r.id for r in records])
            identity = {"model": "a model", "weights": name}
            made.append(
                Side(
                    name=name,
                    metrics=found.compute(),
                    images=images,
                    predict=model.predict,
                    cost=COST,
                    identity=identity,
                )
            )
        return made[0], made[1]

    return make


@pytest.fixture(scope="module")
def page(sides, records, classes):
    """page(task, first=, second=, ...) -> HTML; the sides' own, if none are given."""

    def make(task: str, *given: Side, reader=records, **changed) -> str:
        first, second = given or sides(task)
        options = {"task": task, "classes": classes, "dataset": DATASET, "resamples": RESAMPLES, "seed": SEED}
        return comparison.render(first, second, reader, **{**options, "cases": 2, **changed})

    return make


@pytest.mark.parametrize("task", VIEWS)
def test_says_the_differences_and_how_sure_they_are(task, sides, page, classes):
    first, second = sides(task)
    text = Page(page(task)).text
    headline, key = HEADLINES[task]
    old, new = (side.images.replicates(resamples=RESAMPLES, seed=SEED) for side in (first, second))
    count = len(first.images.ids)
    whole = paired.difference(old[headline], new[headline], images=count, level=0.95)
    change = second.metrics[task][headline] - first.metrics[task][headline]
    assert signed(change) in text
    assert f"95 %: {signed(whole.low)} to {signed(whole.high)}" in text
    for i, info in enumerate(classes):
        a, b = (side.metrics[task][key].get(info.name) for side in (first, second))
        if a is None or b is None:
            continue
        found = paired.difference(old[key][:, i], new[key][:, i], images=count, level=0.95)
        assert all(said in text for said in (charts.number(a), charts.number(b), signed(b - a)))
        assert f"{signed(found.low)} to {signed(found.high)}" in text


@pytest.mark.parametrize("task", VIEWS)
def test_shows_the_images_where_they_differ_most(task, sides, page):
    """Of images that get worse in one and better in the other these are the ends."""
    first, second = sides(task)
    scores = [side.images.scores() for side in (first, second)]
    changes = {i: b - a for i, a, b in zip(first.images.ids, *scores, strict=True) if a is not None and b is not None}
    order = sorted((i for i in changes if changes[i]), key=changes.get)
    expected = [i for i in order[:-3:-1] if changes[i] > 0] + [i for i in order[:2] if changes[i] < 0]
    found = Page(page(task))
    shown = list(dict.fromkeys(img["alt"].rsplit(": ", 1)[1] for img in found.all("img")))
    assert shown == expected
    assert len(found.all("img")) == 6 * len(expected)
    better = sum(change > 0 for change in changes.values())
    assert f"{better} images" in found.text
    spots = [c for c in found.all("circle") if "point" in c["class"]]
    assert [sum(kind in c["class"] for c in spots) for kind in ("gain", "loss")] == [
        better,
        sum(change < 0 for change in changes.values()),
    ]


@pytest.mark.parametrize("task", VIEWS)
def test_needs_nothing_from_outside(task, page):
    html = page(task)
    found = Page(html)
    assert "http" not in html
    assert "url(" not in html
    assert not found.all("script") + found.all("link")
    assert all(img["src"].startswith("data:image/webp;base64,") and img["alt"] for img in found.all("img"))
    targets = {attrs.get("id") for _, attrs in found.tags}
    assert {a["href"][1:] for a in found.all("a")} <= targets
    assert len(html) < 2_500_000
    assert html == page(task), "the same models give the same bytes"


def test_a_model_against_itself_differs_in_nothing(sides, page):
    first, _ = sides("panoptic")
    found = Page(page("panoptic", first, replace(first, name="version 2")))
    assert "+0.000 95 %: +0.000 to +0.000" in " ".join(found.text.split())
    assert "cannot tell them apart" in found.text
    assert not found.all("img")


def test_costs_stand_side_by_side(sides, page):
    first, second = sides("semantic")
    faster = {"latency_ms": 10.0, "images_per_second": 100.0, "parameters": 0, "device": "cpu"}
    text = Page(page("semantic", first, replace(second, cost=faster))).text
    assert "× 0.50" in text
    assert "× 2.00" in text
    assert "Both on cpu" in text
    elsewhere = replace(second, cost={**faster, "device": "a GPU"})
    assert "times and memory of two devices do not compare" in Page(page("semantic", first, elsewhere)).text
    assert 'id="cost"' not in page("semantic", first, replace(second, cost={}))


def test_without_models_or_images_there_are_numbers_and_no_pictures(sides, page):
    first, second = sides("semantic")
    assert not Page(page("semantic", reader=None)).all("img")
    assert not Page(page("semantic", first, replace(second, predict=None))).all("img")
    html = page("semantic", reader=None, resamples=0)
    assert "Too few images for an interval" in html
    assert 'id="classes"' in html


def test_other_images_are_refused(sides, page, records):
    first, second = sides("semantic")
    others = replace(second, images=replace(second.images, ids=tuple("abcdefg")))
    with pytest.raises(
        DataError, match=r"version 1 was measured on 7 images, version 2 on 7, and they are not the same"
    ):
        page("semantic", first, others)
    with pytest.raises(DataError, match=r"image \d is .*, and was .* when version 1 was measured"):
        page("semantic", reader=records[::-1])


def test_names_are_text_and_never_markup(sides, page, classes):
    evil = '<script>alert("1")</script>'
    first, second = sides("semantic")
    old = classes[3].name

    def renamed(value):
        return {evil if k == old else k: renamed(v) for k, v in value.items()} if isinstance(value, dict) else value

    first, second = (
        replace(side, name=f"{evil}{i}", metrics=renamed(side.metrics), identity={evil: evil})
        for i, side in enumerate((first, second))
    )
    table = tuple(replace(c, name=evil) if c.name == old else c for c in classes)
    html = page("semantic", first, second, classes=table, dataset={"name": evil}, verdict=evil)
    assert "<script" not in html.lower()
    assert evil in Page(html).text


def test_a_difference_is_sure_when_its_interval_does_not_hold_0():
    rows = [
        Difference(name="up", value=0.2, interval=(0.1, 0.3)),
        Difference(name="perhaps", value=0.1, interval=(-0.1, 0.3)),
        Difference(name="down", value=-0.2, interval=(-0.3, -0.1)),
        Difference(name="unknown", value=-0.1, interval=None),
    ]
    found = Page(charts.differences(rows, title="t"))
    kinds = [r["class"] for r in found.all("rect")]
    assert kinds == ["gain", "gain unsure", "loss", "loss unsure"]
    zero = next(float(line["x1"]) for line in found.all("line") if line["class"] == "axis")
    sides_of = [(float(r["x"]) - zero, float(r["x"]) + float(r["width"]) - zero) for r in found.all("rect")]
    assert [round(sum(ends)) > 0 for ends in sides_of] == [True, True, False, False]
    Page(charts.differences([Difference(name="same", value=0.0, interval=(0.0, 0.0))], title="t"))


def test_the_chart_of_many_images_is_bounded(page, monkeypatch):
    monkeypatch.setattr(comparison, "POINTS", 3)
    found = Page(page("semantic", reader=None))
    assert 0 < len([c for c in found.all("circle") if "point" in c["class"]]) <= 3
    assert "of them are drawn" in found.text


def test_the_chart_of_images_reaches_around_all_of_them():
    """Whatever the scores are, each spot is between the axes, and above the diagonal where the second is better."""
    for points in ([("a", 0.31, 0.42), ("b", 0.42, 0.35)], [("a", 1.0, 0.95)], [("a", 0.0, 0.0)], [("a", 0.5, 0.5)]):
        found = Page(charts.against(points, title="t", x="x", y="y"))
        (line,) = [at for at in found.all("line") if at["class"] == "equal"]
        for spot, (_, one, other) in zip(found.all("circle"), points, strict=True):
            x, y = float(spot["cx"]), float(spot["cy"])
            assert float(line["x1"]) <= x <= float(line["x2"])
            assert float(line["y2"]) <= y <= float(line["y1"])
            above = float(line["y1"]) - (x - float(line["x1"])) - y
            assert (above > 0.2) == (other > one)
