"""Large JSON files, an element at a time: what a list of 860 000 annotations needs is the file and one annotation.

A file is an object, of which some members are lists whose elements are wanted one by one. An element that is JSON and
yet cannot be used, because of NaN, nesting or endless numbers, is told with what identifies it, and the next one read.
"""

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipelines.data.faults import FaultError
from pipelines.errors import bounded

WINDOW = 1 << 20
MAX_ELEMENT = 1 << 24  # characters: decoded, an element may need twenty times as many bytes
MAX_TEXT = 1 << 29  # of a single string, such as an embedded image
CUT = 16  # characters: an error further from the window's end is no token that the window cuts
SPACE = re.compile(r"[ \t\r\n]*")
DELIMITER = re.compile(r"[ \t\r\n:,\]}]")
TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{}]', re.DOTALL)
SCALAR = re.compile(r'\s*:\s*(?:(-?\d{1,18})\b|"([^"\\]*)")')


@dataclass(frozen=True, kw_only=True, slots=True)
class Element:
    """A member's value, or an element of its list."""

    key: str
    place: int = -1  # in the list
    value: Any  # of one that cannot be used: those of its members that are numbers or text
    text: str = ""  # as it stands in the file
    fault: str = ""


class _NotFiniteError(Exception):
    """NaN and Infinity, which are no JSON."""


def elements(data: bytes, lists: tuple[str, ...]) -> Iterator[Element]:
    """Every element of these members, which must be there and be lists; every other member whole."""
    text, seen = _Text(data), set()
    text.take("{")
    while text.ahead() != "}":
        key = text.value().value
        if not isinstance(key, str) or key in seen:
            raise text.fault(f"the key {key!r} is there twice" if key in seen else "a key must be text")
        seen.add(key)
        text.take(":")
        if key in lists:
            yield from _listed(text, key)
        else:
            found = text.value()
            if found.fault:
                raise text.fault(f"{key}: {found.fault}")
            yield Element(key=key, value=found.value)
        if text.ahead() != "}":
            text.take(",")
    text.take("}")
    if text.ahead():
        raise text.fault("goes on after its end")
    if missing := [key for key in lists if key not in seen]:
        raise FaultError("unreadable-json", f"has no {', no '.join(bounded(missing))}")


def _listed(text: "_Text", key: str) -> Iterator[Element]:
    if text.ahead() != "[":
        raise text.fault(f"{key} must be a list")
    text.take("[")
    place = 0
    while text.ahead() != "]":
        found = text.value()
        yield Element(key=key, place=place, value=found.value, text=found.text, fault=found.fault)
        place += 1
        if text.ahead() != "]":
            text.take(",")
    text.take("]")


class _Text:
    """The file through a window that moves on, and grows where an element needs it."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 3 if data.startswith(codecs.BOM_UTF8) else 0
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.window, self.pos, self.before = "", 0, 0
        self.json = json.JSONDecoder(parse_constant=_refuse)

    def ahead(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            space = SPACE.match(self.window, self.pos)
            self.pos = space.end() if space else self.pos
            if self.pos < len(self.window) or not self._grow():
                return self.window[self.pos : self.pos + 1]

    def take(self, character: str) -> None:
        if (found := self.ahead()) != character:
            raise self.fault(f"expected {character!r}, got {found!r}" if found else "ends too early")
        self.pos += 1

    def value(self) -> Element:
        """The value ahead, whatever it is."""
        self.ahead()
        while True:
            reason, found = "", None
            try:
                found, end = self.json.raw_decode(self.window, self.pos)
            except json.JSONDecodeError as error:
                # A text's error is told where it begins, however far back that is.
                unended = error.msg.startswith("Unterminated")
                if (unended or len(self.window) - error.pos <= CUT) and self._grow(error if unended else None):
                    continue
                self.pos = error.pos
                raise self.fault(error.msg) from None
            except _NotFiniteError as error:
                reason = f"{error} is no number"
            except RecursionError:
                reason = "is nested too deeply"
            except ValueError as error:  # whole numbers of thousands of digits
                reason = str(error)
            if reason:
                found, end = self._past()
            if DELIMITER.match(self.window, end) or not self._grow():  # else a number may be cut
                text, self.pos = self.window[self.pos : end], end
                return Element(key="", value=found, text=text, fault=reason)

    def _past(self) -> tuple[dict[str, Any], int]:
        """Those members of the object ahead that are numbers or text, and where it ends; without recursion."""
        while True:
            depth, key, found = 0, "", {}
            for token in TOKEN.finditer(self.window, self.pos):
                kind = token[0]
                if kind == '"':
                    break
                if kind in "[{":
                    depth += 1
                elif kind in "]}":
                    depth -= 1
                elif depth == 1:
                    key = kind[1:-1]
                    if scalar := SCALAR.match(self.window, token.end()):
                        found[key] = int(scalar[1]) if scalar[1] else scalar[2]
                if depth <= 0:
                    return found, token.end()
            if not self._grow():
                raise self.fault("ends too early")

    def _grow(self, met: json.JSONDecodeError | None = None) -> bool:
        """More of the file into the window, and what is behind out of it; False at the end. `met` is what may be wrong
        with an entry that seems too long."""
        ahead = len(self.window) - self.pos
        limit = MAX_TEXT if self.window[self.pos : self.pos + 1] == '"' else MAX_ELEMENT
        if ahead > limit:
            hint = f"; {met.msg} character {self.before + met.pos}" if met else ""
            raise self.fault(f"an entry of more than {limit} characters{hint}")
        if self.at >= len(self.data):
            return False
        chunk = self.data[self.at : self.at + max(WINDOW, ahead)]
        self.at += len(chunk)
        try:
            decoded = self.decoder.decode(chunk, self.at >= len(self.data))
        except UnicodeDecodeError as error:
            raise self.fault(f"is not UTF-8: {error.reason}") from None
        self.before += self.pos
        self.window, self.pos = self.window[self.pos :] + decoded, 0
        return True

    def fault(self, reason: str) -> FaultError:
        return FaultError("unreadable-json", f"{reason} (at character {self.before + self.pos})")


def _refuse(constant: str) -> Any:
    raise _NotFiniteError(constant)
