"""Which code a run was made with."""

import subprocess
from pathlib import Path


def revision(root: Path) -> tuple[str, bool]:
    """The git commit of the code and whether files differ from it; ("unknown", False) outside a repository.

    dvc.lock is left out: `dvc repro` rewrites it while the stages run.
    """

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *args], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", ".", ":!dvc.lock"))
    except (OSError, subprocess.SubprocessError):
        return "unknown", False
