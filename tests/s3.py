"""A server on loopback that speaks S3, behind a gate that can refuse, cut and hang as networks and servers do."""

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


@dataclass
class Gate:
    """The server as WSGI knows it; notes each request as it comes."""

    app: Any
    log: list[tuple[str, str]] = field(default_factory=list)
    cut: int | None = None  # a shard's download ends after so many bytes
    slow: float = 0.0  # seconds before an answer
    failing: str | None = None  # the end of the names that it fails to answer for; "" is all

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.log.append((method, path))
        time.sleep(self.slow)
        if self.failing is not None and path.endswith(self.failing):
            start("503 Service Unavailable", [])
            return []
        if "HTTP_AUTHORIZATION" not in environ:
            start("403 Forbidden", [("Content-Type", "application/xml"), ("Content-Length", str(len(DENIED)))])
            return [DENIED]
        body = b"".join(self.app(environ, start))
        return [body[: self.cut] if method == "GET" and path.endswith(".arrow") else body]


@dataclass
class Bucket:
    """One bucket of the server, empty at first."""

    name: str
    host: str  # and port
    gate: Gate
    client: Any

    @property
    def uri(self) -> str:
        return f"s3://{self.name}"

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def put_empty(self, keys: Iterable[str]) -> None:
        """Without a request for each."""
        from moto.s3.models import s3_backends

        for key in keys:
            s3_backends["123456789012"]["aws"].put_object(self.name, key, b"")

    def upload(self, folder: Path, prefix: str) -> str:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            self.put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes())
        return f"{self.uri}/{prefix}"

    def names(self) -> list[str]:
        return sorted(o["Key"] for o in self.client.list_objects_v2(Bucket=self.name).get("Contents", []))

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def drop(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)

    def asked(self, method: str, suffix: str) -> list[str]:
        """The names of what was asked for by this method, in order."""
        return [p.rpartition("/")[2] for m, p in self.gate.log if m == method and p.endswith(suffix)]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[tuple[str, Gate]]:
    import logging

    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    gate = Gate(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, gate, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}", gate
    server.shutdown()
    thread.join()


@pytest.fixture
def bucket(s3_server: tuple[str, Gate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A fresh bucket, with the environment that leads to it, and a cache of its own."""
    import boto3

    host, gate = s3_server
    gate.cut, gate.slow, gate.failing = None, 0.0, None
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_CONFIG_FILE": "/dev/null",
        "MASKLINE_CACHE": str(tmp_path / "cache"),
        **KEYS,
    }
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN", "AWS_PROFILE", "MASKLINE_CACHE_GB"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=f"http://{host}", region_name="us-east-1")
    name = f"b-{time.time_ns()}"
    client.create_bucket(Bucket=name)
    gate.log.clear()
    return Bucket(name=name, host=host, gate=gate, client=client)
