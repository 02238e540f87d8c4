"""From a trained and measured model to a version in the registry, and what the rule says of it."""

import csv
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines import promotion
from pipelines.config import CLASSICAL, HEADLINE
from pipelines.errors import DataError
from pipelines.evaluation import per_image
from pipelines.promotion import Decision, Difference, Rule
from pipelines.registry import audit, card, champion, evaluations, promoting, publish, verdicts
from pipelines.registry.audit import Entry
from pipelines.registry.candidate import IMAGES, METRICS, PAGES, Candidate
from pipelines.registry.champion import Champion, Measure
from pipelines.registry.promoting import State
from pipelines.registry.versions import WEIGHTS, Registry
from pipelines.tracking import Run, Server, find, revision


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What was decided, and in what state of the registry; with both models, for who wants to look closer."""

    version: int
    decision: Decision
    champion: Champion | None  # before the decision
    before: int | None
    state: State


def training_run(server: Server, root: Path, candidate: Candidate) -> Run:
    """The run that trained these weights; one made from their files where they came without it, from a DVC remote."""
    if (known := find(root, WEIGHTS, candidate.weights)) is not None:
        return Run(server, known)
    tags = {"maskline.stage": "train", "maskline.fingerprint": candidate.description["fingerprint"]}
    with Run.start(root, name="train", tags={**tags, WEIGHTS: candidate.weights, "maskline.imported": "true"}) as run:
        run.log_params(candidate.description["parameters"])
        for row in _history(candidate.folder / "history.csv"):
            run.log_metrics(row, step=int(row["epoch"]))
    return run


def publish_once(registry: Registry, run: Run, root: Path, candidate: Candidate) -> int:
    """The version of these weights, made if there is none, with what it was measured to reach."""
    version = registry.holding(candidate.identity)
    if version is None:
        version = _create(registry, run, root, candidate)
    if evaluations.outdated(registry, version, candidate.dataset, metrics=candidate.metrics):
        model = registry.model_id(version)
        measured = {**candidate.metrics, **({"cost": candidate.costs} if candidate.costs else {})}
        run.log_metrics(measured, step=candidate.description["epoch"], model_id=model)
        trained = candidate.description["dataset"]
        run.log_dataset(trained, context="training")
        held_out = {**candidate.dataset, "name": f"{trained['name']}, {candidate.dataset['split']} split"}
        run.log_dataset(held_out, context="evaluation")
    evaluations.keep(
        registry,
        version,
        candidate.dataset,
        metrics=candidate.metrics,
        images=candidate.evaluated / IMAGES,
        pages=[page for name in PAGES for page in sorted(candidate.evaluated.glob(name))],
        run=run,
    )
    return version


def decide(
    registry: Registry, version: int, candidate: Candidate, *, run: Run, rule: Rule, resamples: int, measure: Measure
) -> Outcome:
    """Hold a version against the champion, write the decision down and let the alias follow; again, where the champion
    has changed meanwhile."""
    found: list[tuple[Decision, Champion | None, int | None]] = []

    def entry(state: State) -> Entry | None:
        opponent = None
        if state.champion not in (None, version):
            opponent = champion.meet(registry, state.champion, candidate, measure)
        decision = promotion.decide(
            challenger=candidate.metrics,
            champion=opponent.metrics if opponent else None,
            metric=f"{candidate.task}.{HEADLINE[candidate.task]}",
            rule=rule,
            costs=candidate.costs,
            difference=_difference(candidate, opponent, rule, resamples=resamples, seed=measure.detail.seed),
            same_weights=state.champion == version,
            withdrawn=promoting.withdrawal(state.entries, version),
            obstacle=opponent.obstacle if opponent else "",
        )
        found.append((decision, opponent, state.champion))
        if decision.rule == "same weights":  # the log says already how it became champion
            return None
        made = Entry(
            what="promoted" if decision.promoted else "refused",
            version=version,
            before=state.champion,
            after=version if decision.promoted else state.champion,
            rule=decision.rule,
            reason=decision.reason,
            who=audit.who(),
            when=audit.now(),
            numbers={k: v for k, v in asdict(decision).items() if k not in ("promoted", "rule", "reason", "min_gain")},
            settings=asdict(rule),
            dataset=dict(candidate.dataset),
            run=run.id,
            commit=registry.version(version).tags["maskline.git.commit"],
        )
        earlier = [each for each in state.entries if each.version == version and each.what == made.what]
        return None if earlier and earlier[-1].repeats(made) else made

    state = promoting.commit(registry, entry)
    decision, opponent, before = found[-1]
    return Outcome(version=version, decision=decision, champion=opponent, before=before, state=state)


def _difference(
    candidate: Candidate, opponent: Champion | None, rule: Rule, *, resamples: int, seed: int
) -> Difference | None:
    if rule.level is None or opponent is None or opponent.images is None:
        return None
    found = per_image.difference(opponent.images, candidate.images, level=rule.level, resamples=resamples, seed=seed)
    if found is None:
        return None
    new, old = candidate.images.headline(), opponent.images.headline()
    gain = 0.0 if new is None or old is None else new - old
    return Difference(
        gain=gain,
        low=found.low,
        high=found.high,
        p=found.p,
        level=rule.level,
        resamples=found.resamples,
        images=len(candidate.images.ids),
    )


def _history(path: Path) -> list[dict[str, float]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read: {error}", do="dvc repro --force train") from None


def _create(registry: Registry, run: Run, root: Path, candidate: Candidate) -> int:
    description = candidate.description
    trained = registry.server.get_run(run.id).data.tags
    commit, dirty = revision(root)
    model = description["model"]
    about = {
        "maskline.task": description["task"],
        "maskline.model": model["name"] if model["name"] in CLASSICAL else f"{model['name']}, {model['encoder']}",
        "maskline.dataset": description["dataset"]["hash"],
        "maskline.dataset.name": description["dataset"]["name"],
        "maskline.fingerprint": description["fingerprint"],
        "maskline.git.commit": trained.get("mlflow.source.git.commit", commit),
        "maskline.git.dirty": trained.get("maskline.git.dirty", str(dirty).lower()),
    }
    picture = candidate.evaluated / "plots" / publish.PICTURE
    changed = " and uncommitted changes" if about["maskline.git.dirty"] == "true" else ""
    text = card.write(
        name=registry.name,
        description=description,
        metrics={**candidate.metrics, "dataset": candidate.dataset},
        commit=about["maskline.git.commit"] + changed,
        weights=candidate.identity,
        picture=publish.PICTURE if picture.is_file() else "",
        costs=candidate.costs,
    )

    def write(folder: Path, model_id: str) -> None:
        publish.write(
            folder,
            source=candidate.folder,
            card=text,
            metrics=candidate.evaluated / METRICS,
            picture=picture,
            asked=candidate.inference,
            model_id=model_id,
            run_id=run.id,
            about={**about, WEIGHTS: candidate.identity},
        )

    return registry.create(
        write,
        run=run,
        weights=candidate.identity,
        tags=about,
        params=description["parameters"],
        description=card.for_mlflow(text, publish.PICTURE, room=verdicts.REASON),
    )
