"""The door: connections, which are many, may be silent, and are closed before they are too many; and the end, for which
those that are being answered are waited."""

import asyncio
import contextlib
import functools
import ipaddress
import resource
import signal
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipelines.errors import ConfigError
from pipelines.serving.answers import Answer, Refusal
from pipelines.serving.app import App, Limits

FILES = 256  # open ones beside the connections
BACKLOG = 2048  # connections that wait to be looked at
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Connection(H11Protocol):
    """One that is closed when no request has come in time, or when there are too many, the most silent one first."""

    def __init__(self, *args: Any, limits: Limits, **named: Any):
        super().__init__(*args, **named)
        self.limits = limits
        self.since = self.loop.time()  # no request is being answered
        self.timer: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look_again()
        if len(self.connections) > self.limits.max_connections:
            others: list[Any] = [other for other in self.connections if other is not self and not other.busy]  # type: ignore[union-attr]
            if others:
                min(others, key=lambda other: other.since).transport.close()
            else:
                found = f"{len(self.connections)} connections"
                self._say(Refusal(503, found, allowed=f"{self.limits.max_connections}", headers={"retry-after": "1"}))

    def on_response_complete(self) -> None:
        self.since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """The sender will send no more, and may still be listening."""
        if self.busy and self.cycle.more_body and not self.cycle.response_started:
            found = "a body that ends before the length that was announced"
            self._say(Refusal(400, found, do="send it again, whole"))

    def _look_again(self) -> None:
        self.timer = self.loop.call_later(self.limits.idle_seconds / 4, self._look)

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        if not self.busy and self.loop.time() - self.since > self.limits.idle_seconds:
            if self.conn.trailing_data[0]:
                self._say(Refusal(408, f"no whole request within {self.limits.idle_seconds:g} s", do="send it again"))
            self.transport.close()
        else:
            self._look_again()

    def _say(self, refusal: Refusal) -> None:
        """An answer outside any request's turn, and the end of the connection."""
        answer = refusal.answer
        self.transport.write(_plain(answer))
        self.transport.close()


def _plain(answer: Answer) -> bytes:
    headers = {
        **answer.headers,
        "content-type": answer.media,
        "content-length": len(answer.content),
        "connection": "close",
    }
    lines = [f"HTTP/1.1 {answer.status} Refused", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + answer.content


class Door(uvicorn.Server):
    """Serves until it is told to end, then finishes what it has begun."""

    def __init__(self, app: App):
        self.app = app
        super().__init__(
            uvicorn.Config(
                app,
                http=functools.partial(Connection, limits=app.limits),  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                log_level="critical",
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=max(1, round(app.limits.idle_seconds)),
                timeout_graceful_shutdown=max(1, round(app.limits.drain_seconds)),
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Where signals can be taken: the first ends it in order, the second at once."""
        before = {}
        with contextlib.suppress(ValueError):  # not the main thread
            before = {number: signal.signal(number, self._told) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _told(self, *_: object) -> None:
        self.force_exit = self.should_exit
        self.should_exit = self.app.draining = True


def listen(host: str, port: int) -> socket.socket:
    """Bound, and answering nobody yet."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{host}:{port} cannot be listened on: {reason}", do="set serve.port, or --port") from None
    return found


def is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host == "localhost"


def room_for(connections: int) -> None:
    """As many open files as that takes, where the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        if most < wanted:
            raise ConfigError(
                f"serve.max_connections is {connections}, and this process may open {hard} files",
                do=f"set it to {hard - FILES}, or raise the limit (ulimit -Hn)",
            )
