"""Ray, started for one stage and ended with it; or the cluster that RAY_ADDRESS names."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.environment import DEFAULTS
from pipelines.errors import ConfigError, RunError

CODE = str(Path(__file__).resolve().parents[1])  # what workers import the project from
OBJECT_STORE = 100 * 1024**2  # bytes: nothing large travels through it, shards are mapped from disk


@contextmanager
def cluster(*, cpus: int) -> Iterator[None]:
    """A Ray with `cpus` CPU tokens (tokens, not cores: a worker group never waits for one that is not there)."""
    if address := os.environ.get("RAY_ADDRESS"):
        _check_reachable(address)
    import ray

    own = {} if address else {"num_cpus": cpus, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
    python_path = os.pathsep.join(filter(None, [CODE, os.environ.get("PYTHONPATH")]))
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
    try:
        yield
    finally:
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


def use_gpu(device: str, workers: int) -> bool:
    """What `train.device` means on this cluster for so many processes; asked of Ray, so that the driver need not import
    torch. A worker has a GPU of its own: Ray would wait for ever for one that is not there."""
    import ray

    gpus = int(ray.cluster_resources().get("GPU", 0))
    if device == "cuda" and gpus < workers:
        raise ConfigError(
            f"train.device is cuda, and the cluster has {gpus} GPUs for {workers} workers",
            do=f"set train.workers to {gpus}" if gpus else "set train.device to auto or cpu",
        )
    if device == "auto" and 0 < gpus < workers:
        print(
            f"{gpus} GPUs for {workers} workers: training on the CPU; train.workers: {gpus} uses them", file=sys.stderr
        )
    return device != "cpu" and gpus >= workers


def check_cpus(workers: int) -> None:
    """Refuse what the cluster cannot hold."""
    import ray

    if (cpus := int(ray.cluster_resources().get("CPU", 0))) < workers:
        raise ConfigError(f"the cluster has {cpus} CPUs for {workers} workers", do=f"set train.workers to {cpus}")


def largest_node() -> int:
    """The CPUs of the largest node: more than these no single process can be given."""
    import ray

    return max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
