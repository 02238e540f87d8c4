"""register: package the trained model, give it a version in MLflow's registry, and make it champion if it is better.

Reads results/train, results/evaluate, results/ingest (where the champion has to be measured again) and the sections
task, seed, evaluate and register. Writes decision.json: what was compared, which rule decided, which version holds
which alias; and audit.html: every decision that was ever taken about this model, as the registry keeps them. A refusal
is a result, not a failure.
"""

from dataclasses import asdict

from pipelines import files, promotion, stage
from pipelines.config import Params
from pipelines.stage import Paths, Summary


def run(params: Params, paths: Paths) -> Summary:
    from pipelines.evaluation.evaluator import Detail
    from pipelines.registry import candidate as candidates
    from pipelines.registry import pages, registration
    from pipelines.registry.champion import Measure
    from pipelines.registry.contest import Contest
    from pipelines.registry.versions import Registry
    from pipelines.reporting import audit
    from pipelines.tracking import Server

    settings, asked = params.register_, params.evaluate
    candidate = candidates.read(paths.of("train"), paths.of("evaluate"), task=params.task)
    rule = promotion.Rule(
        min_gain=settings.min_gain,
        max_class_drop=settings.max_class_drop,
        level=settings.significance.level if settings.significance else None,
        floors=settings.floors,
        limits=settings.limits or {},
    )
    promotion.check(floors=rule.floors, limits=rule.limits, metrics=candidate.metrics)
    server = Server(paths.root)
    tracked = registration.training_run(server, paths.root, candidate)
    registry = Registry(server, f"{settings.name}-{params.task}", paths.root)
    with registry.alone():
        version = registration.publish_once(registry, tracked, paths.root, candidate)
        outcome = Contest(
            registry=registry,
            version=version,
            candidate=candidate,
            run=tracked,
            rule=rule,
            resamples=settings.significance.resamples if settings.significance else 0,
            measure=Measure(
                data=paths.of("ingest"),
                batch_size=asked.batch_size,
                workers=asked.workers,
                detail=Detail(boundary=asked.boundary, edge=asked.edge, resamples=asked.resamples, seed=params.seed),
            ),
        ).hold()
        pages.publish(registry, outcome.state, task=params.task, render=audit.render, folder=paths.out)
        aliases = registry.aliases()
    decision, opponent = outcome.decision, outcome.champion
    files.write_json(
        paths.out / "decision.json",
        {
            "model": registry.name,
            "version": version,
            "decision": asdict(decision),
            "rule": asdict(rule),
            "dataset": dict(candidate.dataset),
            "weights": candidate.weights,
            "run": tracked.id,
            "commit": registry.version(version).tags["maskline.git.commit"],
            "champion": opponent.to_json() if opponent else None,
            "aliases": {"before": {"champion": outcome.before} if outcome.before else {}, "after": aliases},
            "audit": registry.audit.run,
        },
    )
    verdict = "promoted" if decision.promoted else "refused"
    return {"version": f"{registry.name} {version}", verdict: f"{decision.rule}: {decision.reason}"}


if __name__ == "__main__":
    stage.main("register", run)
