"""The wall of failures in a real browser: filters, counts and keyboard, wide and narrow, and nothing on the console."""

import pytest

from pipelines.evaluation.evaluator import Detail, score
from pipelines.reporting import failures, report
from pipelines.reporting.content import Evaluation
from tests.scenes import Memory, prediction


@pytest.fixture(scope="module")
def evaluation(records, classes) -> Evaluation:
    """Of predictions so far off that there are dozens of failures."""
    answers = [prediction(r, classes, shift=9 + i, task="panoptic") for i, r in enumerate(records)]
    model = Memory("panoptic", classes, records, answers)
    done = score(model, records, batch_size=4, detail=Detail(boundary=0.02, edge=0.0, resamples=0, seed=0))
    return Evaluation(
        title="a model",
        task="panoptic",
        classes=classes,
        metrics=done.compute(),
        identity={},
        split="test",
        history={},
        confusion=done.semantic.confusion,
        calibration=[],
        detection_calibration=[],
        precision_recall={},
        scores={},
        cases=[],
        failures=done.failures,
        failures_shown=failures.collect(done.failures, model, records, classes),
        cost=None,
    )


@pytest.mark.parametrize("width", [1200, 390])
def test_failures_are_found_by_mouse_and_by_keyboard(browser, evaluation, tmp_path, width):
    path = tmp_path / "report.html"
    path.write_text(report.render(evaluation), encoding="utf-8")
    page, said = browser.new_page(viewport={"width": width, "height": 800}), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on(
        "request", lambda request: said.append(request.url) if not request.url.startswith(("file:", "data:")) else 0
    )
    page.goto(path.as_uri())

    cards = page.locator(".failure")
    total = len(evaluation.failures_shown)
    assert total > 24
    assert cards.locator("visible=true").count() == 24
    page.get_by_role("button", name="Show more").click()
    assert cards.locator("visible=true").count() == min(48, total)

    shown = evaluation.failures_shown
    missed = [f for f in shown if f.kind == "missed"]
    page.locator("select[name=kind]").select_option("missed")
    assert page.locator("output").inner_text() == f"{min(24, len(missed))} of {len(missed)} shown"
    page.locator("select[name=size]").select_option(label="small, all")
    small = [f for f in missed if f.size in (0, 1)]
    assert page.locator("output").inner_text() == f"{min(24, len(small))} of {len(small)} shown"
    page.get_by_role("button", name="Reset").click()
    page.wait_for_function(f"document.querySelector('output').textContent == '24 of {total} shown'")

    count = page.locator("button[data-kind]").first  # of the class with most failures
    count.focus()
    page.keyboard.press("Enter")
    label, kind = int(count.get_attribute("data-class")), count.get_attribute("data-kind")
    here = [f for f in shown if f.kind == kind and label in (f.truth, f.predicted)]
    assert page.locator("output").inner_text() == f"{min(24, len(here))} of {len(here)} shown"
    assert page.evaluate("document.activeElement.name") == "class", "the keyboard goes on at the filters"
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out at the side"
    page.close()
    assert said == []
