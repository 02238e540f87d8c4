"""The README tells the truth: its commands exist, its parameters are accepted, its links lead somewhere, and (slow) its
commands run."""

import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml

from pipelines import config
from pipelines.config.sections import FormatName

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ("README.md", "CONTRIBUTING.md", "data/README.md")
README = (ROOT / "README.md").read_text()


def commands(text: str) -> list[list[str]]:
    """The lines of the ```sh blocks, without their comments and the settings before them (A=1 make)."""
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.S)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines() if line.strip()]
    return [list(itertools.dropwhile(re.compile(r"[A-Z_]+=").match, line)) for line in lines]


ALL = [command for name in TEXTS for command in commands((ROOT / name).read_text())]


def overrides(command: list[str]) -> dict[str, object]:
    """`-S train.epochs=40` -> {"train.epochs": 40}"""
    given = [word for flag, word in itertools.pairwise(command) if flag in ("-S", "--set-param")]
    return {name: yaml.safe_load(value) for name, value in (word.split("=") for word in given)}


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_commands_exist(command: list[str]) -> None:
    if command[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
        assert command[1] in targets
    elif command[:3] == ["dvc", "exp", "run"]:
        config.parse(config.merge(config.read(ROOT / "params.yaml"), overrides(command)))
    elif command[:2] == ["python", "-m"]:
        module, *words = command[2:]
        sub = words[:1] if words and not words[0].startswith("-") else []  # a subcommand has a help of its own
        asked = [sys.executable, "-m", module, *sub, "--help"]
        said = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert all(word in said for word in words if word.startswith("--"))
    elif command[0] == "python":
        assert (ROOT / command[1]).is_file()
    elif command[0] == "curl":
        port = config.read(ROOT / "params.yaml")["serve"]["port"]
        assert command[-1] == f"http://127.0.0.1:{port}/predict"
    elif command[0] == "ray":
        assert command[1:4] == ["job", "submit", "--"], "which tests/workflow/test_jobs.py runs"
    else:
        assert command[0] == "dvc"


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (ROOT / name).parent.joinpath(target).exists(), target


def test_tables_name_what_there_is() -> None:
    """Every model and format of the code has its row, and no other."""
    rows = re.findall(r"^\| `([\w-]+)` \|", README, flags=re.M)
    names = {
        *config.MODEL_TASKS,
        *get_args(FormatName),
        *yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"],
    }
    assert set(rows) == names


def test_nothing_is_left_to_fill_in() -> None:
    assert "@@" not in README


@pytest.mark.slow
def test_commands_run(clone) -> None:
    """In the README's order, with small parameters; `make` and `source` belong to the machine, not to the project."""
    project = clone()
    project.repro()
    for command in commands(README):
        if command[0] == "dvc":
            project.run(*command)
