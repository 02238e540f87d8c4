"""A bucket, Amazon's or that of any server that speaks S3, as a pyarrow file system, and its errors in words.

Keys, endpoint and region come from the environment, under the names that AWS's own tools use, so that no secret stands
in a file; endpoint and region may also stand in the URI, as s3://bucket/path?endpoint_override=host:9000&scheme=http.
"""

import os
import re
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from pipelines.errors import DataError

FORM = "write it as s3://bucket/path"
OPTIONS = ("endpoint_override", "region", "scheme")
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
# The SDK's own patience with a server that does not answer is minutes for each request.
CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 10.0
ATTEMPTS = 3

KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to keys that may use it"
ENDPOINT = "see that AWS_ENDPOINT_URL names a server that answers; where it is not set, Amazon is asked"
MEANINGS = {  # code of the error -> what it means, what to do
    "NO_SUCH_BUCKET": ("there is no such bucket", "name one that is there, and its server in AWS_ENDPOINT_URL"),
    "RESOURCE_NOT_FOUND": ("no such bucket is known there", ENDPOINT),
    "ACCESS_DENIED": ("access is denied", KEYS),
    "INVALID_ACCESS_KEY_ID": ("the access key is not known there", KEYS),
    "SIGNATURE_DOES_NOT_MATCH": ("the secret key does not fit the access key", KEYS),
    "NETWORK_CONNECTION": ("nothing answers", ENDPOINT),
}


def filesystem(uri: str) -> tuple[Any, str]:
    """A file system, and the path of `uri` in it. A connection does not survive a fork, hence one per process."""
    environment = {name: os.environ.get(name, "") for name in (*ENDPOINTS, *REGIONS, *SECRETS)}
    return _connected(uri, os.getpid(), tuple(environment.items()))


def parse(uri: str) -> tuple[str, dict[str, str]]:
    """bucket/path, and the options."""
    path, _, query = uri.removeprefix("s3://").partition("?")
    path, options = path.strip("/"), dict(parse_qsl(query))
    parts = path.split("/")
    if "@" in parts[0]:
        raise DataError(
            f"'s3://...@{path.rpartition('@')[2]}' holds keys, which would be written into the dataset and its records",
            do="leave them out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead",
        )
    if not uri.startswith("s3://") or not path.isprintable() or {"", ".", ".."} & set(parts):
        raise DataError(f"'{uri}' does not name a bucket", do=FORM)
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise DataError(f"'{uri}' has the unknown option {', '.join(unknown)}", do=f"allowed are {', '.join(OPTIONS)}")
    return path, options


def code_of(error: OSError) -> str:
    match = re.search(r"AWS Error (\w+)", str(error))
    return match[1] if match else ""


def why(error: OSError) -> tuple[str, str]:
    """What an error means, and what to do."""
    if isinstance(error, FileNotFoundError):
        return "there is nothing of that name", "see that the name is right"
    said = re.sub(r" \(Request ID: .*?\)", "", str(error))[:300]
    return MEANINGS.get(code_of(error), (said, ENDPOINT))


def refusal(what: str, error: OSError, do: str = "") -> DataError:
    reason, advice = why(error)
    return DataError(f"{what}: {reason}", do=do or advice)


@lru_cache(maxsize=8)
def _connected(uri: str, process: int, environment: tuple[tuple[str, str], ...]) -> tuple[Any, str]:
    from pyarrow import fs

    path, options = parse(uri)
    settings = dict(environment)
    endpoint = options.get("endpoint_override") or next(filter(None, map(settings.get, ENDPOINTS)), "")
    region = options.get("region") or next(filter(None, map(settings.get, REGIONS)), "")
    scheme, _, host = endpoint.rpartition("://")
    try:
        if not endpoint and not region:
            region = fs.resolve_s3_region(path.partition("/")[0])
        system = fs.S3FileSystem(
            endpoint_override=host.rstrip("/") or None,
            scheme=options.get("scheme") or scheme or "https",
            region=region or "us-east-1",
            connect_timeout=CONNECT_SECONDS,
            request_timeout=ANSWER_SECONDS,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
            background_writes=False,  # they would hold a whole shard in memory
            allow_delayed_open=True,  # a small file in one request
        )
    except OSError as error:
        raise refusal(f"{uri} cannot be opened", error) from None
    except ValueError as error:
        raise DataError(f"{uri} cannot be opened: {error}", do=FORM) from None
    return system, path
