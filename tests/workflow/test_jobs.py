"""`ray job submit -- dvc repro train`, to a cluster that takes jobs."""

import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not find_spec("aiohttp_cors"),
        reason="Ray's server of jobs is not installed: uv pip install --require-hashes -r deploy/requirements.lock",
    ),
]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_a_job_is_a_stage_run_on_the_cluster(clone):
    from ray.cluster_utils import Cluster

    project = clone({"task": "semantic", "model.name": "unet", "tune.trials": 0})
    port = free_port()
    node = {"num_cpus": 2, "object_store_memory": 80 * 1024**2, "include_dashboard": True, "dashboard_port": port}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "dashboard_host": "127.0.0.1"})
    try:
        ray = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", f"http://127.0.0.1:{port}"]
        command = f"cd {project.root} && dvc repro train && echo at $RAY_ADDRESS"
        done = subprocess.run(
            [*ray, "--", "bash", "-c", command], cwd=project.root, env=project.env, capture_output=True, text=True
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert f"at {cluster.address}" in said, "Ray tells the job which cluster it is on"
        assert (project.root / "results" / "train" / "model.safetensors").is_file()
        listening = Path(f"/proc/{os.getpid()}/net/tcp").read_text()
        assert f"00000000:{port:04X}" not in listening, "and it takes jobs from this machine alone"
    finally:
        cluster.shutdown()
