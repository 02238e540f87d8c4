"""`python -m stages.predict`: what comes in, what comes out, and what becomes of what cannot be used."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from pipelines import config
from pipelines.data.panoptic import painted
from pipelines.errors import ConfigError, DataError
from pipelines.inference import package
from stages import predict
from tests.packages import encode, lamp, lights, network, picture

ROOT = Path(__file__).resolve().parents[2]
FORMATS = ["rle", "coco", "png", "overlay"]
BOXES = {"a/one.png": (2, 3, 20, 30), "b/one.png": (10, 10, 40, 20), "b/two.jpg": (5, 40, 30, 60)}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name] = lights(folder) if name == "lights" else network(folder, name)
        return made[name]

    return of


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path)
    return tmp_path


def write_params(folder: Path, **changes: Any) -> None:
    given = {"device": "cpu", "workers": 1, "part": 4, "batch_size": 2, **changes}
    raw = config.merge(config.read(ROOT / "params.yaml"), {f"predict.{name}": value for name, value in given.items()})
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))


def asked(*sources: str | Path, model: Path, **more: Any) -> argparse.Namespace:
    options = {**dict.fromkeys(predict.OPTIONS), "out": Path("out"), "replace": False, "formats": FORMATS, **more}
    return argparse.Namespace(sources=[str(source) for source in sources], model=str(model), **options)


def photographs(folder: Path) -> Path:
    for name, box in BOXES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(lamp(48, 64, box), "PNG" if name.endswith("png") else "JPEG"))
    return folder


def rows(out: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    by_name = {f"{row['image']}@{row['frame']}" if "frame" in row else row["image"]: row for row in found}
    assert len(by_name) == len(found), "one result of each"
    return by_name


def report(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "report.json").read_text()))


def written(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def test_every_format_says_the_same(here: Path, packages: Callable[[str], Path]) -> None:
    """Of classes, to the pixel; the same names in two folders are two results."""
    predict.run(asked(photographs(here / "photos"), model=packages("lights")))
    found = rows(here / "out")
    assert list(found) == sorted(BOXES)
    listed = json.loads((here / "out/coco.json").read_text())
    for name in ("a/one.png", "b/one.png"):
        truth = lamp(48, 64, BOXES[name])[..., 0] > 128
        night, light = found[name]["segments"]
        assert np.array_equal(coco.decode(light["rle"]), truth)
        assert (light["name"], light["area"]) == ("lamp", truth.sum())
        stem = name.removesuffix(".png")
        assert np.array_equal(np.asarray(Image.open(here / f"out/semantic/{stem}.png")), truth)
        mine = {r["category_id"]: r for r in listed if r["image_id"] == stem}
        assert np.array_equal(coco.decode(mine[1]["segmentation"]), truth)
        assert mine[0]["score"] == night["score"]
        drawn = np.asarray(Image.open(here / f"out/overlay/{stem}.jpg"))
        assert drawn.shape == (48, 64, 3)
        assert drawn[truth].mean() > drawn[~truth].mean() + 50
    assert [c["name"] for c in json.loads((here / "out/classes.json").read_text())] == ["night", "lamp"]
    assert (report(here / "out")["results"], report(here / "out")["faults"]) == (3, [])


def test_a_panoptic_model_s_results_are_coco_s(here: Path, packages: Callable[[str], Path]) -> None:
    """Read back as an annotation is, and equal to what the model says of each image alone."""
    images = {"1.png": picture(0), "2.png": picture(1, 40, 72), "3.png": picture(2)}
    (here / "photos").mkdir()
    for name, pixels in images.items():
        (here / "photos" / name).write_bytes(encode(pixels))
    predict.run(asked("photos/*.png", model=packages("panoptic")))
    found = json.loads((here / "out/panoptic.json").read_text())
    assert [image["id"] for image in found["images"]] == [1, 2, 3], "numbers, as COCO's own"
    assert [c["isthing"] for c in found["categories"]] == [0, 1, 1]
    predictor = package.load(packages("panoptic"))
    for image, annotation in zip(images.values(), found["annotations"], strict=True):
        expected = predictor.predict([image])[0].panoptic
        info = [(s["id"], s["category_id"], bool(s["iscrowd"])) for s in annotation["segments_info"]]
        pixels = cv2.imread(str(here / "out/panoptic" / annotation["file_name"]), cv2.IMREAD_COLOR_RGB)
        runs, wanted = painted(pixels, info), expected.runs()
        assert np.array_equal(runs.start, wanted.start)
        assert np.array_equal(runs.ids, wanted.ids)
        assert runs.labels.tolist() == wanted.labels.tolist()
        ids = np.asarray(Image.open(here / "out/segments" / annotation["file_name"]))
        assert np.array_equal(ids, expected.ids)
        assert [s["area"] for s in annotation["segments_info"]] == np.bincount(expected.ids.ravel())[1:].tolist()


def test_coco_s_own_tools_read_the_results(here: Path, packages: Callable[[str], Path]) -> None:
    (here / "7.png").write_bytes(encode(lamp(48, 64, (2, 3, 20, 30))))
    predict.run(asked("7.png", model=packages("lights")))
    truth = COCO()
    truth.dataset = {"images": [{"id": 7}], "categories": [{"id": 0}, {"id": 1}], "annotations": []}
    truth.createIndex()
    results = truth.loadRes(str(here / "out/coco.json"))
    assert [int(coco.area(a["segmentation"])) for a in results.anns.values()] == [48 * 64 - 486, 486]


def test_whatever_cannot_be_used_is_listed_with_its_reason(here: Path, packages: Callable[[str], Path]) -> None:
    folder = photographs(here / "photos")
    (folder / "text.jpg").write_text("no photo")
    (folder / "cut.png").write_bytes(encode(picture(0))[:-40])
    (folder / "large.png").write_bytes(encode(np.zeros((200, 300, 3), np.uint8)))
    (folder / "leads-out.png").symlink_to("/etc/hostname")
    (folder / "clip.mp4").write_bytes(b"#EXTM3U\n/etc/passwd\n")
    (folder / "notes.txt").write_text("not looked at")
    write_params(here, max_pixels=10_000)
    with pytest.raises(
        DataError, match=r"5 of 8 give no result; the others are in out\n(.*\n)*do: see out/report.json"
    ):
        predict.run(asked(folder, model=packages("lights")))
    said = {Path(fault["file"]).name: fault["kind"] for fault in report(here / "out")["faults"]}
    assert said == {
        "leads-out.png": "outside-root",
        "clip.mp4": "not-an-image",
        "cut.png": "truncated",
        "large.png": "too-large",
        "text.jpg": "not-an-image",
    }
    assert [Path(name).name for name in report(here / "out")["passed_over"]] == ["notes.txt"]
    assert set(rows(here / "out")) == set(BOXES)


def test_names_that_clash_are_kept_apart(here: Path, packages: Callable[[str], Path]) -> None:
    """In two folders, with two suffixes, in two cases."""
    for name in ("x/scene.png", "x/scene.bmp", "y/scene.png", "y/SCENE.png"):
        path = here / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(lamp(48, 64, (2, 3, 20, 30)), "BMP" if name.endswith("bmp") else "PNG"))
    predict.run(asked("x", "y", "x/scene.png", model=packages("lights")))
    assert sorted(row["source"].removeprefix(f"{here.resolve()}/") for row in rows(here / "out").values()) == [
        "x/scene.bmp", "x/scene.png", "y/SCENE.png", "y/scene.png",
    ]  # fmt: skip
    drawn = [p for p in (here / "out/overlay").rglob("*") if p.is_file()]
    assert len(drawn) == 4
    assert len({str(p).casefold() for p in drawn}) == 4


def test_only_what_is_new_is_predicted(here: Path, packages: Callable[[str], Path]) -> None:
    folder = photographs(here / "photos")
    predict.run(asked(folder, model=packages("lights")))
    parts = written(here / "out/.parts")
    assert predict.run(asked(folder, model=packages("lights")))["carried over"] == 3
    assert written(here / "out/.parts") == parts
    (folder / "c.png").write_bytes(encode(lamp(48, 64, (0, 0, 5, 5))))
    (folder / "a/one.png").write_bytes(encode(lamp(48, 64, (0, 0, 9, 9))))
    (folder / "b/one.png").unlink()
    predict.run(asked(folder, model=packages("lights")))
    found = rows(here / "out")
    assert list(found) == ["a/one.png", "b/two.jpg", "c.png"]
    assert found["a/one.png"]["segments"][1]["area"] == 81
    assert len(written(here / "out/.parts")) == len(parts) + 1, "what did not change was not read again"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"min_score": 0.9}, "min_score: 0.3 then, 0.9 now"),
        ({"model": "semantic"}, "weights: "),
        ({"formats": ["rle"]}, "formats: "),
    ],
)
def test_results_of_two_runs_are_not_mixed(
    here: Path, packages: Callable[[str], Path], change: dict[str, Any], said: str
) -> None:
    folder = photographs(here / "photos")
    predict.run(asked(folder, model=packages("lights")))
    before = written(here / "out")
    change = {"model": packages(change.get("model", "lights")), **{k: v for k, v in change.items() if k != "model"}}
    with pytest.raises(ConfigError, match=rf"results of another run(.*\n)*.*{said}(.*\n)*do: .*--out.*--replace"):
        predict.run(asked(folder, **change))
    assert written(here / "out") == before
    predict.run(asked(folder, **{**change, "replace": True}))
    assert report(here / "out")["carried_over"] == 0


def test_a_folder_of_something_else_is_left_alone(here: Path, packages: Callable[[str], Path]) -> None:
    photographs(here / "photos")
    before = written(here / "photos")
    with pytest.raises(DataError, match="photos holds something else"):
        predict.run(asked("photos", model=packages("lights"), out=Path("photos"), replace=True))
    assert written(here / "photos") == before


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere", "nowhere: there is no such file or folder"),
        ("*.webp", r"\*\.webp: matches no file"),
        ("ftp://host/a.png", "ftp://host/a.png: of buckets only s3:// can be read"),
        (".", r"\.: no images or videos"),
    ],
)
def test_sources_that_lead_nowhere(here: Path, packages: Callable[[str], Path], source: str, said: str) -> None:
    with pytest.raises(DataError, match=rf"lead nowhere\n  - {said}\ndo: name files, folders, patterns"):
        predict.run(asked(source, model=packages("lights")))


def film(path: Path, frames: int) -> None:
    """A lamp that moves to the right."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    assert writer.isOpened()
    for i in range(frames):
        writer.write(lamp(48, 64, (10, 2 * i, 30, 2 * i + 16)))
    writer.release()


