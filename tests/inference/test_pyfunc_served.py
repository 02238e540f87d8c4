"""The registered model behind MLflow's own server, as `mlflow models serve` starts it."""

import base64
import io
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from pipelines.inference.options import Inference
from pipelines.registry import publish
from tests.packages import encode, lamp, lights


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_mlflow_s_server_answers(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    publish.write(
        tmp_path / "model",
        source=lights(tmp_path / "train"),
        card="# card",
        metrics=tmp_path / "metrics.json",
        asked=Inference(),
        model_id="m-1",
        run_id="r",
        about={},
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(tmp_path / "model")]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(command, env={**os.environ, "PATH": path}, cwd=tmp_path, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        while not _answers(url):
            assert process.poll() is None, "the server ended"
            time.sleep(0.2)
        scene = lamp(48, 64, (10, 20, 30, 44))
        rows = [[base64.b64encode(encode(scene)).decode()]]
        asked = {"dataframe_split": {"columns": ["image"], "data": rows}}
        answer = requests.post(f"{url}/invocations", json=asked, timeout=300)
        assert answer.status_code == 200, answer.text
        [row] = answer.json()["predictions"]
        mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(row["semantic"]))))
        assert np.array_equal(mask, scene[..., 0] > 128)
        bad = {"dataframe_split": {"columns": ["image"], "data": [[base64.b64encode(b"hello").decode()]]}}
        refused = requests.post(f"{url}/invocations", json=bad, timeout=300)
        assert refused.status_code == 400
        assert "row 0: not an allowed image" in refused.text
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/ping", timeout=5).status_code == 200
    except requests.RequestException:
        return False
