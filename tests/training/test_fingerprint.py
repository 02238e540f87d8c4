"""What a run is known by: all that its weights follow from, and nothing else."""

import shutil
from pathlib import Path

import grimp

from pipelines import config
from pipelines.training import fingerprint as module
from pipelines.training.balance import Balance
from pipelines.training.fingerprint import fingerprint


def test_the_fingerprint_is_of_all_that_training_follows_from(small):
    raw = small()
    same = config.merge(raw, {"evaluate.cases": 9, "register.name": "other", "tune.trials": 0, "ingest.workers": 7})
    assert fingerprint(raw, "d") == fingerprint(same, "d")
    changes = [{"seed": 9}, {"model.channels": 24}, {"loss.terms.center": 2.0}, {"train.augment.flip": 0.1}]
    others = [fingerprint(config.merge(raw, change), "d") for change in changes]
    others += [fingerprint(small("semantic"), "d"), fingerprint(raw, "e")]
    assert len({fingerprint(raw, "d"), *others}) == 1 + len(others)


def test_the_fingerprint_is_of_the_class_weights_and_repeat_factors_that_are_used(small):
    def of(weights: list[float], factors: list[float]) -> str:
        return fingerprint(small(), "d", Balance(class_weights={"median_frequency": weights}, repeat_factors=factors))

    assert of([1.0, 2.0], [1.0, 1.5]) == of([1.0, 2.0], [1.0, 1.5])
    others = {of([1.0, 2.0], [1.0, 1.5]), of([1.0, 2.5], [1.0, 1.5]), of([1.0, 2.0], [1.0, 3.0])}
    assert len({fingerprint(small(), "d"), *others}) == 4


def test_the_fingerprint_follows_the_code(small, tmp_path, monkeypatch):
    code = tmp_path / "pipelines"
    shutil.copytree(module.CODE, code, ignore=shutil.ignore_patterns("__pycache__"))
    before = fingerprint(small(), "d")
    monkeypatch.setattr(module, "CODE", code)
    assert fingerprint(small(), "d") == before, "where the code lies plays no part"
    (code / "registry" / "card.py").write_text("")
    assert fingerprint(small(), "d") == before
    with (code / "losses" / "dice.py").open("a") as file:
        file.write("# another\n")
    assert fingerprint(small(), "d") != before


def test_all_code_that_training_runs_is_in_the_fingerprint():
    """Except what only reads parameters, writes files and tells people: none of it can change a weight."""
    around = {"config", "errors", "files", "progress", "environment"}
    graph = grimp.build_graph("pipelines", cache_dir=None)
    used = {name.split(".")[1] for name in graph.find_upstream_modules("pipelines.training.loop") if "." in name}
    assert used - around == {Path(room).stem for room in module.ROOMS}
