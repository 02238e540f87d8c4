"""Frames of a video file from outside: decoded by FFmpeg, through OpenCV, in a process of its own.

The process may crash, hang or ask for too much memory; then the video is at fault, and this process lives on. Only the
demuxers of `CONTAINERS` are tried, and no protocol but a file: a playlist that is named .mp4 can open nothing else.
One frame at a time is on its way, so that memory does not grow with the video.
"""

import json
import multiprocessing
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data.faults import FaultError
from pipelines.errors import DataError

HEAD = 16  # bytes that say what a file is
# How the containers that may be opened begin: FFmpeg would follow what a playlist names, to other files and hosts.
MAGIC: dict[str, tuple[int, bytes]] = {
    "MP4 or MOV": (4, b"ftyp"),
    "old MOV": (4, b"moov"),
    "MOV, data first": (4, b"mdat"),
    "MOV, free first": (4, b"wide"),
    "Matroska or WebM": (0, b"\x1a\x45\xdf\xa3"),
    "AVI": (8, b"AVI "),
    "MPEG program": (0, b"\0\0\1\xba"),
    "MPEG video": (0, b"\0\0\1\xb3"),
    "MPEG transport": (0, b"\x47"),
    "Ogg": (0, b"OggS"),
}
SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts")
CONTAINERS = ("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpeg", "mpegvideo", "mpegts", "ogg")
OPTIONS = f"protocol_whitelist;file|format_whitelist;{','.join(CONTAINERS)}|threads;1"
MEMORY = 4 << 30  # bytes of address space
SECONDS = 60.0  # for one frame
WHOLE = 0.9  # of the frames that a header announces: those are often a few too many
CONTEXT = multiprocessing.get_context("spawn")  # no threads, locks or open files are copied


def opened(path: str, max_pixels: int) -> Any:
    """OpenCV's capture of a file. To be called in a process that may die, before it has opened any other: OpenCV reads
    its options once."""
    with open(path, "rb") as file:  # noqa: PTH123 - a path as it came
        head = file.read(HEAD)
    if not any(head[at : at + len(magic)] == magic for at, magic in MAGIC.values()):
        raise FaultError("not-an-image", f"not an allowed video (allowed: {', '.join(MAGIC)})")
    os.environ |= {
        "OPENCV_FFMPEG_CAPTURE_OPTIONS": OPTIONS,
        "OPENCV_LOG_LEVEL": "SILENT",
        "OPENCV_FFMPEG_LOGLEVEL": "-8",
    }
    import cv2

    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise FaultError("corrupt", "corrupt video: it cannot be opened, or its codec is not known")
    width, height = (int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if not 0 < width * height <= max_pixels:
        raise FaultError("too-large", f"pixels {width}x{height} = {width * height} over limit {max_pixels}")
    return capture


def frames(
    path: Path, *, max_pixels: int, max_frames: int, memory: int = MEMORY, seconds: float = SECONDS
) -> Iterator[np.ndarray]:
    """uint8[h, w, 3] RGB of each frame, in order, turned upright as the file says; to be read to its end, or closed.
    DataError where the file is no video, is damaged, or holds more than is allowed."""
    if not path.is_file():
        raise DataError(f"{path} is not a file", do="name a video file")
    mine, far = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_serve, args=(far, str(path.resolve()), max_pixels, memory), daemon=True)
    process.start()
    far.close()
    try:
        yield from _received(path, mine, process, max_frames, seconds)
    finally:
        mine.close()
        process.kill()
        process.join()


def _received(path: Path, pipe: Connection, process: BaseProcess, most: int, seconds: float) -> Iterator[np.ndarray]:
    count, announced = 0, 0
    while True:
        try:
            if not pipe.poll(seconds):
                raise DataError(f"{path}: frame {count} took longer than {seconds:g} s to decode", do="encode it again")
            said = json.loads(pipe.recv_bytes())
            pixels = pipe.recv_bytes() if "shape" in said else b""
        except (EOFError, OSError):
            process.join(5)
            raise DataError(f"{path}: {_ending(process.exitcode)} at frame {count}", do="encode it again") from None
        if "fault" in said:
            raise DataError(f"{path}: {said['fault']}", do=f"give a video ({', '.join(SUFFIXES)}), or its frames")
        if "end" in said:
            break
        announced = said.get("announced", announced)
        if max(count + len(pixels[:1]), announced) > most:
            raise DataError(f"{path}: more than {most} frames", do="raise video.max_frames, or cut the video")
        if pixels:
            yield np.frombuffer(pixels, np.uint8).reshape(said["shape"])
            count += 1
    if count < WHOLE * announced or not count:
        raise DataError(f"{path}: ends after {count} of {announced} frames", do="it is truncated: fetch it again")


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"its decoder was killed by {signal.Signals(-code).name}"
    return f"its decoder ended with exit code {code}"


def _serve(pipe: Connection, path: str, max_pixels: int, memory: int) -> None:
    """How many frames are announced, then each one's shape and bytes, then the end; or what is wrong. As JSON, for
    nothing is unpickled that has been near a file from outside."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent ends this one
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory if most == resource.RLIM_INFINITY else min(memory, most), most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(BrokenPipeError, ConnectionResetError):  # the parent needs no more
        try:
            _decode(pipe, path, max_pixels)
        except MemoryError:
            _say(pipe, fault=f"its frames need more than {memory >> 20} MiB")


def _decode(pipe: Connection, path: str, max_pixels: int) -> None:
    import cv2

    try:
        capture = opened(path, max_pixels)
    except FaultError as error:
        _say(pipe, fault=str(error))
        return
    announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    _say(pipe, announced=int(announced) if 0 < announced < 1 << 31 else 0)
    while True:
        there, frame = capture.read()
        if not there:
            break
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame[..., 0].size > max_pixels:
            _say(pipe, fault=f"a frame is {frame.dtype}{list(frame.shape)}, allowed: uint8, {max_pixels} pixels")
            return
        _say(pipe, shape=frame.shape)
        pipe.send_bytes(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).tobytes())
    _say(pipe, end=True)


def _say(pipe: Connection, **what: Any) -> None:
    pipe.send_bytes(json.dumps(what).encode())
