"""The page: whole, self-contained, escaped, bounded; and the images that it shows."""

import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from pipelines.data.prediction import Prediction
from pipelines.data.schema import Record
from pipelines.evaluation.evaluator import VIEWS, Detail, score
from pipelines.inference.cost import Cost
from pipelines.metrics import detection_calibration
from pipelines.metrics.calibration import Bin
from pipelines.reporting import browsing, cases, charts, failures, figures, plots, report
from pipelines.reporting.content import Evaluation

VOID = {"meta", "img", "input", "br", "link"}
HISTORY = {
    "epoch": [0.0, 1.0, 2.0],
    "train_loss": [3.0, 2.0, 1.5],
    "loss_semantic": [1.0, 0.8, 0.7],
    "val_miou": [0.1, 0.2, 0.3],
    "val_pq": [0.0, 0.1, 0.2],
    "learning_rate": [0.004, 0.002, 0.0],
    "seconds": [1.0, 1.0, 1.0],
}
COST = Cost(
    latency_ms=20.1,
    latency_p95_ms=31.7,
    images_per_second=81.0,
    memory_mb=931.0,
    parameters=4_120_331,
    size_mb=16.6,
    device="cpu",
    latencies_ms=(19.0, 20.1, 31.7),
)


class Page(HTMLParser):
    """Every tag opened is closed, in order; collects what a reader would see."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def fresh(records, classes, learned):
    """fresh(task) -> what a stage hands over."""

    def make(task: str) -> Evaluation:
        model, scores = learned(task), {}
        done = score(
            model,
            records,
            batch_size=4,
            detail=Detail(boundary=0.02, edge=0.02, resamples=50, seed=0),
            on_image=lambda _, record, value: scores.update({record.id: value}),
        )
        return Evaluation(
            title="a model on shapes",
            task=task,
            classes=classes,
            metrics=done.compute(),
            identity={"model": "a model", "dataset": "shapes"},
            split="test",
            history=HISTORY,
            confusion=done.semantic.confusion if done.semantic else None,
            calibration=done.calibration.bins() if done.calibration else [],
            detection_calibration=detection_calibration.counts(done.instance).bins() if done.instance else [],
            precision_recall={i: done.instance.precision_recall(i) for i in (0.5, 0.75)} if done.instance else {},
            scores=scores,
            cases=list(cases.collect(model, records, list(scores.values()), 1)),
            failures=done.failures,
            failures_shown=failures.collect(done.failures, model, records, classes),
            cost=COST,
        )

    return make


@pytest.fixture(scope="module")
def evaluation(fresh):
    """The same, made once for each task."""
    return cache(fresh)


@pytest.fixture(scope="module")
def rendered(evaluation):
    """The page of each task."""
    return cache(lambda task: report.render(evaluation(task)))


@pytest.mark.parametrize("task", VIEWS)
def test_shows_each_view_of_the_best_the_median_and_the_worst(task, evaluation, rendered):
    made = evaluation(task)
    page = Page(rendered(task))
    assert [case.kind for case in made.cases] == ["best", "median", "worst"]
    alts = [img["alt"] for img in page.all("img") if "loading" not in img]
    expected = [f"Image {case.record.id}" for case in made.cases]
    expected += [
        f"{view.capitalize()} {what} of {case.record.id}"
        for case in made.cases
        for view in VIEWS[task]
        for what in ("truth", "prediction", "errors")
    ]
    assert sorted(alts) == sorted(expected)
    assert {"best", "median", "worst"} <= set(re.findall(r"\w+", page.text.lower()))
    for case in made.cases:
        assert case.record.id in page.text
        assert charts.number(case.score) in page.text


@pytest.mark.parametrize("task", VIEWS)
def test_says_all_numbers(task, evaluation, rendered):
    made = evaluation(task)
    page = Page(rendered(task))
    for view, key in {"semantic": "iou", "instance": "ap_per_class", "panoptic": "pq_per_class"}.items():
        if view in VIEWS[task]:
            headline = {"semantic": "miou", "instance": "ap", "panoptic": "pq"}[view]
            assert charts.number(made.metrics[view][headline]) in page.text
            assert all(charts.number(value) in page.text for value in made.metrics[view][key].values())
    if "semantic" in VIEWS[task]:
        found = made.metrics["semantic"]
        for value in (found["boundary_f1"], found["ece"], *found["boundary_f1_per_class"].values()):
            assert charts.number(value) in page.text
    assert len(page.all("table")) == (1 if task == "semantic" else 2)
    assert all(th["scope"] in ("col", "row") for th in page.all("th"))
    assert all(svg["aria-label"] for svg in page.all("svg"))


@pytest.mark.parametrize("task", VIEWS)
def test_needs_nothing_from_outside(task, rendered):
    html = rendered(task)
    assert "http" not in html
    assert "@import" not in html
    assert "url(" not in html
    page = Page(html)
    assert page.all("script") == [{}]
    assert not page.all("link")
    assert all(img["src"].startswith("data:image/webp;base64,") for img in page.all("img"))
    assert all(a["href"].startswith("#") for a in page.all("a"))
    targets = {attrs.get("id") for _, attrs in page.tags}
    assert {a["href"][1:] for a in page.all("a")} <= targets


@pytest.mark.parametrize("task", VIEWS)
def test_says_how_sure_the_numbers_are(task, evaluation, rendered):
    """The headline's interval in words, each class's as a whisker from low to high."""
    made = evaluation(task)
    page = Page(rendered(task))
    headlines = {"semantic": ("miou", "iou"), "instance": ("ap", "ap_per_class"), "panoptic": ("pq", "pq_per_class")}
    headline, key = headlines[task]
    intervals = made.metrics[task]["intervals"]
    low, high = intervals[headline]
    assert low < made.metrics[task][headline] < high
    assert f"95 %: {charts.number(low)} to {charts.number(high)}" in page.text
    whiskers = [i["style"] for i in page.all("i") if "width" in i.get("style", "")]
    for low, high in filter(None, intervals[key].values()):
        assert f"left:{round(low * 100, 1)}%;width:{round((high - low) * 100, 1)}%" in whiskers


def test_few_images_and_no_probabilities(evaluation):
    """An evaluation without intervals, and a model that does not say how sure it is."""
    made = evaluation("semantic")
    bare = {name: value for name, value in made.metrics["semantic"].items() if name != "intervals"}
    html = report.render(replace(made, metrics={"semantic": {**bare, "ece": None, "mce": None}}, calibration=[]))
    assert "95 %" not in Page(html).text
    assert 'id="calibration"' not in html


def test_a_reliability_diagram_says_each_bin():
    bins = [
        Bin(low=0.4, high=0.6, confidence=0.5, accuracy=0.3, share=0.25),
        Bin(low=0.8, high=1.0, confidence=0.9, accuracy=0.95, share=0.75),
    ]
    page = Page(charts.reliability(bins))
    assert "said 50.0%, right 30.0%: 25.00% of the pixels" in page.text
    assert "up to 75%" in page.text
    tall = {
        kind: [float(r["height"]) for r in page.all("rect") if r["class"] == kind] for kind in ("bar", "gap", "share")
    }
    assert [round(gap / bar, 3) for bar, gap in zip(tall["bar"], tall["gap"], strict=True)] == [
        round(0.2 / 0.3, 3),
        round(0.05 / 0.9, 3),
    ]
    assert tall["share"][1] == pytest.approx(3 * tall["share"][0], rel=0.01)


def test_names_are_text_and_never_markup(evaluation):
    made = evaluation("panoptic")
    evil = '<script>alert("1")</script>'
    old = made.classes[3].name

    def renamed(value):
        if isinstance(value, dict):
            return {evil if k == old else k: renamed(v) for k, v in value.items()}
        return value

    classes = tuple(replace(c, name=evil) if c.name == old else c for c in made.classes)
    shown = [replace(c, record=replace(c.record, id=evil + str(i))) for i, c in enumerate(made.cases)]
    made = replace(
        made,
        classes=classes,
        metrics=renamed(made.metrics),
        precision_recall=renamed(made.precision_recall),
        cases=shown,
        title=evil,
        identity={"model": evil, evil: "x"},
        history={**HISTORY, f"loss_{evil}": [1.0, 2.0, 3.0], f"val_{evil}": [1.0, 2.0, 3.0]},
    )
    html = report.render(made)
    assert html.lower().count("<script") == 1
    assert evil in Page(html).text


def test_the_same_evaluation_gives_the_same_bytes(fresh):
    assert report.render(fresh("panoptic")) == report.render(fresh("panoptic"))


@pytest.mark.parametrize("history", [{}, {"epoch": [0.0], "train_loss": [1.0]}])
def test_little_or_no_history_and_no_cases(evaluation, history, rendered):
    page = Page(report.render(replace(evaluation("semantic"), history=history, cases=[])))
    assert "Training" not in page.text, "one epoch is no curve"
    assert "Training" in Page(rendered("semantic")).text


def test_an_epoch_that_was_not_validated_is_no_point(evaluation):
    """train.validation.every is more than 1."""
    gaps = {**HISTORY, "val_miou": [None, 0.2, 0.3], "val_pq": [None, None, None]}
    drawn = {chart["name"]: chart["chart"] for chart in figures.history_charts(gaps)}
    assert "PQ" not in drawn["on the validation split"], "nothing was measured"
    assert "Training" in Page(report.render(replace(evaluation("semantic"), history=gaps))).text


def test_large_pictures_stay_within_the_bound(classes):
    """Noise is the worst that photographs can be."""
    rng = np.random.default_rng(0)
    height, width = 480, 640
    semantic = rng.integers(0, 10, (height, width), np.uint8)
    record = Record(id="a", split="test", image=b"", format="png", height=height, width=width, semantic=semantic)
    image = rng.integers(0, 255, (height, width, 3), np.uint8)
    case = cases.Case(
        kind="best", record=record, image=image, prediction=Prediction(semantic=semantic[::-1].copy()), score=0.1
    )
    shown = report.pictures_within([case] * 4, classes)
    total = sum(
        len(uri) for c in shown["best"] for uri in (c["image"], *(u for u, _ in c["views"]["semantic"].values()))
    )
    assert total <= report.PICTURE_BYTES
    assert 64 <= max(shown["best"][0]["size"]) < 512


@pytest.mark.parametrize(
    ("scores", "count", "expected"),
    [
        ([0.1, 0.9, 0.5, None, 0.7, 0.3], 1, {"best": [1], "median": [2], "worst": [0]}),
        ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], 2, {"best": [0, 1], "median": [3, 4], "worst": [5, 6]}),
        ([0.5, 0.6], 3, {"best": [1], "median": [], "worst": [0]}),
        ([0.5], 3, {"best": [0], "median": [], "worst": []}),
        ([0.4, 0.5, 0.6, 0.7], 3, {"best": [3, 2], "median": [], "worst": [1, 0]}),
        ([None, None], 3, {"best": [], "median": [], "worst": []}),
        ([0.5, 0.6, 0.7], 0, {"best": [], "median": [], "worst": []}),
    ],
)
def test_cases_are_the_ends_and_the_middle_and_none_twice(scores, count, expected):
    assert cases.select(scores, count) == expected


def test_a_detector_s_tail_is_not_drawn(records, classes, learned):
    record = records[0]
    found = learned("instance").answers[next(iter(learned("instance").answers))]
    unsure = replace(found.instances, scores=np.full(len(found.instances), 0.3, np.float32))
    image = np.zeros((record.height, record.width, 3), np.uint8)
    case = cases.Case(kind="best", record=record, image=image, prediction=Prediction(instances=unsure), score=0.0)
    view = cases.views(case, classes, largest=512)["instance"]
    assert view.prediction_labels == ()
    assert len(view.truth_labels) == len(record.segments)


def test_a_heat_map_of_150_classes_is_readable_and_bounded():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 40, (150, 150)) + np.diag(rng.integers(10_000, 90_000, 150))
    names = [f"class {i}" for i in range(150)]
    html = charts.heat_map(counts.tolist(), names, title="confusion")
    page = Page(html)
    assert len(html) < 400_000
    assert all(name in page.text for name in names)
    share = counts[3, 3] / counts[3].sum()
    assert f"class 3 → class 3: {counts[3, 3]:,} pixels, {share:.1%} of class 3" in page.text


def test_a_class_that_is_never_true_has_an_empty_row():
    Page(charts.heat_map([[0, 0], [1, 3]], ["a", "b"], title="confusion"))


def test_the_names_of_lines_do_not_cover_each_other():
    lines = {name: [(0.0, 0.0), (1.0, y)] for name, y in {"a": 0.5, "b": 0.501, "c": 0.502, "d": 0.9}.items()}
    page = Page(charts.line_chart(lines, title="t", x="epoch"))
    heights = sorted(float(a["y"]) for a in page.all("text") if "name" in (a["class"] or ""))
    assert len(heights) == 4
    assert np.diff(heights).min() >= charts.LABEL - 0.2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0.000"),
        (0.12345, "0.123"),
        (1.0, "1.000"),
        (0.00012345, "0.000123"),
        (12.345, "12.3"),
        (4321.0, "4,321"),
    ],
)
def test_numbers(value, text):
    assert charts.number(value) == text


def test_classes_without_a_value_come_last(evaluation, rendered):
    made = evaluation("instance")
    rows = re.findall(r'<th scope="row">.*?</i>(.*?) <small>', rendered("instance"))
    values = [made.metrics["instance"]["ap_per_class"].get(name) for name in rows]
    defined = [v for v in values if v is not None]
    assert defined == sorted(defined, reverse=True)
    assert values[len(defined) :] == [None] * (len(values) - len(defined))
    assert {c.name for c in made.classes} == set(rows)


@pytest.mark.parametrize("task", VIEWS)
def test_each_failure_can_be_found_by_class_kind_and_size(task, evaluation, rendered):
    """Whatever a control offers is what some card carries, and the other way round."""
    made = evaluation(task)
    page = Page(rendered(task))
    cards = [a for a in page.all("figure") if a.get("class") == "failure"]
    assert len(cards) == len(made.failures_shown) > 0
    offered = [a["value"] for a in page.all("option") if a["value"]]
    for name in ("class", "kind", "size"):
        assert {v for card in cards for v in card[f"data-{name}"].split()} <= {v for o in offered for v in o.split()}
    assert {a["name"] for a in page.all("select")} == {"class", "kind", "size"}
    buttons = [a for a in page.all("button") if "data-kind" in a]
    counted = sum(int(a["aria-label"].rsplit(" ", 1)[1].replace(",", "")) for a in buttons)
    assert counted == (0 if task == "semantic" else len(made.failures.rows()[0]))
    assert all(a["alt"] for a in page.all("img"))


def test_crops_stay_within_the_bound(evaluation, monkeypatch):
    made = evaluation("panoptic")
    monkeypatch.setattr(browsing, "CROP_BYTES", 20_000)
    cards = browsing.section(made.failures, made.failures_shown, made.classes)["cards"]
    assert 0 < len(cards) < len(made.failures_shown)
    assert sum(len(card["uri"]) for card in cards) <= 20_000


def test_says_what_a_prediction_costs(evaluation, rendered):
    text = Page(rendered("semantic")).text
    assert all(said in text for said in ("20.1 ms", "31.7 ms", "931 MB", "4,120,331", "16.6 MB"))
    assert 'id="cost"' not in report.render(replace(evaluation("semantic"), cost=None))


def test_without_failures_there_is_no_section_and_no_script(evaluation):
    html = report.render(replace(evaluation("semantic"), failures=None, failures_shown=[]))
    assert "<script" not in html
    assert 'id="failures"' not in html


@pytest.mark.parametrize("task", VIEWS)
def test_the_figures_are_files_as_well(task, evaluation, tmp_path, rendered):
    """The same drawings as on the page, each whole in itself."""
    made = evaluation(task)
    html = rendered(task)
    drawn = figures.alone(made)
    plots.figures(tmp_path, drawn)
    always = {"error_types", "score_by_size", "latency", "scores", "training_loss", "training_validation"}
    maps, things = {"confusion", "calibration"}, {"precision_recall", "detection_calibration"}
    assert set(drawn) == always | {"semantic": maps, "instance": things, "panoptic": {"confusion"} | things}[task]
    assert {p.stem for p in tmp_path.iterdir()} == set(drawn)
    for name, chart in drawn.items():
        assert chart in html
        inside = chart.partition(">")[2]
        root = ElementTree.fromstring((tmp_path / f"{name}.svg").read_text())  # noqa: S314 - our own
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "stroke: var(--line)" in root[0].text
        assert inside in (tmp_path / f"{name}.svg").read_text()
