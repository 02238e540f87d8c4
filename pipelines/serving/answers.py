"""What the service says: an answer, or a refusal in the house's words (what was found, what is allowed, what to do)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

JSON, PNG, TEXT = "application/json", "image/png", "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Of a request."""

    status: int = 200
    media: str = JSON
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """Ends a request with an answer that says why."""

    def __init__(self, status: int, found: str, *, allowed: str = "", do: str = "", headers: Mapping[str, str] = {}):
        super().__init__(found)
        self.status, self.headers = status, headers
        said = {"found": found, "allowed": allowed, "do": do}
        self.said = {name: text for name, text in said.items() if text}

    @property
    def answer(self) -> Answer:
        error = {"status": self.status, "title": HTTPStatus(self.status).phrase, **self.said}
        return as_json({"error": error}, status=self.status, headers=self.headers)


def as_json(value: Any, *, status: int = 200, headers: Mapping[str, str] = {}) -> Answer:
    return Answer(status=status, content=json.dumps(value, allow_nan=False).encode(), headers=headers)
