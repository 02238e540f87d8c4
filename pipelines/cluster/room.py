"""What a cluster can hold: its nodes, and the CPUs and GPUs on them."""

import sys
from dataclasses import dataclass
from typing import Any

from pipelines.cluster import is_ours
from pipelines.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster that is alive."""

    id: str
    name: str
    cpus: int
    gpus: int

    def __str__(self) -> str:
        return f"{self.name} ({self.id[:8]})"


def nodes() -> list[Node]:
    """Those that can work: one without CPUs, as a head often is, only directs."""
    import ray

    found = [
        Node(node["NodeID"], node.get("NodeName") or node["NodeManagerAddress"], *_sizes(node["Resources"]))
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted((node for node in found if node.cpus), key=lambda node: node.id)


def _sizes(resources: dict[str, Any]) -> tuple[int, int]:
    return int(resources.get("CPU", 0)), int(resources.get("GPU", 0))


def workers_held(found: list[Node], *, gpu: bool) -> int:
    """How many workers these nodes hold, each with a CPU, and a GPU where `gpu`."""
    return sum(min(node.cpus, node.gpus) if gpu else node.cpus for node in found)


def answering(found: list[Node], *, seconds: float) -> list[Node]:
    """Those that do what they are asked: one that has just died is still listed, and workers would wait for it."""
    import ray

    if is_ours():
        return found
    asked = {on(node, lambda: None): node for node in found}
    done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=seconds) if asked else ([], [])
    answered = {asked[ref].id for ref in done if _came(ref)}
    return [node for node in found if node.id in answered]


def on(node: Node, function: Any, *arguments: Any) -> Any:
    """A reference to function(*arguments), called on this node and no other."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    placed = NodeAffinitySchedulingStrategy(node_id=node.id, soft=False)
    return ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=placed)(function).remote(*arguments)


def _came(reference: Any) -> bool:
    import ray
    from ray.exceptions import RayError

    try:
        ray.get(reference)
    except RayError:
        return False
    return True


def largest_node() -> int:
    """The CPUs of the largest node: more than these no single process can be given."""
    return max((node.cpus for node in nodes()), default=0)


def use_gpu(device: str, workers: int, least: int | None = None) -> bool:
    """What `train.device` means on this cluster for so many processes, or `least` of them if it has no more; asked of
    Ray, so that the driver need not import torch. Each has a GPU of its own."""
    least = workers if least is None else least
    gpus = workers_held(nodes(), gpu=True)
    if device == "cuda" and gpus < least:
        raise ConfigError(
            f"train.device is cuda, and the cluster has {gpus} GPUs for {least} workers",
            do=f"set train.workers to {gpus}" if gpus else "set train.device to auto or cpu",
        )
    if device == "auto" and 0 < gpus < least:
        print(f"{gpus} GPUs for {least} workers: training on the CPU; train.workers: {gpus} uses them", file=sys.stderr)
    return device != "cpu" and gpus >= least
