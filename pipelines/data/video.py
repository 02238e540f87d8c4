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

from pipelines.errors import DataError

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts")
CONTAINERS = ("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpeg", "mpegts")
OPTIONS = f"protocol_whitelist;file|format_whitelist;{','.join(CONTAINERS)}|threads;1"
MEMORY = 4 << 30  # bytes of address space
SECONDS = 60.0  # for one frame
WHOLE = 0.9  # of the frames that a header announces: those are often a few too many
CONTEXT = multiprocessing.get_context("spawn")  # no threads, locks or open files are copied


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
    os.environ |= {
        "OPENCV_FFMPEG_CAPTURE_OPTIONS": OPTIONS,
        "OPENCV_LOG_LEVEL": "SILENT",
        "OPENCV_FFMPEG_LOGLEVEL": "-8",
    }
    with suppress(BrokenPipeError, ConnectionResetError):  # the parent needs no more
        try:
            _decode(pipe, path, max_pixels)
        except MemoryError:
            _say(pipe, fault=f"its frames need more than {memory >> 20} MiB")


def _decode(pipe: Connection, path: str, max_pixels: int) -> None:
    import cv2

    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    if not capture.isOpened():
        _say(pipe, fault="is no video that can be read")
        return
    width, height = (int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if not 0 < width * height <= max_pixels:
        _say(pipe, fault=f"frames of {width}x{height} = {width * height} pixels, allowed: 1 to {max_pixels}")
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
