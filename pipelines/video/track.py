"""`python -m pipelines.video track`: instances of each frame, tied together through every video.

<out>/results.json      tracks, as YouTube-VIS's evaluation reads them
<out>/categories.json   what their category ids mean
<out>/tracks/<id>.json  those of each video: what a second run finds done
<out>/<video>.jpg       some frames with their tracks
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import files
from pipelines.data import rle
from pipelines.data.tracks import Track
from pipelines.errors import DataError
from pipelines.inference.predictor import Predictor
from pipelines.progress import Progress
from pipelines.video import image_model, outputs
from pipelines.video.clip import Clip
from pipelines.video.detections import Detections, detections
from pipelines.video.sheet import Sheet
from pipelines.video.sources import youtube_vis
from pipelines.video.tracking import Options, Tracker

RESULTS, CATEGORIES, PARTS = "results.json", "categories.json", "tracks"


@dataclass(kw_only=True, slots=True)
class Tracks:
    """Of one video, as they come: a track's run lengths in the frames where it is seen, and nothing else of them."""

    size: tuple[int, int] = (0, 0)
    frames: int = 0
    masks: dict[int, dict[int, np.ndarray]] = field(default_factory=dict)  # track -> frame -> run lengths

    def add(self, found: Detections, identities: np.ndarray) -> None:
        self.size = (found.masks.shape[1], found.masks.shape[2])
        for k in np.flatnonzero(identities >= 0):
            self.masks.setdefault(int(identities[k]), {})[self.frames] = rle.encode(found.masks[k])
        self.frames += 1

    def of(self, tracker: Tracker) -> list[Track]:
        """Surest first."""
        ended = sorted(tracker.finish(), key=lambda t: -t.score)
        return [
            Track(
                category=each.label,
                masks=tuple(self.masks[each.identity].get(k) for k in range(self.frames)),
                score=each.score,
            )
            for each in ended
        ]


def follow(
    clip: Clip,
    predictor: Predictor,
    options: Options,
    *,
    stride: int,
    min_score: float,
    most: int,
    sheet: Sheet | None = None,
    progress: Progress | None = None,
) -> tuple[list[Track], tuple[int, int]]:
    """The tracks of a video, and the size of its frames."""
    tracker, tracks = Tracker(options), Tracks()
    features = image_model.features(predictor, stride) if options.look or options.memory else None
    before = progress.done if progress else 0
    for name, image in clip.frames():
        instances = image_model.instances(predictor, image)
        seen = None if features is None else features(image)
        found = detections(instances, min_score=min_score, most=most, features=seen)
        identities = tracker.step(image, found)
        tracks.add(found, identities)
        if sheet is not None:
            kept = np.flatnonzero(identities >= 0)
            sheet.add(name, image, {int(identities[k]) + 1: found.masks[k] for k in kept})
        if progress is not None:
            done = before + tracks.frames
            progress.update(done, clip.name, total=max(progress.total, done))
    return tracks.of(tracker), tracks.size


def run(
    clips: Sequence[tuple[int, Clip]],
    out: Path,
    *,
    predictor: Predictor,
    categories: Mapping[int, int],
    options: Options,
    settings: Mapping[str, Any],
    pictures: int,
    asked: Mapping[str, Any],
) -> dict[str, Any]:
    """`clips` with their ids; `categories`: the model's class -> the category's id in the results. `settings` are
    further arguments of `follow`."""
    faults, done = [], 0
    with outputs.opened(out, asked), Progress("track", sum(len(c.names) for _, c in clips), "frames") as progress:
        for identity, clip in clips:
            part = out / PARTS / f"{identity}.json"
            if part.is_file():
                progress.update(progress.done + len(clip.names))
                continue
            try:
                sheet = Sheet(pictures)
                tracks, size = follow(clip, predictor, options, sheet=sheet, progress=progress, **settings)
                outputs.write_bytes(out / f"{clip.name}.jpg", outputs.jpeg(sheet.picture()))
                found = [
                    youtube_vis.result(identity, categories[t.category], t, size)
                    for t in tracks
                    if t.category in categories
                ]
                files.write_json(part, found)
                done += 1
            except DataError as error:
                faults.append(f"{clip.name}: {error}")
        if faults:
            raise DataError(f"{len(faults)} of {len(clips)} videos were not tracked", faults)
        results = [row for identity, _ in clips for row in _read(out / PARTS / f"{identity}.json")]
        named = [{"id": identity, "name": predictor.classes[k].name} for k, identity in categories.items()]
        files.write_json(out / CATEGORIES, named)
        files.write_json(out / RESULTS, results)
    return {"videos": len(clips), "new": done, "tracks": len(results)}


def _read(part: Path) -> list[Any]:
    try:
        found: list[Any] = json.loads(part.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{part} is damaged: {error}", do="remove it, and run again") from None
    return found