def test_a_video_gives_a_result_for_each_frame(here: Path, packages: Callable[[str], Path]) -> None:
    film(here / "clip.avi", 11)
    predict.run(asked("clip.avi", model=packages("lights"), formats=["rle", "overlay"]))
    found = rows(here / "out")
    assert list(found) == [f"clip.avi@{i}" for i in range(11)]
    for i, row in enumerate(found.values()):
        truth = lamp(48, 64, (10, 2 * i, 30, 2 * i + 16))[..., 0] > 128
        mask = coco.decode(row["segments"][1]["rle"]).astype(bool)
        assert (mask & truth).sum() / (mask | truth).sum() > 0.9, "but for what the codec did"
    assert (here / "out/overlay/clip.avi/000010.jpg").is_file()


def test_a_video_goes_on_at_its_frame(here: Path, packages: Callable[[str], Path]) -> None:
    film(here / "clip.avi", 11)
    once = asked("clip.avi", model=packages("lights"), formats=["rle"], frame_step=2)
    predict.run(once)
    whole = written(here / "out")
    parts = sorted((here / "out/.parts").glob("*.jsonl"))
    assert [json.loads(line)["frame"] for p in parts for line in p.read_text().splitlines()] == [0, 2, 4, 6, 8, 10]
    for lost in parts[1:]:
        lost.unlink()  # as if it had been killed after its first part
    kept = parts[0].stat().st_mtime_ns
    predict.run(once)
    again = written(here / "out")
    assert {k: v for k, v in again.items() if k != "report.json"} == {
        k: v for k, v in whole.items() if k != "report.json"
    }
    assert parts[0].stat().st_mtime_ns == kept


