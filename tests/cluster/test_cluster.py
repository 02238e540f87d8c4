"""Ray: the one that is started here, and the one that RAY_ADDRESS names."""

import signal
import socket
import time

import psutil
import pytest
import torch

from pipelines.cluster import cluster
from pipelines.cluster.room import largest_node, nodes, use_gpu
from pipelines.errors import ConfigError, RunError


def test_without_a_gpu_none_is_used_and_none_can_be_demanded(ray):
    if torch.cuda.is_available():
        pytest.skip("there is one here")
    assert not use_gpu("auto", 1)
    assert not use_gpu("cpu", 1)
    with pytest.raises(ConfigError, match=r"train\.device is cuda, and the cluster has 0 GPUs for 2 workers"):
        use_gpu("cuda", 2)


def test_the_nodes_are_what_ray_was_started_with(ray):
    assert [node.cpus for node in nodes()] == [2]
    assert largest_node() == 2


def test_ray_listens_on_loopback_only(ray):
    """What it runs is code: nobody else on the network may ask it to."""
    process = psutil.Process()
    mine = [process, *process.children(recursive=True)]
    listening = [c.laddr.ip for p in mine for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert listening
    assert all(ip.removeprefix("::ffff:") in ("127.0.0.1", "::1") for ip in listening), listening


def test_ray_leaves_the_end_of_a_stage_to_the_stage(ray):
    """Its own handler would leave with 15, and a trace of its stack."""
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_worker_imports_the_project_from_wherever_it_is(ray):
    import ray as library

    def where() -> str | None:
        import pipelines

        return pipelines.__file__

    found = library.get(library.remote(where).remote())
    assert found == where()


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_cluster_that_is_not_there_is_said_at_once(address, monkeypatch):
    with socket.socket() as taken:  # bound and not listening: nothing answers, and nobody else takes it
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", address.format(taken.getsockname()[1]))
        start = time.monotonic()
        with pytest.raises(RunError, match=r"nothing answers there: .*\ndo: start that cluster, or unset RAY_ADDRESS"):
            cluster(cpus=1).__enter__()
    assert time.monotonic() - start < 20


def test_an_address_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    with pytest.raises(RunError, match=r"Ray did not start: (.|\n)*RAY_ADDRESS"):
        cluster(cpus=1).__enter__()
