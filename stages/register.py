"""register: package the trained model, give it a version in MLflow's registry, and make it champion if it is better.

Reads results/train, results/evaluate, results/ingest (where the champion has to be measured again) and the sections
task, seed, evaluate and register. Writes decision.json: what was compared, which rule decided, which version holds
which alias; audit.html: every decision that was ever taken about this model, as the registry keeps them; and
comparison.html: the version against the champion that it met. A refusal is a result, not a failure.
"""

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from pipelines import files, promotion, stage
from pipelines.config import Params
from pipelines.stage import Paths, Summary

if TYPE_CHECKING:
    from pipelines.registry.candidate import Candidate
    from pipelines.registry.contest import Outcome
    from pipelines.registry.versions import Registry
    from pipelines.tracking import Run

COMPARISON = "comparison.html"
# What a comparison says of a version: its tags.
IDENTITY = {
    "model": "maskline.model",
    "trained on": "maskline.dataset.name",
    "trained on, hash": "maskline.dataset",
    "commit": "maskline.git.commit",
    "weights": "maskline.weights",
}


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
    compare(params, paths, candidate, outcome, registry=registry, run=tracked)
    verdict = "promoted" if decision.promoted else "refused"
    return {"version": f"{registry.name} {version}", verdict: f"{decision.rule}: {decision.reason}"}


def compare(
    params: Params, paths: Paths, candidate: "Candidate", outcome: "Outcome", *, registry: "Registry", run: "Run"
) -> None:
    """Write comparison.html, to MLflow as well, where there was a champion that is known on the same images."""
    from pipelines.data.shards import ShardReader
    from pipelines.reporting import comparison, sides

    opponent, decision, dataset = outcome.champion, outcome.decision, candidate.dataset
    if opponent is None or opponent.images is None:
        # An earlier page says nothing of this version.
        paths.finished.append(partial(files.remove, paths.of("register") / COMPARISON))
        return
    reader = ShardReader(paths.of("ingest"), dataset["split"])
    there = reader if reader.manifest.hash == dataset["hash"] else None
    both = (
        (opponent.version, opponent.metrics, opponent.images, opponent.predictor),
        (outcome.version, candidate.metrics, candidate.images, candidate.predictor),
    )
    before, after = (
        sides.measure(
            f"version {version}",
            metrics=metrics,
            images=images,
            load=loads,
            reader=there,
            batch_size=params.evaluate.batch_size,
            identity={name: registry.version(version).tags.get(tag, "unknown") for name, tag in IDENTITY.items()},
        )
        for version, metrics, images, loads in both
    )
    page = comparison.render(
        before,
        after,
        there,
        task=params.task,
        classes=candidate.classes,
        dataset={"split": dataset["split"], "dataset hash": dataset["hash"]},
        resamples=params.evaluate.resamples,
        seed=params.seed,
        verdict=f"{'Promoted' if decision.promoted else 'Refused'} ({decision.rule}): {decision.reason}",
    )
    files.write_text(paths.out / COMPARISON, page)
    run.artifacts(paths.out / COMPARISON, f"comparisons/with-version-{opponent.version}")


if __name__ == "__main__":
    stage.main("register", run)
