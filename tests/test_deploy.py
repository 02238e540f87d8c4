"""What deploy/ says is true of this repository: versions, paths, flags, and doors that stay shut."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
PINNED = dict(re.findall(r"^([a-z0-9._-]+)==([^ ;\\]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))


def read(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def job() -> dict[str, Any]:
    return next(part for part in read("kuberay.yaml") if part["kind"] == "RayJob")["spec"]


def test_every_node_has_the_ray_of_the_lock():
    assert job()["rayClusterSpec"]["rayVersion"] == PINNED["ray"]
    said = re.findall(r"ray(?:\[.*?\])?==([\d.]+)|rayproject/ray:([\d.]+)", "".join(map(Path.read_text, files())))
    assert {version for pair in said for version in pair if version} <= {PINNED["ray"]}


def files() -> list[Path]:
    return sorted(path for path in DEPLOY.iterdir() if path.is_file())


def test_what_jobs_need_fits_what_is_locked():
    """Two files of pins for one environment: where both name a package, they agree."""
    more = dict(re.findall(r"^([a-z0-9._-]+)==([^ ;\\]+)", (DEPLOY / "requirements.lock").read_text(), re.MULTILINE))
    assert more["ray"] == PINNED["ray"]
    assert {name: version for name, version in more.items() if PINNED.get(name, version) != version} == {}
    assert {"aiohttp-cors", "virtualenv"} <= set(more), "of ray[default]"


def test_ray_s_launcher_takes_the_cluster():
    validate_config(prepare_config(read("cluster.yaml")[0]))


def test_the_script_is_one_that_bash_reads():
    subprocess.run(["bash", "-n", str(DEPLOY / "slurm.sh")], check=True)


@pytest.mark.parametrize("name", ["cluster.yaml", "slurm.sh", "kuberay.yaml", "Dockerfile"])
def test_the_paths_are_there(name):
    text = (DEPLOY / name).read_text()
    named = set(re.findall(r"\bdeploy/[\w.]+|\brequirements\.lock|\bparams\.yaml", text))
    assert named, "of this repository"
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_flags_are_ray_s_own():
    """Of each `ray ...` command in the files, its --help knows the flags."""
    text = re.sub(r"\\\n|\n {2,}(?=--)", " ", "".join(map(Path.read_text, files())))
    commands = re.findall(r"\bray (start|symmetric-run)\b([^\n]*?)(?: -- |\n)", text)
    assert {name for name, _ in commands} == {"start", "symmetric-run"}
    known = subprocess.run([*RAY, "start", "--help"], capture_output=True, text=True, check=True).stdout
    known += "--min-nodes"  # symmetric-run's own; it hands the others to `ray start`
    flags = {flag for _, rest in commands for flag in re.findall(r"(--[a-z-]+)", rest)}
    assert [flag for flag in sorted(flags) if flag not in known] == []


def test_no_door_is_open_to_the_world():
    """Ray runs what it is sent: a token everywhere, and no address that others reach."""
    text = "".join(path.read_text() for path in files())
    assert not re.search(r"0\.0\.0\.0|LoadBalancer|NodePort|hostNetwork|hostPort|RAY_AUTH_MODE=disabled", text)
    assert job()["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert job()["rayClusterSpec"]["headGroupSpec"]["serviceType"] == "ClusterIP"
    starts = [line for step in ("head", "worker") for line in read("cluster.yaml")[0][f"{step}_start_ray_commands"]]
    starts = [line for line in starts if "ray start" in line]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "RAY_AUTH_MODE=token" in (DEPLOY / "slurm.sh").read_text()


def test_every_pod_sees_the_project_at_one_path():
    spec = job()["rayClusterSpec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    pods = [group["template"]["spec"] for group in groups]
    assert {c["volumeMounts"][0]["mountPath"] for pod in pods for c in pod["containers"]} == {"/maskline"}
    claims = {pod["volumes"][0]["persistentVolumeClaim"]["claimName"] for pod in pods}
    volume = next(part for part in read("kuberay.yaml") if part["kind"] == "PersistentVolumeClaim")
    assert claims == {volume["metadata"]["name"]}
    assert volume["spec"]["accessModes"] == ["ReadWriteMany"]
    assert "cd /maskline" in job()["entrypoint"]
