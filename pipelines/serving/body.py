"""A request's body: refused by what its header says, or as soon as it is too large; never read without an end."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from email.message import Message
from typing import Any

from pipelines.serving.answers import Refusal

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
DO = "curl --data-binary @image.jpg http://.../predict, or -F file=@image.jpg"


class GoneError(Exception):
    """Nobody is there to be answered."""


async def read(headers: Mapping[str, str], receive: Receive, *, most: int, idle: float, seconds: float) -> bytes:
    """All of it: at most `most` bytes, none later than `idle` seconds after the one before, in `seconds` together."""
    _check_length(headers, most)
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            more = True
            while more:
                async with asyncio.timeout(idle):
                    message = await receive()
                if message["type"] == "http.disconnect":
                    raise GoneError
                part = message.get("body", b"")
                size += len(part)
                if size > most:
                    raise _too_large(f"a body of more than {size - 1:,} bytes", most)
                parts.append(part)
                more = bool(message.get("more_body", False))
    except TimeoutError:
        raise Refusal(
            408,
            f"{size:,} bytes of the body, and then nothing more",
            allowed=f"a pause of {idle:g} s",
            do="send it again",
        ) from None
    if not size:
        raise Refusal(400, "an empty body", allowed="an image", do=DO)
    return b"".join(parts)


def _check_length(headers: Mapping[str, str], most: int) -> None:
    length = headers.get("content-length")
    if length is not None and int(length) > most:  # the server has refused what is no number
        raise _too_large(f"a body of {int(length):,} bytes", most)


def _too_large(found: str, most: int) -> Refusal:
    return Refusal(
        413, found, allowed=f"at most {most:,} bytes", do="make the image smaller, or serve.max_body_mb larger"
    )


def image(headers: Mapping[str, str], body: bytes) -> bytes:
    """The body itself, or the one file of a form."""
    kind = Message()
    kind["content-type"] = headers.get("content-type", "application/octet-stream")
    if kind.get_content_type() != "multipart/form-data":
        return body
    boundary = kind.get_boundary()
    if not boundary:
        raise Refusal(400, "a form without a boundary", do=DO)
    found = list(filter(None, map(_file, body.split(f"--{boundary}".encode())[1:-1])))
    if len(found) != 1:
        raise Refusal(400, f"a form with {len(found)} files", allowed="one", do=DO)
    return found[0]


def _file(part: bytes) -> bytes | None:
    """Of a form's part its content, where it is a file."""
    head, _, content = part.partition(b"\r\n\r\n")
    return content.removesuffix(b"\r\n") if b"filename" in head.lower() else None