def test_a_bucket_is_read_as_a_folder(here: Path, packages: Callable[[str], Path], bucket: Any) -> None:
    photographs(here / "photos")
    predict.run(asked("photos", model=packages("lights"), out=Path("local")))
    uri = bucket.upload(here / "photos", "set")
    predict.run(asked(uri, model=packages("lights"), out=Path("folder")))
    predict.run(asked(f"{uri}/**/*.png", f"{uri}/b/two.jpg", model=packages("lights"), out=Path("pattern")))
    segments = [{n: row["segments"] for n, row in rows(here / out).items()} for out in ("local", "folder")]
    assert segments[0] == segments[1]
    assert set(rows(here / "pattern")) == {"a/one.png", "b/one.png", "two.jpg"}
    with pytest.raises(DataError, match=r"\*\.gif: matches no file"):
        predict.run(asked(f"{uri}/*.gif", model=packages("lights")))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_thousand_images_killed_half_way(here: Path, packages: Callable[[str], Path]) -> None:
    """On Ray Data; the second run does the rest, and all is as if nothing had happened."""
    folder = here / "photos"
    folder.mkdir()
    for i in range(2000):
        (folder / f"{i:04}.png").write_bytes(encode(picture(i, 48, 64)))
    for name in ("stages", "pipelines"):
        (here / name).symlink_to(ROOT / name)
    write_params(here, part=64, batch_size=8, workers=2)
    command = [sys.executable, "-m", "stages.predict", "photos", "--model", str(packages("semantic"))]
    command += ["--formats", "rle", "png", "--out"]
    subprocess.run([*command, "whole"], check=True)
    first = subprocess.Popen([*command, "killed"])
    parts = here / "killed/.parts"
    while len(list(parts.glob("[!.]*.jsonl"))) < 16:
        time.sleep(0.05)
        assert first.poll() is None
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    committed = sum(len(p.read_text().splitlines()) for p in parts.glob("[!.]*.jsonl"))
    assert 0 < committed < 2000
    assert not (here / "killed/report.json").exists()
    subprocess.run([*command, "killed"], check=True)
    assert report(here / "killed")["carried_over"] >= committed
    assert report(here / "killed")["results"] == len(rows(here / "killed")) == 2000
    ours, theirs = written(here / "killed"), written(here / "whole")
    ours.pop("report.json")
    theirs.pop("report.json")
    assert ours == theirs, "parts, lists and pictures, to the byte"
