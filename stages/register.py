"""register: package the trained model, give it a version in MLflow's registry, and make it champion if it is better.

Reads results/train, results/evaluate, results/ingest (where the champion has to be measured again) and the sections
task, evaluate and register. Writes decision.json: what was compared, which rule decided, which version holds which
alias. A refusal is a result, not a failure.
"""

from dataclasses import asdict

from pipelines import files, promotion, stage
from pipelines.config import HEADLINE, Params
from pipelines.stage import Paths, Summary


def run(params: Params, paths: Paths) -> Summary:
    from pipelines.registry import registration
    from pipelines.registry.versions import Registry
    from pipelines.tracking import Server

    settings = params.register_
    candidate = registration.read(paths.of("train"), paths.of("evaluate"), task=params.task)
    promotion.check_floors(settings.floors, candidate.metrics)
    server = Server(paths.root)
    tracked = registration.training_run(server, paths.root, candidate)
    registry = Registry(server, f"{settings.name}-{params.task}", f"Segmentation models for the {params.task} task.")
    with registry.alone():
        version = registration.publish_once(registry, tracked, paths.root, candidate)
        before = registry.aliases()
        champion = registration.champion(
            registry,
            before.get("champion"),
            candidate,
            data=paths.of("ingest"),
            batch_size=params.evaluate.batch_size,
        )
        decision = promotion.decide(
            challenger=candidate.metrics,
            champion=champion.metrics if champion else None,
            metric=f"{params.task}.{HEADLINE[params.task]}",
            min_gain=settings.min_gain,
            floors=settings.floors,
            same_weights=before.get("champion") == version,
            obstacle=champion.obstacle if champion else "",
        )
        after = registry.promote(version, decision, before)
    files.write_json(
        paths.out / "decision.json",
        {
            "model": registry.name,
            "version": version,
            "decision": asdict(decision),
            "floors": settings.floors,
            "dataset": dict(candidate.dataset),
            "weights": candidate.weights,
            "run": tracked.id,
            "commit": registry.version(version).tags["maskline.git.commit"],
            "champion": asdict(champion) if champion else None,
            "aliases": {"before": before, "after": after},
        },
    )
    verdict = "promoted" if decision.promoted else "refused"
    return {"version": f"{registry.name} {version}", verdict: f"{decision.rule}: {decision.reason}"}


if __name__ == "__main__":
    stage.main("register", run)
