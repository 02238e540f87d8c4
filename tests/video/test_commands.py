"""The commands as people run them, on drawn videos: results in published layouts, one message for what is wrong, and a
second run that goes on."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from pipelines import config
from pipelines.data.decode import mask
from pipelines.video.__main__ import main

SMALL = {"videos": 2, "frames": 4, "height": 64, "width": 64}
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """run("draw", "x") -> exit code, what was said."""

    def command(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["video", *map(str, arguments)])
        code = main()
        said = capsys.readouterr()
        return code, said.out + said.err

    return command


@pytest.fixture
def videos(project: Path, run: Run) -> Path:
    changes = {f"video.shapes.{name}": value for name, value in SMALL.items()}
    # An untrained model is sure of nothing.
    changes |= {"video.track.min_score": 0.0, "video.track.birth": 0.0, "video.track.most": 5}
    path = project / "params.yaml"
    path.write_text(yaml.safe_dump(config.merge(config.read(path), changes), sort_keys=False))
    assert run("draw", "videos")[0] == 0
    return project / "videos"


def test_masks_are_carried_and_evaluated(videos: Path, run: Run, model: Path) -> None:
    code, said = run("propagate", videos, "--format", "davis", "--out", "masks", "--model", model)
    assert (code, "videos 2  new 2  frames 8" in said) == (0, True), said
    given = (videos / "Annotations/480p/shapes-000/00000.png").read_bytes()
    found = Path("masks/shapes-000/00000.png").read_bytes()
    assert np.array_equal(mask(found), mask(given))
    assert sorted(p.name for p in Path("masks/shapes-001").iterdir()) == [f"{k:05}.png" for k in range(4)]
    assert cv2.imread("masks/shapes-000.jpg") is not None
    code, said = run("evaluate", "masks", videos, "--format", "davis", "--out", "scores.json")
    assert (code, "| jf | j |" in said) == (0, True), said
    assert 0.1 < json.loads(Path("scores.json").read_text())["jf"] <= 1


def test_truth_is_perfect_and_a_missing_result_is_named(videos: Path, run: Run) -> None:
    truth = videos / "Annotations/480p"
    assert "| 1.000 | 1.000 | 1.000 | 0.000 | 1.000 |" in run("evaluate", truth, videos, "--format", "davis")[1]
    (truth / "shapes-000/00001.png").rename(videos / "aside.png")
    (videos / "empty").mkdir()
    code, said = run("evaluate", videos / "empty", videos, "--format", "davis")
    assert code == 2
    assert "shapes-001/00002.png: missing" in said
    assert "shapes-001/00003.png" not in said  # the last frame does not count


def test_a_second_run_goes_on(videos: Path, run: Run, model: Path) -> None:
    asked = ("propagate", videos, "--format", "davis", "--out", "masks", "--model", model)
    broken = videos / "JPEGImages/480p/shapes-001/00002.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:300])
    code, said = run(*asked)
    assert code == 2
    assert "shapes-001/00002.jpg: truncated" in said
    assert sorted(p.name for p in Path("masks").iterdir() if p.name[0] != ".") == [
        "asked.json", "shapes-000", "shapes-000.jpg",
    ]  # fmt: skip
    before = Path("masks/shapes-000/00003.png").stat().st_mtime_ns
    broken.write_bytes(whole)
    code, said = run(*asked)
    assert (code, "new 1" in said) == (0, True), said
    assert Path("masks/shapes-000/00003.png").stat().st_mtime_ns == before


def test_results_of_another_question_are_not_mixed(videos: Path, run: Run, model: Path) -> None:
    asked = ("propagate", videos, "--format", "davis", "--out", "masks", "--model", model)
    run(*asked)
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("temperature: 0.05", "temperature: 0.06"))
    code, said = run(*asked)
    assert (code, "masks holds results of another question: options" in said) == (2, True), said


def test_instances_are_tracked_and_evaluated(videos: Path, run: Run, model: Path) -> None:
    asked = ("track", videos / "instances.json", "--format", "youtube-vis", "--out", "tracks", "--model", model)
    code, said = run(*asked)
    assert (code, "videos 2  new 2" in said) == (0, True), said
    results = json.loads(Path("tracks/results.json").read_text())
    assert all(len(row["segmentations"]) == 4 for row in results)
    code, said = run("evaluate", "tracks/results.json", videos / "instances.json", "--format", "youtube-vis")
    assert (code, "| ap | ap50 |" in said) == (0, True), said
    Path("tracks/tracks/2.json").unlink()
    assert "new 1" in run(*asked)[1]
    assert json.loads(Path("tracks/results.json").read_text()) == results


def test_true_tracks_are_perfect(videos: Path, run: Run) -> None:
    truth = json.loads((videos / "instances.json").read_text())
    results = [{**row, "score": 1.0} for row in truth["annotations"]]
    Path("results.json").write_text(json.dumps(results))
    _, said = run("evaluate", "results.json", videos / "instances.json", "--format", "youtube-vis")
    assert "| 1.000 | 1.000 | 1.000 |" in said


def test_a_video_file(project: Path, run: Run, model: Path, film: Callable) -> None:
    made = film([[(24.0, 20.0 + 2 * k) for k in range(5)]])
    writer = cv2.VideoWriter("film.avi", cv2.VideoWriter_fourcc(*"MJPG"), 10, made.ids[0].shape[::-1])
    for image in made.images:
        writer.write(image[..., ::-1])
    writer.release()
    cv2.imwrite("first.png", made.ids[0])
    code, said = run("propagate", "film.avi", "--masks", "first.png", "--out", "masks", "--model", model)
    assert (code, "frames 5" in said) == (0, True), said
    assert len(list(Path("masks/film").iterdir())) == 5
    code, said = run("track", "film.avi", "--out", "tracks", "--model", model)
    assert (code, "videos 1" in said) == (0, True), said
    cv2.imwrite("small.png", made.ids[0][:30])
    code, said = run("propagate", "film.avi", "--masks", "small.png", "--out", "other", "--model", model)
    assert (code, "masks of 72x30, expected 72x48" in said) == (2, True), said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("propagate", "x.mp4", "--out", "o"), "no object's mask is given"),
        (("propagate", "x", "--format", "davis", "--out", "o"), "x is not a folder"),
        (("track", "x.mp4", "--out", "o"), "there is no trained model in results/train"),
        (("evaluate", "r.json", "x.json", "--format", "youtube-vis"), "missing"),
    ],
)
def test_what_is_wrong_is_one_message(project: Path, run: Run, arguments: tuple[str, ...], said: str) -> None:
    path = project / "params.yaml"
    changes = {"video.propagate.memory": 0, "video.propagate.flow": True}
    changes |= {"video.propagate.snap": None, "video.propagate.again": None}
    path.write_text(yaml.safe_dump(config.merge(config.read(path), changes), sort_keys=False))
    code, text = run(*arguments)
    assert (code, said in text) == (2, True), text
    assert "Traceback" not in text
    assert not Path("o").exists()


def test_a_model_without_instances_tracks_nothing(project: Path, run: Run, film: Callable, semantic: Path) -> None:
    Path("frames").mkdir()
    cv2.imwrite("frames/0.png", film([[(9.0, 9.0)]]).images[0])
    code, said = run("track", "frames", "--out", "tracks", "--model", semantic)
    assert (code, "fcn32s gives no instances" in said) == (2, True), said
