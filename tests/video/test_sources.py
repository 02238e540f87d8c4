"""Published layouts: what is read of them, and one message for what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.data import rle
from pipelines.data.tree import Tree
from pipelines.errors import DataError
from pipelines.video.clip import Clip
from pipelines.video.sources import davis, plain, youtube_vis, youtube_vos

LIMITS = {"max_pixels": 1 << 20, "max_frames": 100}
RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, (8, 12, 3)).astype(np.uint8) for _ in range(4)]
IDS = np.zeros((4, 8, 12), np.uint8)
IDS[:, 1:4, 2:5], IDS[:, 5:8, 6:9], IDS[2:, 0:2, 9:12], IDS[:, 4, 0] = 1, 2, 3, 255


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def davis_root(tmp_path: Path) -> Path:
    for k, (image, ids) in enumerate(zip(IMAGES, IDS, strict=True)):
        write(tmp_path / f"JPEGImages/480p/cat/{k:05}.png", image)
        write(tmp_path / f"Annotations/480p/cat/{k:05}.png", ids)
    (tmp_path / "ImageSets/2017").mkdir(parents=True)
    (tmp_path / "ImageSets/2017/val.txt").write_text("cat\n")
    return tmp_path


def test_davis(davis_root: Path) -> None:
    (clip,) = davis.clips(Tree(str(davis_root)), "val")
    assert (clip.name, clip.names) == ("cat", ("00000", "00001", "00002", "00003"))
    assert clip.given == {1: "00000", 2: "00000"}  # the third comes later, and 255 is void
    assert all(np.array_equal(found, image) for (_, found), image in zip(clip.frames(), IMAGES, strict=True))
    assert np.array_equal(clip.labels("00002"), np.where(IDS[2] == 255, 0, IDS[2]))


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ("cat\ndog\n", "JPEGImages/480p/dog: holds no frames"),
        ("../cat\n", "holds no frames"),
    ],
)
def test_davis_lists_what_is_not_there(davis_root: Path, listed: str, said: str) -> None:
    (davis_root / "ImageSets/2017/val.txt").write_text(listed)
    with pytest.raises(DataError, match=said):
        davis.clips(Tree(str(davis_root)), "val")


def test_davis_without_what_it_needs(davis_root: Path) -> None:
    with pytest.raises(DataError, match=r"has none of ImageSets/2017/test.txt(.|\n)*name a list: val"):
        davis.clips(Tree(str(davis_root)), "test")
    (davis_root / "Annotations/480p/cat/00000.png").unlink()
    with pytest.raises(DataError, match="the first frame's masks are what is followed"):
        davis.clips(Tree(str(davis_root)), "val")
    with pytest.raises(DataError, match="there is none of the folders JPEGImages"):
        davis.clips(Tree(str(davis_root / "ImageSets")), "val")


def test_a_broken_frame_is_named(davis_root: Path) -> None:
    path = davis_root / "JPEGImages/480p/cat/00002.png"
    path.write_bytes(path.read_bytes()[:80])
    (clip,) = davis.clips(Tree(str(davis_root)), "val")
    with pytest.raises(DataError, match=r"JPEGImages/480p/cat/00002.png: (truncated|corrupt)"):
        list(clip.frames())
    write(path, IMAGES[0][:4])
    with pytest.raises(DataError, match=r"00002\.png: 12x4, expected 12x8"):
        list(clip.frames())


@pytest.fixture
def vos_root(tmp_path: Path) -> Path:
    for k, image in enumerate(IMAGES):
        write(tmp_path / f"valid/JPEGImages/a/{5 * k:05}.png", image)
        if k % 2 == 0:
            write(tmp_path / f"valid/Annotations/a/{5 * k:05}.png", IDS[k])
    objects = {"1": {"category": "cat", "frames": ["00000", "00010"]}, "3": {"category": "ape", "frames": ["00010"]}}
    (tmp_path / "valid/meta.json").write_text(json.dumps({"videos": {"a": {"objects": objects}}}))
    return tmp_path


def test_youtube_vos_gives_objects_where_they_come(vos_root: Path) -> None:
    (clip,) = youtube_vos.clips(Tree(str(vos_root)), "valid")
    assert clip.given == {1: "00000", 3: "00010"}
    assert clip.labels("00005") is None
    assert clip.annotated == ("00000", "00010")
    assert set(np.unique(clip.labels("00010"))) == {0, 1, 3}


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ("{", "cannot be read"),
        ('{"videos": {"a": {"objects": {"x": {"frames": []}}}}}', "is not YouTube-VOS's"),
        ('{"videos": {"a": {"objects": {"1": {"frames": ["00005"]}}}}}', "given in it, and it has no annotation"),
        ('{"videos": {"../a": {"objects": {}}}}', "is no name of a video"),
    ],
)
def test_youtube_vos_s_table_is_wrong(vos_root: Path, meta: str, said: str) -> None:
    (vos_root / "valid/meta.json").write_text(meta)
    with pytest.raises(DataError, match=said):
        youtube_vos.clips(Tree(str(vos_root)), "valid")


def vis(**changes: Any) -> dict[str, Any]:
    counts = {"size": [8, 12], "counts": rle.to_string(rle.encode(IDS[0] == 1))}
    square = [[2.0, 1.0, 5.0, 1.0, 5.0, 4.0, 2.0, 4.0]]
    track = {"id": 1, "video_id": 7, "category_id": 40, "iscrowd": 0, "segmentations": [counts, square, None]}
    video = {"id": 7, "height": 8, "width": 12, "length": 3, "file_names": [f"a/{k}.png" for k in range(3)]}
    return {"videos": [video], "categories": [{"id": 40, "name": "cat"}], "annotations": [{**track, **changes}]}


def test_youtube_vis_reads_run_lengths_polygons_and_null(tmp_path: Path) -> None:
    truth = youtube_vis.read(json.dumps(vis()).encode(), "x.json")
    (track,) = truth.tracks[7]
    one, two, three = track.masks
    assert np.array_equal(rle.decode(one, 8, 12), IDS[0] == 1)
    assert np.array_equal(rle.decode(two, 8, 12), IDS[0] == 1)
    assert three is None
    row = youtube_vis.result(7, 40, track, (8, 12))
    (again,) = youtube_vis.read_results(json.dumps([row]).encode(), "r.json", truth)[7]
    assert [m is None or m.tolist() for m in again.masks] == [m is None or m.tolist() for m in track.masks]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps(vis(video_id=8)), "track 0: video 8, category 40: there is no such"),
        (json.dumps(vis(segmentations=[None])), "1 segmentations, and video 7 has 3 frames"),
        (json.dumps(vis(segmentations=[{"size": [8, 12], "counts": "zz"}, None, None])), "frame 0: RLE"),
        (json.dumps({**vis(), "videos": 3}), "is not YouTube-VIS's"),
        ("[" * 100_000, "cannot be read"),
        ("", "cannot be read"),
    ],
)  # fmt: skip
def test_youtube_vis_s_file_is_wrong(content: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        youtube_vis.read(content.encode(), "x.json")


def test_youtube_vis_s_frames_stay_in_their_folder(tmp_path: Path) -> None:
    for k in range(3):
        write(tmp_path / f"a/{k}.png", IMAGES[k])
    truth = youtube_vis.read(json.dumps(vis()).encode(), "x.json")
    ((video, clip),) = youtube_vis.clips(Tree(str(tmp_path)), truth, "")
    assert (video.id, clip.name, len(list(clip.frames()))) == (7, "a", 3)
    out = vis()
    out["videos"][0]["file_names"][1] = "../../etc/passwd"
    truth = youtube_vis.read(json.dumps(out).encode(), "x.json")
    with pytest.raises(DataError, match="outside dataset root"):
        youtube_vis.clips(Tree(str(tmp_path)), truth, "")


def test_a_folder_of_frames(tmp_path: Path) -> None:
    for k, image in enumerate(IMAGES):
        write(tmp_path / f"frames/{k:03}.png", image)
    write(tmp_path / "first.png", IDS[0])
    clip = plain.clip(tmp_path / "frames", masks=tmp_path / "first.png", **LIMITS)
    assert (clip.name, clip.names, clip.given) == ("frames", ("000", "001", "002", "003"), {1: "000", 2: "000"})
    assert plain.clip(tmp_path / "frames", **LIMITS).given == {}
    with pytest.raises(DataError, match="more than 2 frames"):
        plain.clip(tmp_path / "frames", max_pixels=1, max_frames=2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: plain.clip(root, **LIMITS), "holds no frames"),
        (lambda root: plain.clip(root, masks=root / "no.png", **LIMITS), "no.png is missing"),
        (lambda root: list(plain.clip(root / "no.mp4", **LIMITS).frames()), "is not a file"),
        (lambda root: Clip(name="../x", frames=lambda: iter(())), "is no name of a video"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, make: Callable[[Path], Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        make(tmp_path)
