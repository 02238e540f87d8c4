"""Frames of a video file: those that were written; and one message for whatever is none, is damaged, or is too much."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.data import video
from pipelines.errors import DataError

LIMITS = {"max_pixels": 1 << 16, "max_frames": 50}
SIZE, COUNT = (48, 64), 8


@pytest.fixture(scope="module", params=[("mp4v", "film.mp4"), ("MJPG", "film.avi")], ids=["mp4", "avi"])
def film(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each frame redder than the one before."""
    code, name = request.param
    path = tmp_path_factory.mktemp("film") / name
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 10, SIZE[::-1])
    for k in range(COUNT):
        writer.write(np.full((*SIZE, 3), (40, 90, 25 * k), np.uint8))
    writer.release()
    return path


def test_frames_in_order_as_rgb(film: Path) -> None:
    frames = list(video.frames(film, **LIMITS))
    assert [f.shape for f in frames] == [(*SIZE, 3)] * COUNT
    middles = np.array([f[24, 32] for f in frames], int)
    assert np.abs(middles - [(25 * k, 90, 40) for k in range(COUNT)]).max() < 12


def test_one_may_leave_early(film: Path) -> None:
    frames = video.frames(film, **LIMITS)
    next(frames)
    frames.close()


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_frames": 5}, "more than 5 frames"),
        ({"max_pixels": 100}, "frames of 64x48 = 3072 pixels, allowed: 1 to 100"),
    ],
)
def test_more_than_is_allowed(film: Path, limits: dict[str, int], said: str) -> None:
    with pytest.raises(DataError, match=said):
        list(video.frames(film, **{**LIMITS, **limits}))


def test_a_truncated_one(film: Path, tmp_path: Path) -> None:
    path = tmp_path / film.name
    path.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    with pytest.raises(DataError, match=r"is no video that can be read|ends after"):
        list(video.frames(path, **LIMITS))


@pytest.mark.parametrize(
    "text", ["", "no video", "#EXTM3U\n#EXTINF:1,\nfile://{film}\n", "ffconcat version 1.0\nfile '{film}'\n"],
    ids=["empty", "text", "playlist", "list"],
)  # fmt: skip
def test_what_is_none(film: Path, tmp_path: Path, text: str) -> None:
    """Playlists would open other files than the one that is named."""
    path = tmp_path / "film.mp4"
    path.write_text(text.format(film=film))
    with pytest.raises(DataError, match="is no video that can be read"):
        list(video.frames(path, **LIMITS))


def test_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a file"):
        next(video.frames(tmp_path / "film.mp4", **LIMITS))


def test_a_decoder_without_memory_is_the_videos_fault(film: Path) -> None:
    with pytest.raises(DataError, match=r"its decoder|MiB|no video"):
        list(video.frames(film, **LIMITS, memory=64 << 20))
