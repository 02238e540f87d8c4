"""A cluster of two nodes on loopback: the stages run on it, and nodes are taken away in the middle."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.cluster.conftest import Project

pytestmark = pytest.mark.slow
NODE = {"num_cpus": 1, "object_store_memory": 80 * 1024**2}


def weights(project: Project) -> dict[str, np.ndarray]:
    return load_file(project.root / "results" / "train" / "model.safetensors")


def assert_same(one: Project, other: Project) -> None:
    for name, value in weights(one).items():
        np.testing.assert_allclose(weights(other)[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.timeout(900)
def test_the_line_runs_on_two_nodes(project, cluster_of):
    """No node has room for both workers, so they are on two."""
    cluster = cluster_of(1, 1)
    line = project("line", {"tune.trials": 2, "tune.epochs": 1, "tune.concurrent": 2, "train.epochs": 2})
    alone = project("alone", {"train.epochs": 2})
    line.run("tune", cluster.address)
    (alone.root / "results" / "tune" / "best.yaml").write_text((line.root / "results/tune/best.yaml").read_text())
    said = line.run("train", cluster.address)
    line.run("evaluate", cluster.address)
    assert "the same global batches" not in said, "nothing to remark"
    alone.run("train")
    assert line.described()["metrics"] == alone.described()["metrics"]
    assert_same(line, alone)
    assert (line.root / "results" / "evaluate" / "metrics.json").is_file()


@pytest.mark.timeout(900)
def test_a_node_that_dies_costs_time_and_nothing_else(project, cluster_of):
    """Its raylet is killed in an epoch. The one worker that is left does the work of both."""
    cluster = cluster_of(1, 1)
    changes = {"train.epochs": 40, "train.learning_rate": 0.001}
    plain, disturbed = project("plain", changes), project("disturbed", changes)
    plain.run("train")
    process = disturbed.start("train", cluster.address)
    disturbed.until(process, epochs=2)
    next(iter(cluster.worker_nodes)).kill_raylet()
    _, said = process.communicate(timeout=500)
    assert process.returncode == 0, said
    assert said.count("train: lost ") == 2, "a worker, and its node"
    assert "2 -> 1 workers, the same global batches" in said
    assert "raylet" not in said, "Ray's own pages of log"
    assert len(disturbed.history()) == len(plain.history()) == 41
    assert_same(disturbed, plain)


@pytest.mark.timeout(900)
def test_a_node_that_comes_is_used(project, cluster_of):
    cluster = cluster_of(1)
    growing = project("growing", {"train.epochs": 800})
    process = growing.start("train", cluster.address)
    growing.until(process, epochs=1)
    cluster.add_node(**NODE)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert "room for 1 of 2 workers: these begin, with the same global batches" in said
    assert "1 -> 2 workers, the same global batches" in said
    assert "lost" not in said
    assert len(growing.history()) == 801


@pytest.mark.timeout(900)
@pytest.mark.parametrize("lost", ["the head of the Ray cluster", "this machine's Ray"])
def test_without_the_head_it_ends_with_a_word_and_goes_on_later(lost, project, cluster_of):
    cluster = cluster_of(2)
    run = project("run", {"train.epochs": 400})
    process = run.start("train", cluster.address)
    run.until(process, epochs=2)
    if lost == "this machine's Ray":
        cluster.head_node.kill_raylet()
    else:
        cluster.head_node.kill_gcs_server()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert f"train: {lost}, 127.0.0.1:" in said
    assert "does not answer any more\ndo: start it again" in said
    assert "Traceback" not in said
    assert not (run.root / "results" / "train").exists()
    again = run.start("train")
    run.until(again, epochs=len(run.epochs()) + 2)
    assert run.epochs() == list(range(len(run.epochs()))), "none is done twice"
    assert again.wait(timeout=200) == 0
    assert len(run.history()) == 401
