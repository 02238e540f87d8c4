"""What each stage imports, found in the code: the truth that dvc.yaml's deps are held to."""

import sys
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[2]
# These cannot change a stage's result: they read params.yaml (complete, without defaults, and tracked by DVC key by
# key), refuse what is wrong, and run the stage. An edit of theirs must not ingest a terabyte again.
AROUND = {
    "pipelines",
    "pipelines.config",
    "pipelines.environment",
    "pipelines.errors",
    "pipelines.progress",
    "pipelines.stage",
    "pipelines.tracking",
}


def graph() -> grimp.ImportGraph:
    return grimp.build_graph("stages", "pipelines", cache_dir=None)


def closure(found: grimp.ImportGraph, module: str) -> set[str]:
    """`module` and all of ours that it imports, anywhere in its code, directly or not; a module's packages run too."""
    todo, seen = [module], set[str]()
    while todo:
        name = todo.pop()
        if name in seen or name in AROUND:
            continue
        seen.add(name)
        todo += found.find_modules_directly_imported_by(name)
        if "." in name and (parent := name.rpartition(".")[0]) != "stages":
            todo.append(parent)
    return seen


def files_of(module: str) -> set[Path]:
    """The module's file, and what lies beside it under its name: a template, a style, a table. A package has also its
    folders that hold no module: class tables."""
    path = ROOT.joinpath(*module.split("."))
    if path.is_dir():
        tables = {d for d in path.iterdir() if d.is_dir() and d.name != "__pycache__" and not list(d.glob("*.py"))}
        return {path / "__init__.py"}.union(*map(contents, tables))
    return {f for f in path.parent.iterdir() if f.is_file() and f.name.split(".")[0] == path.name}


def shortest(files: set[Path], below: Path = ROOT) -> list[str]:
    """The files as few paths: a folder stands for all that is in it, when all of it is meant."""
    named = []
    for entry in sorted(below.iterdir()):
        inside = {f for f in files if entry == f or entry in f.parents}
        if not inside:
            continue
        if entry.is_file() or inside == contents(entry):
            named.append(str(entry.relative_to(ROOT)))
        else:
            named += shortest(files, entry)
    return named


def contents(folder: Path) -> set[Path]:
    return {f for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts}


def code_deps(found: grimp.ImportGraph, stage: str) -> list[str]:
    """What dvc.yaml must name for the stage, of our code."""
    return shortest({f for m in closure(found, f"stages.{stage}") for f in files_of(m)})


if __name__ == "__main__":  # prints what dvc.yaml should say
    sys.path.insert(0, str(ROOT))
    for name in sorted(p.stem for p in (ROOT / "stages").glob("[a-z]*.py")):
        print(f"{name}:", *code_deps(graph(), name), sep="\n      - ")
