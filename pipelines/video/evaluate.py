"""`python -m pipelines.video evaluate`: results against annotations, J and F or video AP."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipelines.data.faults import Faults
from pipelines.data.tree import Tree
from pipelines.metrics.video_instances import VideoInstanceMetrics
from pipelines.metrics.video_objects import VideoObjectMetrics
from pipelines.progress import Progress
from pipelines.video.clip import Clip
from pipelines.video.sources import stills, youtube_vis

OBJECTS = ("jf", "j", "j_recall", "j_decay", "f", "f_recall", "f_decay")
TRACKS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10")


def objects(results: Tree, clips: Sequence[Clip]) -> dict[str, Any]:
    """`results`: <video>/<frame>.png of each annotated frame but a video's first and last, where none counts."""
    metrics, faults = VideoObjectMetrics(), Faults()
    for clip in clips:
        for name in clip.annotated[1:-1]:
            with faults.of(_file(clip, name)):
                results.check(_file(clip, name))
    faults.check(f"{results.root} lacks results")
    with Progress("evaluate", len(clips), "videos") as progress:
        for number, clip in enumerate(clips, start=1):
            given = {i: clip.annotated.index(frame) for i, frame in clip.given.items()}
            metrics.update(clip.name, given, _pairs(clip, results), count=len(clip.annotated))
            progress.update(number, clip.name)
    return metrics.compute()


def tracks(results: bytes, name: str, truth: youtube_vis.Truth) -> dict[str, Any]:
    """YouTube-VIS's list of tracks against the annotations of the same videos."""
    found = youtube_vis.read_results(results, name, truth)
    metrics = VideoInstanceMetrics(truth.names, things=range(len(truth.names)))
    for video in truth.file.videos:
        metrics.update(truth.tracks[video.id], (video.height, video.width), found[video.id])
    return metrics.compute()


def table(metrics: dict[str, Any], scores: Sequence[str]) -> str:
    """One row, in Markdown."""
    values = ["" if metrics[name] is None else f"{metrics[name]:.3f}" for name in scores]
    return "\n".join(f"| {' | '.join(row)} |" for row in (scores, ["---"] * len(scores), values))


def _pairs(clip: Clip, results: Tree) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for name in clip.annotated:
        truth, file = clip.labels(name), _file(clip, name)
        if truth is None:
            raise ValueError(f"{clip.name}: {name} is said to be annotated")
        with stills.saying(f"{results.root}/{file}"):
            found = results.files.mask(file) if file in results else np.zeros_like(truth)
            if found.shape != truth.shape:
                stills.refuse_size(found.shape, truth.shape)
        yield truth, found


def _file(clip: Clip, frame: str) -> str:
    return f"{clip.name}/{frame}.png"
