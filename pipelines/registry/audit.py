"""Every decision about a model, kept where nothing is overwritten: the parameters of an MLflow run of its own.

MLflow writes a parameter once and refuses to change it. So `decision.0007` is a register that one process at a time can
fill, whatever reaches the server from wherever: who finds it filled by another has lost, reads what was decided, and
decides again. The log is what counts; the alias `champion` follows it (`succession`).
"""

import datetime
import getpass
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipelines.errors import RunError
from pipelines.tracking import PARAM_LENGTH, Server

KEY = re.compile(r"decision\.(\d{4,})(\.done)?")
LONGEST = 1000  # of a reason; MLflow bounds the whole entry


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One decision."""

    what: str  # promoted, refused, rolled back; or found: an alias that was moved by something else
    version: int | None  # that was decided on
    before: int | None  # the champion
    after: int | None
    rule: str
    reason: str
    who: str
    when: str
    numbers: Mapping[str, Any] = field(default_factory=dict)  # metric, challenger, champion, difference, checks
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the rule
    dataset: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""  # that trained the version
    commit: str = ""
    number: int = 0  # its place in the log, from 1
    done: bool = False  # the alias has followed

    def repeats(self, other: "Entry") -> bool:
        """The same decision, taken again."""
        return self._content() == other._content()

    def _content(self) -> str:
        return replace(self, number=0, done=False, who="", when="").to_text()

    def to_text(self) -> str:
        """JSON that MLflow takes whole: what is too long is left out, longest first, and says so."""
        values = {k: v for k, v in asdict(self).items() if k not in ("number", "done")}
        values["reason"] = _cut(values["reason"])
        if "checks" in values["numbers"]:
            checks = [{**check, "said": _cut(check["said"], 200)} for check in values["numbers"]["checks"]]
            values["numbers"] = {**values["numbers"], "checks": checks}
        for shorter in (_without_what_holds, _without_floors, _without_checks):
            text = json.dumps(values, sort_keys=True)
            if len(text) <= PARAM_LENGTH:
                return text
            values = shorter(values)
        return json.dumps(values, sort_keys=True)


class Audit:
    """The log of one model."""

    def __init__(self, server: Server, run_id: str):
        self.server, self.run = server, run_id

    def entries(self) -> list[Entry]:
        """In order."""
        params = self.server.get_run(self.run).data.params
        named = {key: found for key in params if (found := KEY.fullmatch(key))}
        done = {int(found[1]) for found in named.values() if found[2]}
        texts = {int(found[1]): params[key] for key, found in named.items() if not found[2]}
        try:
            return [
                Entry(**{**json.loads(text), "number": number, "done": number in done})
                for number, text in sorted(texts.items())
            ]
        except (ValueError, TypeError) as error:
            raise RunError(
                f"the audit of this model, run {self.run}, holds what this build does not read: {error}\n"
                "do: register with the build that wrote it, or choose another register.name"
            ) from None

    def claim(self, entry: Entry, number: int) -> bool:
        """Write the decision at its place in the log, unless another one stands there."""
        text = entry.to_text()
        try:
            self.server.log_param(self.run, _key(number), text)
        except RunError:
            held = self.server.get_run(self.run).data.params.get(_key(number))
            if held is None:
                raise
            return bool(held == text)
        return True

    def finish(self, entry: Entry) -> None:
        """The alias has followed. However often it is said."""
        self.server.log_param(self.run, f"{_key(entry.number)}.done", f"champion: {said(entry.after)}")


def said(version: int | None) -> str:
    return "none" if version is None else f"version {version}"


def who() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):  # a user without a name, in a container
        return socket.gethostname()


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _key(number: int) -> str:
    return f"decision.{number:04d}"


def _cut(text: str, length: int = LONGEST) -> str:
    return text if len(text) <= length else f"{text[: length - 4]} ..."


def _without_what_holds(values: dict[str, Any]) -> dict[str, Any]:
    failed = [check for check in values["numbers"].get("checks", []) if not check["holds"]]
    return {**values, "numbers": {**values["numbers"], "checks": failed}}


def _without_floors(values: dict[str, Any]) -> dict[str, Any]:
    settings = {n: f"{len(v)} of them" if isinstance(v, Mapping) and v else v for n, v in values["settings"].items()}
    return {**values, "settings": settings}


def _without_checks(values: dict[str, Any]) -> dict[str, Any]:
    return {**values, "numbers": {k: v for k, v in values["numbers"].items() if k != "checks"}}
