"""YouTube-VIS's JSON (Yang et al. 2019), and OVIS's, which is the same: `videos` with their `file_names`,
`categories`, and `annotations` that hold a segmentation for each frame, or null. Results are a list of such tracks
with scores.

Segmentations are polygons or run lengths, as in COCO. What is wrong is said for the whole file at once.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from pipelines.data import rle
from pipelines.data.classes import said
from pipelines.data.decode import MAX_PIXELS
from pipelines.data.faults import FaultError
from pipelines.data.formats.coco_json import pixels
from pipelines.data.tracks import Track
from pipelines.data.tree import Tree
from pipelines.errors import DataError, bounded
from pipelines.video.clip import Clip, Frames
from pipelines.video.sources import stills

Id = Annotated[int, Field(strict=True)]
Side = Annotated[int, Field(strict=True, ge=1, le=MAX_PIXELS)]
Segmentations = list[list[Any] | dict[str, Any] | None]


class Category(BaseModel):
    id: Id
    name: Annotated[str, Field(min_length=1)]


class Video(BaseModel):
    id: Id
    height: Side
    width: Side
    file_names: Annotated[list[str], Field(min_length=1)]

    @property
    def name(self) -> str:
        """Their folder's; a number where they lie in none."""
        folder = str(PurePosixPath(self.file_names[0]).parent)
        return str(self.id) if folder == "." else folder


class Annotation(BaseModel):
    video_id: Id
    category_id: Id
    segmentations: Segmentations
    iscrowd: Literal[0, 1] = 0


class Result(BaseModel):
    video_id: Id
    category_id: Id
    segmentations: Segmentations
    score: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class File(BaseModel):
    videos: list[Video]
    categories: Annotated[list[Category], Field(min_length=1)]
    annotations: list[Annotation] | None = None  # those of the published validation and test sets are null


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """A file, of which category k is the row `categories[k]`."""

    file: File
    tracks: Mapping[int, Sequence[Track]]  # by video

    @property
    def names(self) -> list[str]:
        return [category.name for category in self.file.categories]


def read(data: bytes, name: str) -> Truth:
    file: File = _parsed(TypeAdapter(File), data, name)
    return Truth(file=file, tracks=_tracks(file, file.annotations or [], name, lambda _: 1.0))


def read_results(data: bytes, name: str, truth: Truth) -> Mapping[int, Sequence[Track]]:
    """Tracks by video, of the videos and categories that `truth` has."""
    results: list[Result] = _parsed(TypeAdapter(list[Result]), data, name)
    return _tracks(truth.file, results, name, lambda result: result.score)


def result(video: int, category: int, track: Track, size: tuple[int, int]) -> dict[str, Any]:
    """A track as YouTube-VIS's evaluation reads it."""
    masks = [None if m is None else {"size": list(size), "counts": rle.to_string(m)} for m in track.masks]
    return {"video_id": video, "category_id": category, "score": track.score, "segmentations": masks}


def clips(tree: Tree, truth: Truth, folder: str) -> list[tuple[Video, Clip]]:
    """The videos with their frames, which lie in `folder`."""
    found = []
    for video in truth.file.videos:
        names = {PurePosixPath(n).stem: f"{folder}/{n}" if folder else n for n in video.file_names}
        if len(names) < len(video.file_names):
            raise DataError(f"video {video.id}: two of its frames have one name", do="rename them")
        for name in names.values():
            with stills.saying(name):
                tree.check(name)
        found.append((video, Clip(name=video.name, names=tuple(names), frames=_frames(tree, names))))
    return found


def _frames(tree: Tree, names: Mapping[str, str]) -> Callable[[], Frames]:
    return lambda: stills.read(tree, names)


def _parsed(adapter: TypeAdapter[Any], data: bytes, name: str) -> Any:
    try:
        return adapter.validate_python(json.loads(data))
    except ValidationError as error:
        raise DataError(f"{name} is not YouTube-VIS's", bounded(said(error))) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} cannot be read: {error}", do="fetch it again") from None


def _tracks(file: File, rows: Sequence[Any], name: str, score: Callable[[Any], float]) -> dict[int, list[Track]]:
    videos = {video.id: video for video in file.videos}
    categories = {category.id: row for row, category in enumerate(file.categories)}
    faults: list[str] = []
    if len(videos) < len(file.videos) or len(categories) < len(file.categories):
        faults.append("an id of videos or of categories is there twice")
    found: dict[int, list[Track]] = {identity: [] for identity in videos}
    for place, row in enumerate(rows):
        if row.video_id not in videos or row.category_id not in categories:
            faults.append(f"track {place}: video {row.video_id}, category {row.category_id}: there is no such")
            continue
        masks, wrong = _masks(videos[row.video_id], row.segmentations)
        faults += [f"track {place}: {fault}" for fault in wrong]
        if not wrong:
            crowd = bool(getattr(row, "iscrowd", 0))
            track = Track(category=categories[row.category_id], masks=masks, score=score(row), iscrowd=crowd)
            found[row.video_id].append(track)
    if faults:
        raise DataError(f"{name}: {len(faults)} faults", bounded(faults), do=f"mend {name}")
    return found


def _masks(video: Video, segmentations: Segmentations) -> tuple[tuple[np.ndarray | None, ...], list[str]]:
    frames = len(video.file_names)
    if len(segmentations) != frames:
        return (), [f"{len(segmentations)} segmentations, and video {video.id} has {frames} frames"]
    masks, faults = [], []
    for k, segmentation in enumerate(segmentations):
        try:
            masks.append(_mask(segmentation, video))
        except FaultError as error:
            faults.append(f"frame {k}: {error.reason}")
    return tuple(masks), faults


def _mask(segmentation: list[Any] | dict[str, Any] | None, video: Video) -> np.ndarray | None:
    if segmentation is None:
        return None
    counts = pixels(segmentation, video.height, video.width).counts
    return counts if rle.area(counts) else None
