"""Faults that only the dataset as a whole shows: ingest takes the images, and `validate` stops the line. And its page,
on which names are text."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pipelines import config, files
from pipelines.errors import ValidationFailed
from pipelines.stage import Paths
from stages import validate
from tests.faults.line import run

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "<script>alert(1)</script>"
PICTURE = "<img src=x onerror=alert(1)>"
LIMITS = {"task": "semantic", "model.name": "unet", "validate.min_images": {"train": 8, "val": 4, "test": 1}}


def scene(seed: int) -> np.ndarray:
    """Smooth, as photographs are."""
    grid = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return cv2.resize(grid, (48, 48), interpolation=cv2.INTER_CUBIC)


def save(root: Path, key: str, pixels: np.ndarray, mask: np.ndarray, suffix: str = ".png") -> None:
    for kind, data, end in (("images", pixels, suffix), ("masks", mask, ".png")):
        path = root / f"{kind}/{key}{end}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data).save(path)


def judged(project: Path) -> dict[str, str]:
    """What validate says of project/source, and its page and report."""
    done = run(project / "source", project / "results/ingest", max_rejected=0.5)
    assert done.manifest is not None
    files.write_json(project / "results/ingest/report.json", done.report.to_json())
    out = project / "results/.validate"
    out.mkdir()
    params = config.parse(config.merge(config.read(ROOT / "params.yaml"), LIMITS))
    with pytest.raises(ValidationFailed) as failed:
        validate.run(params, Paths(root=project, out=out))
    folder = project / "results/validate-failed"
    pages = "".join(path.read_text() for path in sorted(folder.rglob("*.html")))
    report = (folder / "report.json").read_text()
    return {
        "message": str(failed.value),
        "page": (folder / "report.html").read_text(),
        "pages": pages,
        "report": report,
    }


HALF = np.zeros((48, 48), np.uint8)
HALF[:, 24:] = 1


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a source in which much is wrong."""
    root = tmp_path_factory.mktemp("project") / "source"
    for k in range(12):
        save(root, f"train/{k:02}", scene(k), HALF)
    for k in range(12, 17):
        save(root, f"val/{k}", scene(k), 0 * HALF)  # d23: without class 1
    save(root, "val/copy", scene(3), 0 * HALF)
    save(root, "val/again", scene(4), 0 * HALF, ".jpg")
    save(root, "train/void", scene(21), 0 * HALF + 255)
    (root / "images/train" / f"{PICTURE}.png").write_bytes(b"<html>")
    Image.fromarray(HALF).save(root / "masks/train" / f"{PICTURE}.png")
    (root / "classes.yaml").write_text(f"- name: ground\n- name: '{SCRIPT}'\n- name: never\n")
    return judged(root.parent)


def warned(said: dict[str, str]) -> dict[str, str]:
    """The examples of each check that does not stop the line, and was not passed."""
    checks = json.loads(said["report"])["checks"]
    return {c["name"]: json.dumps(c["examples"]) for c in checks if not c["success"] and c["severity"] == "warning"}


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(r"1 image in both train and val \(val/copy is train/03\)", id="d21-copy"),
        pytest.param(r"the test split is too small \(0 rows, expected at least 1\)", id="d22-empty-split"),
        pytest.param(r"1 class with fewer than 1 pixel in the training split \(never: 0 pixels\)", id="d23-never-seen"),
    ],
)
def test_the_line_stops_for(pattern, said):
    assert re.search(pattern, said["message"])
    assert "\ndo: see results/validate-failed/report.html" in said["message"]
    assert "Traceback" not in said["message"]


@pytest.mark.parametrize(
    ("check", "example"),
    [
        pytest.param("leakage.lookalikes", '"val/again", "resembles": "train/04"', id="d21-lookalike"),
        pytest.param("labels.empty", "train/void", id="d08-all-255"),
        pytest.param("classes.elsewhere", SCRIPT, id="d23-absent-from-val"),
    ],
)
def test_the_line_warns_of(check, example, said):
    assert example in warned(said)[check]


def test_d08_black_and_white_masks_stop_the_line(tmp_path):
    for k in range(16):
        save(tmp_path / "source", f"{('train', 'val')[k // 12]}/{k}", scene(k), 255 * HALF)
    (tmp_path / "source/classes.yaml").write_text("- name: ground\n- name: road\n")
    assert "they look like black and white masks: map 255 to the class id" in judged(tmp_path)["message"]


def test_s18_names_are_text_on_every_page(said):
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in said["page"]
    assert "&lt;img src=x onerror=alert(1)&gt;" in said["page"]
    for hostile in (SCRIPT, PICTURE):
        assert hostile not in said["pages"]


def test_s18_the_page_loads_nothing(said):
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", said["page"])
