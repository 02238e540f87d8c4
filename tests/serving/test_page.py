"""The page in a real browser: what a person sees and can do with it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.packages import encode, lamp, lights, network, picture
from tests.serving.service import Service, serving

BOX = (40, 80, 120, 176)
SCENE = encode(lamp(192, 256, BOX))
LAMP = [240, 160, 20, 255]
PHONE = {"width": 390, "height": 844}
OURS = ("status of 4", "willReadFrequently")  # an image that a test has refused, pixels that it reads
# The colour of a mask canvas's pixel, as fractions of its width and height.
PIXEL = """([x, y]) => {
  const canvas = document.getElementById("masks");
  return [...canvas.getContext("2d").getImageData(x * canvas.width, y * canvas.height, 1, 1).data];
}"""
MARKED = """() => {
  const canvas = document.getElementById("mark");
  return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value > 0);
}"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(lights(tmp_path_factory.mktemp("package"))) as running:
        yield running


@pytest.fixture
def page(browser: Any, service: Service) -> Iterator[Any]:
    """At a desk; whatever the console complains of fails the test."""
    yield from opened(browser, service)


def opened(browser: Any, service: Service, **options: Any) -> Iterator[Any]:
    said: list[str] = []
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    context.set_default_timeout(120_000)
    found = context.new_page()
    found.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    found.on("pageerror", lambda error: said.append(str(error)))
    found.goto(service.url)
    yield found
    context.close()
    assert [text for text in said if not any(own in text for own in OURS)] == []


def choose(page: Any, data: bytes, name: str = "scene.png") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": data})
    page.locator("#status", has_text=f"{name}: ").wait_for()


def test_an_image_is_uploaded_and_its_masks_are_seen(page: Any) -> None:
    assert page.locator("#panel").is_hidden()
    choose(page, SCENE)
    assert page.text_content("#status").startswith("scene.png: 2 segments in ")
    assert page.evaluate(PIXEL, [0.5, 0.4]) == LAMP
    assert page.evaluate(PIXEL, [0.1, 0.1]) == [20, 30, 90, 255]
    assert page.text_content("#model") == "tiny 1 · semantic · 2 classes"
    rows = page.locator("#legend .row").all_text_contents()
    assert [row.startswith(name) for row, name in zip(rows, ("night", "lamp"), strict=True)] == [True, True]
    assert "15.6 %" in rows[1], "80 x 96 of 192 x 256 pixels"
    assert page.get_attribute("#image", "aria-label") == "scene.png: 1 night, 1 lamp"


def test_the_legend_hides_and_shows(page: Any) -> None:
    choose(page, SCENE)
    page.get_by_role("checkbox", name="lamp").uncheck()
    assert page.evaluate(PIXEL, [0.5, 0.4]) == [0, 0, 0, 0]
    page.get_by_role("button", name="Hide all").click()
    assert page.evaluate(PIXEL, [0.1, 0.1]) == [0, 0, 0, 0]
    page.get_by_role("button", name="Show all").click()
    assert page.evaluate(PIXEL, [0.5, 0.4]) == LAMP
    page.locator("#opacity").fill("25")
    assert page.evaluate("getComputedStyle(document.getElementById('masks')).opacity") == "0.25"


def test_a_segment_says_what_it_is(page: Any) -> None:
    choose(page, SCENE)
    box = page.locator("#image").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.4)
    assert page.text_content("#tip").startswith("lamp · 0.")
    assert page.evaluate(MARKED)
    page.mouse.move(1, 1)
    assert page.locator("#tip").is_hidden()
    assert not page.evaluate(MARKED)


