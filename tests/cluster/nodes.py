"""A Ray cluster of several nodes on loopback, and drivers that work on it in processes of their own."""

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

from ray.cluster_utils import Cluster

CONTEXT = multiprocessing.get_context("spawn")
NODE = {"include_dashboard": False, "object_store_memory": 80 * 1024**2}


def start(*cpus: int, **head: Any) -> Cluster:
    """A head with cpus[0] CPUs, and a node more for each of the others."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus[0], **NODE, **head})
    for count in cpus[1:]:
        cluster.add_node(num_cpus=count, object_store_memory=NODE["object_store_memory"])
    return cluster


def drive(address: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """function(*arguments) in a process of its own, whose Ray is that cluster; what it raises is raised here."""
    parent, child = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_driver, args=(address, child, function, arguments))
    process.start()
    child.close()
    try:
        result = parent.recv()
    finally:
        process.join()
    if isinstance(result, BaseException):
        raise result
    return result


def _driver(address: str, pipe: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ["RAY_ADDRESS"] = address
    from pipelines import environment
    from pipelines.cluster import cluster

    environment.prepare()
    try:
        with cluster(cpus=1):
            pipe.send(function(*arguments))
    except Exception as error:
        pipe.send(error)
