"""The service without Ray: the same app behind the same door, its model in this process."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from pipelines.serving import segmenter
from pipelines.serving.answers import Answer
from pipelines.serving.app import App, Limits
from pipelines.serving.door import Door, listen
from pipelines.serving.segmenter import Form, Segmenter, Settings

LIMITS = Limits(
    allowed_hosts=("127.0.0.1",),
    max_body=200_000,
    max_waiting=4,
    max_connections=64,
    idle_seconds=60.0,  # nothing here waits for it
    answer_seconds=60.0,
    drain_seconds=20.0,
)


class Here:
    """One image at a time; can be held up."""

    def __init__(self, folder: Path):
        settings = Settings(
            package=folder, device="cpu", decoders=1, max_batch=4, max_pixels=1_000_000, min_score=0.3, alpha=0.5
        )
        self.segmenter = Segmenter(settings)
        self.lock = threading.Lock()

    async def ask(self, image: bytes, form: Form) -> Answer:
        return await asyncio.to_thread(self._ask, image, form)

    def _ask(self, data: bytes, form: Form) -> Answer:
        image = self.segmenter.decoders.decode(data)
        with self.lock:
            [prediction] = self.segmenter.predict([image])
        return self.segmenter.render(image, prediction, form)

    async def ready(self) -> bool:
        return True


@dataclass
class Service:
    """One that runs."""

    app: App
    backend: Here
    door: Door
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, data: bytes, query: str = "", **options: Any) -> requests.Response:
        return requests.post(f"{self.url}/predict{query}", data=data, timeout=120, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(f"{self.url}{path}", timeout=120, **options)


@contextmanager
def serving(folder: Path, limits: Limits = LIMITS) -> Iterator[Service]:
    backend = Here(folder)
    app = App(backend, model=segmenter.about(folder, name="tiny 1", metrics={"semantic": {"miou": 0.5}}), limits=limits)
    door = Door(app)
    with listen("127.0.0.1", 0) as socket:
        thread = threading.Thread(target=door.run, kwargs={"sockets": [socket]})
        thread.start()
        try:
            while not door.started:
                time.sleep(0.01)
            yield Service(app, backend, door, socket.getsockname()[1])
        finally:
            door.should_exit = True
            thread.join()
            backend.segmenter.close()
