"""Ray, started for one stage and ended with it; or the cluster that RAY_ADDRESS names."""

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Event

from pipelines.cluster.head import watched
from pipelines.environment import DEFAULTS
from pipelines.errors import RunError

CODE = Path(__file__).resolve().parents[2]  # what workers import the project from
OBJECT_STORE = 100 * 1024**2  # bytes: nothing large travels through it, shards are mapped from disk


@contextmanager
def cluster(*, cpus: int) -> Iterator[None]:
    """A Ray with `cpus` CPU tokens (tokens, not cores: a worker group never waits for one that is not there)."""
    if address := os.environ.get("RAY_ADDRESS"):
        _check_reachable(address)
    import ray

    own = {} if address else {"num_cpus": cpus, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
    python_path = os.pathsep.join(filter(None, [str(CODE), os.environ.get("PYTHONPATH")]))
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            # A cluster that was started elsewhere knows nothing of our settings.
            runtime_env={"env_vars": {**{k: os.environ[k] for k in DEFAULTS}, "PYTHONPATH": python_path}},
            **own,
        )
    except Exception as error:  # Ray raises bare Exceptions here
        raise RunError(
            f"Ray did not start: {error}\ndo: see that memory and disk have room, or name a cluster in RAY_ADDRESS"
        ) from error
    signal.signal(signal.SIGTERM, terminated)  # Ray's own would leave with 15, and a trace of its stack
    with watched() if address else nullcontext(Event()) as head_is_gone:
        try:
            yield
        finally:
            if not head_is_gone.is_set():  # it would be waited for
                ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself waits minutes for a cluster that is not there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise RunError(
                f"RAY_ADDRESS is {address} and nothing answers there: {error}\n"
                "do: start that cluster, or unset RAY_ADDRESS to work on this machine"
            ) from None


def is_ours() -> bool:
    """Whether Ray is of this process and on this machine alone: nothing has to be shared, and no node comes or goes."""
    return not os.environ.get("RAY_ADDRESS")