def test_it_is_used_by_keyboard_alone(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    choose(page, SCENE)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "view"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.text_content("#status").startswith("lamp, score 0.")
    page.keyboard.press(" ")
    assert page.evaluate(PIXEL, [0.5, 0.4]) == [0, 0, 0, 0]
    assert page.text_content("#status").endswith(": hidden")
    page.keyboard.press(" ")
    for wanted in ("opacity", "all", "save-json", "save-picture"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == wanted
    page.keyboard.press("Tab")
    assert page.text_content("#tip").startswith("night · "), "a row that has the focus shows its segment"
    page.keyboard.press(" ")
    assert page.evaluate(PIXEL, [0.1, 0.1]) == [0, 0, 0, 0]


def test_a_refusal_is_told_in_words(page: Any) -> None:
    page.set_input_files("#file", {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": b"this is no photo"})
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "not an allowed image: unknown format" in alert.text_content()
    assert "do: send the bytes of a PNG" in alert.text_content()
    choose(page, SCENE)
    assert alert.is_hidden()


def test_results_are_saved(page: Any) -> None:
    choose(page, SCENE)
    for button, name in (("Save JSON", "scene.json"), ("Save picture", "scene-masks.png")):
        with page.expect_download() as download:
            page.get_by_role("button", name=button).click()
        assert download.value.suggested_filename == name


def test_an_image_is_dropped(page: Any) -> None:
    page.evaluate(
        """(bytes) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], "scene.png", { type: "image/png" }));
          dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
        }""",
        list(SCENE),
    )
    page.locator("#status", has_text="scene.png: 2 segments").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_read_on_a_phone(browser: Any, service: Service, scheme: str) -> None:
    for page in opened(browser, service, viewport=PHONE, color_scheme=scheme, has_touch=True):
        choose(page, SCENE)
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"], "nothing to scroll sideways"
        image = page.locator("#image").bounding_box()
        assert image["width"] > 0.85 * PHONE["width"]
        assert page.evaluate("parseFloat(getComputedStyle(document.querySelector('#legend .name')).fontSize)") >= 14
        low = page.evaluate(CONTRASTS)
        assert low == [], "text that is hard to read"


# Texts whose contrast with what is behind them is below 4.5 (WCAG 2.2, AA).
CONTRASTS = """() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const color = numbers(getComputedStyle(e).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("h1, p, span, label, button, output, summary, kbd")]
    .filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .map((e) => [e.textContent.trim(), light(numbers(getComputedStyle(e).color)), light(behind(e))])
    .map(([text, a, b]) => [text, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)])
    .filter(([, ratio]) => ratio < 4.5);
}"""


# Of an image of 64 x 64 whether something covers each pixel, in the middle of the block that it became.
SEEN = """() => {
  const canvas = document.getElementById("masks");
  const [context, side] = [canvas.getContext("2d"), canvas.width / 64];
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  const middle = (i) => Math.floor((i + 0.5) * side);
  return Array.from({ length: 64 * 64 }, (_, i) =>
    data[4 * (middle(Math.floor(i / 64)) * canvas.width + middle(i % 64)) + 3] > 0);
}"""


def test_things_are_told_apart(browser: Any, tmp_path: Path) -> None:
    """Several of one class: a row for the class, and one for each, in shades of its colour."""
    with serving(network(tmp_path, "panoptic")) as service:
        for page in opened(browser, service):
            choose(page, encode(picture(0)))
            answer = service.post(encode(picture(0))).json()["segments"]
            cats = [s for s in answer if s["name"] == "cat"]
            assert len(cats) > 1
            assert page.locator("#legend ul .row", has_text="cat").count() == len(cats)
            page.get_by_role("checkbox", name="cat", exact=False).first.uncheck()
            seen = np.array(page.evaluate(SEEN)).reshape(64, 64)
            left = np.zeros((64, 64), bool)
            for segment in answer:
                if segment["name"] != "cat":
                    left |= mask(segment)
            assert np.array_equal(seen, left)


def mask(segment: dict[str, Any]) -> np.ndarray:
    from pipelines.data import rle

    height, width = segment["rle"]["size"]
    return rle.decode(rle.from_string(segment["rle"]["counts"], height, width), height, width)
