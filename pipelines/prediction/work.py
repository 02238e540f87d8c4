"""What one worker does: read, decode, predict, write, commit; the next batch is decoded, and the last ones written,
while the model is at work."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pipelines import files
from pipelines.data import buckets
from pipelines.data.faults import FaultError
from pipelines.data.ingest.parallel import LostError, Pool
from pipelines.data.stores import PIECE
from pipelines.data.tree import is_uri
from pipelines.inference.batches import batches
from pipelines.inference.segments import row, segments
from pipelines.prediction import reading
from pipelines.prediction.formats import FORMATS, Result
from pipelines.prediction.ledger import END, Ledger
from pipelines.prediction.sources import Source

MOST_FRAMES = 1 << 24
WAITING = 2  # batches that are being written before the model waits for them
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How it is predicted, and what is written."""

    package: Path
    out: Path
    formats: tuple[str, ...]
    batch_size: int
    decoders: int
    device: str  # auto | cpu | cuda
    part: int
    min_score: float
    alpha: float
    max_pixels: int
    frame_step: int


@dataclass(frozen=True, slots=True)
class Job:
    """Images whose results are one part; or a video, whose frames become several."""

    name: str
    sources: tuple[Source, ...]
    first: int = 0  # frame


@dataclass(frozen=True, slots=True)
class _Seen:
    """A decoded image, and what its row begins with."""

    image: np.ndarray
    about: Row


class Predicting:
    """Picklable; holds a model and the processes that decode, in the process that it is called in, until closed."""

    def __init__(self, options: Options):
        self.options = options
        self.held = ExitStack()

    def __getstate__(self) -> Options:
        return self.options

    def __setstate__(self, options: Options) -> None:
        self.__init__(options)  # type: ignore[misc]

    def __call__(self, job: Job) -> None:
        ledger = Ledger(self.options.out)
        if not job.sources[0].is_video:
            rows = list(self._predicted(self._images(job.sources)))
            place = {source.id: number for number, source in enumerate(job.sources)}
            ledger.commit(job.name, sorted(rows, key=lambda row: place[row["image"]]))
            return
        frames, done = self._frames(job.sources[0], job.first), job.first
        while rows := list(self._predicted(islice(frames, self.options.part))):
            ledger.commit(f"{job.name}-{done:08}", rows)
            done += len(rows)
        ledger.commit(f"{job.name}-{END}", [])

    def close(self) -> None:
        self.held.close()
        self.held = ExitStack()
        for name in ("predictor", "decoding", "taking", "writing"):
            self.__dict__.pop(name, None)

    @cached_property
    def predictor(self) -> Any:
        import torch

        from pipelines.inference import package

        device = self.options.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return package.load(self.options.package, device=device)

    @cached_property
    def decoding(self) -> Pool:
        read = partial(reading.image, max_pixels=self.options.max_pixels)
        return self.held.enter_context(Pool(read, workers=self.options.decoders))

    @cached_property
    def taking(self) -> ThreadPoolExecutor:
        """Takes what is decoded, so that the processes that decode are never out of work."""
        return self.held.enter_context(ThreadPoolExecutor(1))

    @cached_property
    def writing(self) -> ThreadPoolExecutor:
        return self.held.enter_context(ThreadPoolExecutor(1))

    def _predicted(self, items: Iterable[_Seen | Row]) -> Iterator[Row]:
        """The rows of images, some of which are faults already; by batches, each written behind the next."""
        faults: list[Row] = []

        def images() -> Iterator[_Seen]:
            for item in items:
                if isinstance(item, _Seen):
                    yield item
                else:
                    faults.append(item)

        waiting: list[Future[list[Row]]] = []
        batched = batches(images(), self.options.batch_size, shape=lambda seen: seen.image.shape)
        upcoming = self.taking.submit(next, batched, None)
        while (batch := upcoming.result()) is not None:
            upcoming = self.taking.submit(next, batched, None)
            predictions = self.predictor.predict([seen.image for seen in batch])
            waiting.append(self.writing.submit(self._write, batch, predictions))
            if len(waiting) > WAITING:
                yield from waiting.pop(0).result()
        for future in waiting:
            yield from future.result()
        yield from faults

    def _write(self, batch: Sequence["_Seen"], predictions: Sequence[Any]) -> list[Row]:
        return [self._written(*pair) for pair in zip(batch, predictions, strict=True)]

    def _written(self, seen: "_Seen", prediction: Any) -> Row:
        classes = self.predictor.classes
        found = segments(prediction, min_score=self.options.min_score)
        result = Result(
            stem=seen.about["stem"],
            image=seen.image,
            prediction=prediction,
            found=found,
            classes=classes,
            alpha=self.options.alpha,
        )
        written = {}
        for name in self.options.formats:
            for path, content in FORMATS[name].pictures(result):
                files.write_unsynced(self.options.out / path, content)
                written[path] = len(content)
        height, width = seen.image.shape[:2]
        listed = [row(each, number, classes) for number, each in enumerate(found, start=1)]
        return {**seen.about, "height": height, "width": width, "segments": listed, "files": written}

    def _images(self, sources: Sequence[Source]) -> Iterator[_Seen | Row]:
        decoded = self.decoding.ordered(sources)  # held before what reads from it, and so let go after it
        return (_seen(_about(source, source.stem), found) for source, found in decoded)

    def _frames(self, source: Source, first: int) -> Iterator[_Seen | Row]:
        """Of a video, from the wanted frame on that has this number among them."""
        size, step, frame = self.options.batch_size, self.options.frame_step, first * self.options.frame_step
        with _here(source) as path:
            read = partial(reading.frames, path=path, count=size, step=step, max_pixels=self.options.max_pixels)
            with Pool(read, workers=1) as pool:
                for _, found in pool.ordered(range(frame, MOST_FRAMES, size * step)):
                    if not isinstance(found, list):
                        yield {**_about(source, source.stem), "frame": frame, **_fault(found)}
                        return
                    for image in found:
                        yield _Seen(image, {**_about(source, f"{source.stem}/{frame:06}"), "frame": frame})
                        frame += step
                    if len(found) < size:
                        break
        if frame == 0:
            reason = "corrupt video: not one frame can be read"
            yield {**_about(source, source.stem), "frame": 0, "fault": "corrupt", "reason": reason}


def _about(source: Source, stem: str) -> Row:
    return {"image": source.id, "source": source.uri, "mark": list(source.mark), "stem": stem}


def _seen(about: Row, found: Any) -> _Seen | Row:
    return _Seen(found, about) if isinstance(found, np.ndarray) else {**about, **_fault(found)}


def _fault(error: Any) -> Row:
    """What is said of an image that gives no result; an error that is not the image's ends the run."""
    if isinstance(error, FaultError):
        return {"fault": error.kind, "reason": error.reason}
    if isinstance(error, LostError | MemoryError):
        return {"fault": "crashed", "reason": str(error) or "takes more memory than it may"}
    raise error


@contextmanager
def _here(source: Source) -> Iterator[str]:
    """A video as a file of this machine."""
    if not is_uri(source.root):
        yield str(Path(source.root, source.name))
        return
    system, root = buckets.filesystem(source.root)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, PurePosixPath(source.name).name)
        try:
            with system.open_input_stream(f"{root}/{source.name}") as stream, path.open("wb") as file:
                shutil.copyfileobj(stream, file, PIECE)
        except OSError as error:
            raise buckets.refusal(f"{source.uri} cannot be fetched", error) from None
        yield str(path)
