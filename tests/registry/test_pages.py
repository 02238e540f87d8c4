"""MLflow's own pages: what is in production, since when, trained on what, how good, and why."""

from pathlib import Path

import pytest

from pipelines import environment
from tests.registry.line import begun

environment.prepare()


def test_what_mlflow_s_pages_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    line = begun(tmp_path, "pages")
    first = line.add(1, 0.5)
    line.add(2, 0.4)
    server = line.server
    model = server.get_registered_model(line.model)
    for said in ("**Version 1 is in production** since ", "- why: promoted: ", "- trained on: tiny ", "on 8 images"):
        assert said in model.description
    assert "refused" in model.description.split("## Last decisions")[1]
    assert {k: v for k, v in model.tags.items() if k != "maskline.audit"} == {
        "maskline.champion": "version 1", "maskline.decisions": "2",
    }  # fmt: skip
    kept = server.get_run(first["audit"])
    assert kept.info.status == "FINISHED"
    assert "Version 1 is in production" in kept.data.tags["mlflow.note.content"]
    assert [a.path for a in server.list_artifacts(first["audit"])] == ["audit.html"]
    run = server.get_run(first["run"])
    inputs = {(i.dataset.name, i.tags[0].value): i.dataset.digest for i in run.inputs.dataset_inputs}
    digest = first["dataset"]["hash"][:36]
    assert inputs == {("tiny", "training"): digest, ("tiny, test split", "evaluation"): digest}
    (folder,) = server.list_artifacts(first["run"], "evaluations")
    names = {Path(a.path).name for a in server.list_artifacts(first["run"], folder.path)}
    assert names == {"metrics.json", "images.npz", "report.html", "predictions.jpg"}
