"""The replicas on Ray Serve: requests that wait at the same time are predicted together, and a replica that dies is
replaced."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.cluster import cluster, is_ours
from pipelines.cluster.room import nodes, workers_held
from pipelines.errors import ConfigError, RunError
from pipelines.serving.answers import Answer, Refusal
from pipelines.serving.segmenter import Form, Segmenter, Settings

NAME = "maskline"
LOOK = 1.0  # seconds for which what was last known of the replicas is believed


class Replicas:
    """All of them, as the app asks them."""

    def __init__(self, handle: Any):
        self.handle = handle
        self.looked, self.running = 0.0, False

    async def ask(self, image: bytes, form: Form) -> Answer:
        from ray.exceptions import RayError
        from ray.serve.exceptions import BackPressureError, RayServeException

        try:
            answer: Answer = await self.handle.remote(image, form)
        except (BackPressureError, RayServeException, RayError) as error:
            said = str(getattr(error, "cause", None) or error).strip().splitlines()[-1][:200]
            do = "send it again; if it comes again, read the service's log"
            raise Refusal(503, f"no replica that answers: {said}", do=do, headers={"retry-after": "1"}) from None
        return answer

    async def ready(self) -> bool:
        if time.monotonic() - self.looked > LOOK:
            self.looked = time.monotonic()
            self.running = await asyncio.to_thread(_running)
        return self.running


def _running() -> bool:
    from ray import serve

    application = serve.status().applications.get(NAME)
    return application is not None and application.status == "RUNNING"


@contextmanager
def replicas(settings: Settings, *, count: int, wait: float, waiting: int, drain: float) -> Iterator[Replicas]:
    """`count` processes with a model each; those that wait for at most `wait` seconds are predicted together."""
    with cluster(cpus=count):
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        gpus = workers_held(nodes(), gpu=True) if settings.device != "cpu" else 0
        if settings.device == "cuda" and gpus < count:
            raise ConfigError(
                f"serve.device is cuda, and Ray knows of {gpus} GPUs for {count} replicas",
                do="set serve.device to auto",
            )
        deployed = serve.deployment(_replica(settings.max_batch, wait)).options(
            name=NAME,
            num_replicas=count,
            max_ongoing_requests=max(waiting, 1),
            graceful_shutdown_timeout_s=drain,
            ray_actor_options={"num_cpus": 1, "num_gpus": 1 if gpus >= count else 0},
        )
        try:
            serve.start(proxy_location="Disabled")  # what HTTP brings comes in by our own door
            handle = serve.run(deployed.bind(settings, is_ours()), name=NAME, route_prefix=None)
        except Exception as error:  # Ray raises bare RuntimeErrors here
            raise RunError(f"the replicas did not start: {error}\ndo: see that memory has room for them") from error
        try:
            yield Replicas(handle)
        finally:
            serve.delete(NAME)


def _listen_on_loopback() -> None:
    """Serve opens a port of each replica to every interface, for replicas on other machines, and believes whatever
    comes in by it. On a Ray of our own there are none. Called in the replica's process, before it does so."""
    from ray.serve._private import replica

    add = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: add(server, address.replace("[::]", "127.0.0.1"))


def _replica(max_batch: int, wait: float) -> type:
    """Made here, because the size of a batch is part of what Serve decorates."""
    from ray import serve

    class Replica:
        def __init__(self, settings: Settings, alone: bool):
            if alone:
                _listen_on_loopback()
            self.segmenter = Segmenter(settings)

        async def __call__(self, data: bytes, form: Form) -> Answer:
            try:
                image = await asyncio.to_thread(self.segmenter.decoders.decode, data)
            except Refusal as refusal:
                return refusal.answer
            prediction = await self.predict(image)
            return await asyncio.to_thread(self.segmenter.render, image, prediction, form)

        @serve.batch(max_batch_size=max_batch, batch_wait_timeout_s=wait)  # type: ignore[untyped-decorator]
        async def predict(self, images: list[Any]) -> list[Any]:
            return await asyncio.to_thread(self.segmenter.predict, images)

    return Replica
