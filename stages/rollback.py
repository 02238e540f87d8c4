"""rollback: give the alias `champion` back to the champion before, or to an earlier one, and write down who and why.

    python -m stages.rollback --why "misses thin poles at night"     # or: make rollback WHY="..."
    python -m stages.rollback --why "..." --to 3

Beside the workflow: it changes the registry, and results/register/audit.html, which tells it. What was rolled back is
not promoted again when it is registered again; `--to` brings it back.
"""

import argparse
from functools import partial

from pipelines import stage
from pipelines.config import Params
from pipelines.stage import Paths, Summary


def run(params: Params, paths: Paths, *, why: str, to: int | None = None) -> Summary:
    from pipelines.registry import pages, rollback
    from pipelines.registry.versions import Registry
    from pipelines.reporting import audit
    from pipelines.tracking import Server

    registry = Registry(Server(paths.root), f"{params.register_.name}-{params.task}", paths.root)
    with registry.alone():
        before, state = rollback.roll_back(registry, to=to, why=why)
        pages.publish(registry, state, task=params.task, render=audit.render, folder=paths.out)
    return {"rolled back": f"{registry.name} from version {before} to version {state.champion}: {why}"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.rollback", description=__doc__.split("\n\n")[0])
    parser.add_argument("--why", required=True, help="goes into the audit")
    parser.add_argument("--to", type=int, metavar="VERSION", help="an earlier champion; else the one before")
    given = parser.parse_args()
    stage.main("register", partial(run, why=given.why, to=given.to), called="rollback")


if __name__ == "__main__":
    main()
