"""The service as ASGI knows it: who may ask, what there is to ask for, and how much at a time.

| path                            |                                                                            |
|---------------------------------|----------------------------------------------------------------------------|
| `GET /`                         | the page                                                                   |
| `POST /predict`                 | an image as the body, or as the file of a form: its segments as JSON; with |
|                                 | `?format=overlay` a picture, `?format=png` a map of their ids; of JSON the |
|                                 | masks by `?masks=` `rle` (COCO's, compressed), `png` (base64) or `none`    |
| `GET /model`                    | what is served                                                             |
| `GET /healthz`, `GET /readyz`   | whether it lives, whether it can answer                                    |
| `GET /metrics`                  | for Prometheus                                                             |
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from pipelines.errors import did_you_mean
from pipelines.serving import body
from pipelines.serving.answers import TEXT, Answer, Refusal, as_json
from pipelines.serving.counters import Counters
from pipelines.serving.segmenter import FORMATS, MASKS, Form

PAGE = Path(__file__).parent / "page"
FILES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js", "/icon.svg": "icon.svg"}
MEDIA = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' blob:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
)
SAFETY = {
    "content-security-policy": "; ".join(POLICY),
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
LINGER = 2.0  # seconds for which a refused upload is still taken, so that its sender reads the answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What the service takes upon itself."""

    allowed_hosts: tuple[str, ...]
    max_body: int  # bytes
    max_waiting: int
    max_connections: int
    idle_seconds: float
    answer_seconds: float
    drain_seconds: float


class Backend(Protocol):
    """Whoever predicts."""

    async def ask(self, image: bytes, form: Form) -> Answer: ...
    async def ready(self) -> bool: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One, before its body is read."""

    path: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    receive: body.Receive


Handler = Callable[[Request], Awaitable[Answer]]


class App:
    """An ASGI application."""

    def __init__(self, backend: Backend, *, model: Answer, limits: Limits):
        self.backend, self.model, self.limits = backend, model, limits
        self.counters = Counters()
        self.draining = False
        self.routes: dict[str, tuple[str, Handler]] = {
            **dict.fromkeys(FILES, ("GET", self._file)),
            "/predict": ("POST", self._predict),
            "/model": ("GET", self._model),
            "/healthz": ("GET", self._health),
            "/readyz": ("GET", self._readiness),
            "/metrics": ("GET", self._metrics),
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise ValueError(f"{scope['type']} is not spoken here")
        started = time.monotonic()
        whole = _watched(receive)
        request = Request(
            path=scope["path"],
            headers={name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
            query=dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)),
            receive=whole,
        )
        with suppress(body.GoneError):
            answer = await self._answer(scope["method"], request)
            self.counters.answered(
                request.path if request.path in self.routes else "other", answer.status, time.monotonic() - started
            )
            await _send(answer, send, whole, head=scope["method"] == "HEAD")

    async def _answer(self, method: str, request: Request) -> Answer:
        try:
            self._check_sender(request.headers)
            allowed, handler = self._route(request.path)
            if method != allowed and not (method == "HEAD" and allowed == "GET"):
                raise Refusal(
                    405,
                    f"{method} {request.path}",
                    allowed=allowed,
                    do=f"{allowed} {request.path}",
                    headers={"allow": allowed},
                )
            return await handler(request)
        except Refusal as refusal:
            return refusal.answer

    def _check_sender(self, headers: Mapping[str, str]) -> None:
        """A page from elsewhere must not ask in a visitor's name, nor under a name that it has pointed here."""
        host = headers.get("host", "")
        name, known = _name(host), self.limits.allowed_hosts
        if "*" not in known and name not in known:
            raise Refusal(421, f"the host '{host}'", allowed=", ".join(known), do="add it to serve.allowed_hosts")
        origin = headers.get("origin")
        if origin and urlsplit(origin).netloc != host:
            raise Refusal(403, f"a request from a page of {origin}", allowed=f"pages of {host}", do="ask from a server")

    def _route(self, path: str) -> tuple[str, Handler]:
        if path not in self.routes:
            listed = ", ".join(self.routes)
            raise Refusal(404, f"the path {path[:80]}{did_you_mean(path, self.routes)}", allowed=listed, do="GET /")
        return self.routes[path]

    async def _file(self, request: Request) -> Answer:
        path = PAGE / FILES[request.path]
        return Answer(media=f"{MEDIA[path.suffix]}; charset=utf-8", content=path.read_bytes())

    async def _model(self, request: Request) -> Answer:
        return self.model

    async def _health(self, request: Request) -> Answer:
        return as_json({"status": "alive"})

    async def _readiness(self, request: Request) -> Answer:
        if self.draining or not await self.backend.ready():
            status = "draining" if self.draining else "not ready"
            return as_json({"status": status}, status=503, headers={"retry-after": "1"})
        return as_json({"status": "ready"})

    async def _metrics(self, request: Request) -> Answer:
        return Answer(media=TEXT, content=self.counters.text().encode())

    async def _predict(self, request: Request) -> Answer:
        form = _form(request.query)
        if self.counters.waiting >= self.limits.max_waiting:
            raise Refusal(
                503,
                f"{self.counters.waiting} requests that are being answered already",
                allowed=f"{self.limits.max_waiting} (serve.max_waiting)",
                do="come again in a second",
                headers={"retry-after": "1"},
            )
        self.counters.waiting += 1
        try:
            data = await body.read(
                request.headers,
                request.receive,
                most=self.limits.max_body,
                idle=self.limits.idle_seconds,
                seconds=self.limits.answer_seconds,
            )
            async with asyncio.timeout(self.limits.answer_seconds):
                return await self.backend.ask(body.image(request.headers, data), form)
        except TimeoutError:
            seconds = f"{self.limits.answer_seconds:g} s"
            raise Refusal(
                503,
                f"no prediction within {seconds}",
                do="come again, or send less at a time",
                headers={"retry-after": "5"},
            ) from None
        finally:
            self.counters.waiting -= 1


def _name(host: str) -> str:
    """Without the port."""
    return host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0].lower()


def _form(query: Mapping[str, str]) -> Form:
    for name, allowed in (("format", FORMATS), ("masks", MASKS)):
        if name in query and query[name] not in allowed:
            hint = did_you_mean(query[name], allowed)
            raise Refusal(
                400, f"{name}={query[name][:80]}{hint}", allowed=", ".join(allowed), do=f"?{name}={allowed[0]}"
            )
    if unknown := sorted(set(query) - {"format", "masks"}):
        raise Refusal(400, f"the option {unknown[0][:80]}", allowed="format, masks", do="leave it out")
    return Form(**query)


class _watched:  # noqa: N801 - a wrapped function
    """`receive`, and whether the body has been read to its end."""

    def __init__(self, receive: body.Receive):
        self.receive, self.ended = receive, False

    async def __call__(self) -> Mapping[str, Any]:
        message = await self.receive()
        self.ended = not message.get("more_body", False)
        return message


async def _send(answer: Answer, send: Any, body_: _watched, *, head: bool) -> None:
    """The answer; where the sender is still sending, what comes is taken for a moment and dropped: a connection that is
    closed at once would lose the answer with it."""
    unread = answer.status >= 400 and not body_.ended
    headers = {**SAFETY, "content-type": answer.media, "content-length": str(len(answer.content)), **answer.headers}
    if unread:
        headers["connection"] = "close"
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": raw})
    await send({"type": "http.response.body", "body": b"" if head else answer.content, "more_body": unread})
    if unread:
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while not body_.ended:
                    await body_()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
