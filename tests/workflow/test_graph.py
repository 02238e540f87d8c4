"""dvc.yaml, params.yaml and the code say the same."""

import ast
import importlib.util
from pathlib import Path

import pytest
import yaml

from pipelines.config import Params

spec = importlib.util.spec_from_file_location("imports", Path(__file__).with_name("imports.py"))
assert spec is not None
imports = importlib.util.module_from_spec(spec)
spec.loader.exec_module(imports)

STAGES = ("ingest", "validate", "tune", "train", "evaluate", "register")
BESIDE = ("export", "predict", "rollback", "serve")  # called by people, beside the line
SHARED = {"task", "seed", "dataset", "model", "loss"}
COMMANDS = {"video"}  # sections that no stage reads
GRAPH = yaml.safe_load((imports.ROOT / "dvc.yaml").read_text())["stages"]
SECTIONS = {name: field.alias or name for name, field in Params.model_fields.items()}


@pytest.fixture(scope="module")
def found():
    return imports.graph()


def sections_read(module: str) -> set[str]:
    """The sections that a module takes from a `params`, whoever holds it: params.train, job.params.train."""
    read = set()
    for file in imports.files_of(module):
        if file.suffix == ".py":
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Attribute) and node.attr in SECTIONS:
                    holder = node.value
                    name = getattr(holder, "id", getattr(holder, "attr", None))
                    if name == "params":
                        read.add(SECTIONS[node.attr])
    return read


def test_one_name_everywhere() -> None:
    assert tuple(GRAPH) == STAGES
    assert {p.stem for p in (imports.ROOT / "stages").glob("[a-z]*.py")} == {*STAGES, *BESIDE}
    assert set(SECTIONS.values()) == SHARED | {*STAGES, *BESIDE} - {"rollback"} | COMMANDS
    for stage, row in GRAPH.items():
        assert row["cmd"] == f"python -m stages.{stage}"
        outs = [next(iter(out)) if isinstance(out, dict) else out for out in row["outs"] + row.get("metrics", [])]
        assert all(out.startswith(f"results/{stage}/") for out in outs)


@pytest.mark.parametrize("stage", STAGES)
def test_code_deps_are_the_imports(found, stage: str) -> None:
    """Too narrow serves stale results, too wide ingests again after an edit of a model."""
    ours = [d for d in GRAPH[stage]["deps"] if d.startswith(("pipelines/", "stages/"))]
    assert sorted(ours) == sorted(imports.code_deps(found, stage)), "see `python tests/workflow/imports.py`"


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_the_sections_read(found, stage: str) -> None:
    read = set().union(*(sections_read(m) for m in imports.closure(found, f"stages.{stage}")))
    assert read == set(GRAPH[stage]["params"])


@pytest.mark.parametrize("stage", STAGES)
def test_data_deps_are_the_stages_read(stage: str) -> None:
    """`paths.of("ingest")` in the stage's file and results/ingest/... among its deps, or neither."""
    source = (imports.ROOT / "stages" / f"{stage}.py").read_text()
    read = {other for other in STAGES if f'paths.of("{other}")' in source} - {stage}
    assert read == {d.split("/")[1] for d in GRAPH[stage]["deps"] if d.startswith("results/")}


@pytest.mark.parametrize("stage", ["tune", "train"])
def test_a_dataset_that_fails_validation_goes_no_further(stage: str) -> None:
    """The report is waited for, and not read."""
    assert "results/validate/report.json" in GRAPH[stage]["deps"]
