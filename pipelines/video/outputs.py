"""A folder of results: each video whole or absent, and what was asked, so that a second run goes on where one ended."""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from pipelines import files
from pipelines.data.exports.voc import PALETTE
from pipelines.errors import DataError

ASKED = "asked.json"
QUALITY = 85


@contextmanager
def opened(out: Path, asked: Mapping[str, Any]) -> Iterator[None]:
    """One process at a time writes there, and only results of the same question."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is not a folder", do="name another")
    with files.locked(out / ".lock"):
        path = out / ASKED
        if path.is_file():
            differing = _differing(path, asked)
            if differing:
                raise DataError(f"{out} holds results of another question: {differing}", do="name another folder")
        elif any(entry.name != ".lock" for entry in out.iterdir()):
            raise DataError(f"{out} is not empty, and holds no {ASKED}", do="name a new folder")
        else:
            files.write_json(path, asked)
        yield


def _differing(path: Path, asked: Mapping[str, Any]) -> str:
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        return ", ".join(name for name in asked if before.get(name) != asked[name])
    except (ValueError, AttributeError):
        return "its asked.json is damaged"


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A folder beside, which becomes `folder` when all is in it."""
    beside = folder.with_name(f".{folder.name}.part")
    files.remove(beside)
    beside.mkdir(parents=True)
    try:
        yield beside
        files.remove(folder)
        beside.replace(folder)
    finally:
        files.remove(beside)


def write_ids(path: Path, ids: np.ndarray) -> None:
    """uint8[h, w] as a PNG with DAVIS's palette."""
    picture, file = Image.fromarray(ids), io.BytesIO()
    picture.putpalette(PALETTE)
    picture.save(file, "PNG")
    path.write_bytes(file.getvalue())


def write_bytes(path: Path, data: bytes) -> None:
    with files.replacing(path, "wb") as file:
        file.write(data)


def jpeg(picture: np.ndarray, quality: int = QUALITY) -> bytes:
    """uint8[h, w, 3] RGB, encoded."""
    data: bytes = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    return data
