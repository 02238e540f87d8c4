"""One version against whoever is champion: what the rule says, and what of it is written down."""

from dataclasses import asdict, dataclass

from pipelines import promotion
from pipelines.config import HEADLINE
from pipelines.evaluation import per_image
from pipelines.promotion import Decision, Difference, Rule
from pipelines.registry import audit, champion, promoting
from pipelines.registry.audit import Entry
from pipelines.registry.candidate import Candidate
from pipelines.registry.champion import Champion, Measure
from pipelines.registry.promoting import State
from pipelines.registry.versions import Registry
from pipelines.tracking import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What was decided, and in what state of the registry; with the opponent, for who wants to look closer."""

    version: int
    decision: Decision
    champion: Champion | None  # before the decision; None where there was none, or it is this version
    before: int | None
    state: State  # afterwards


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """Who, by which rule, measured how."""

    registry: Registry
    version: int
    candidate: Candidate
    run: Run  # that trained it
    rule: Rule
    resamples: int
    measure: Measure

    def hold(self) -> Outcome:
        """Decide, write it down and let the alias follow; again, where the champion has changed meanwhile."""
        found: list[tuple[Decision, Champion | None, int | None]] = []

        def entry(state: State) -> Entry | None:
            opponent = self._opponent(state)
            decision = self._decide(state, opponent)
            found.append((decision, opponent, state.champion))
            return self._entry(state, decision)

        state = promoting.commit(self.registry, entry)
        decision, opponent, before = found[-1]
        return Outcome(version=self.version, decision=decision, champion=opponent, before=before, state=state)

    def _opponent(self, state: State) -> Champion | None:
        if state.champion is None or state.champion == self.version:
            return None
        return champion.meet(self.registry, state.champion, self.candidate, self.measure)

    def _decide(self, state: State, opponent: Champion | None) -> Decision:
        return promotion.decide(
            challenger=self.candidate.metrics,
            champion=opponent.metrics if opponent else None,
            metric=f"{self.candidate.task}.{HEADLINE[self.candidate.task]}",
            rule=self.rule,
            costs=self.candidate.costs,
            difference=self._difference(opponent),
            same_weights=state.champion == self.version,
            withdrawn=promoting.withdrawal(state.entries, self.version),
            obstacle=opponent.obstacle if opponent else "",
        )

    def _difference(self, opponent: Champion | None) -> Difference | None:
        old, new = opponent.images if opponent else None, self.candidate.images
        if self.rule.level is None or old is None:
            return None
        draws = {"resamples": self.resamples, "seed": self.measure.detail.seed}
        found = per_image.difference(old, new, level=self.rule.level, **draws)
        if found is None:
            return None
        return Difference(
            gain=(new.headline() or 0.0) - (old.headline() or 0.0),
            low=found.low,
            high=found.high,
            p=found.p,
            level=self.rule.level,
            resamples=found.resamples,
            images=len(new.ids),
        )

    def _entry(self, state: State, decision: Decision) -> Entry | None:
        """None where the log says it already."""
        if decision.rule == "same weights":
            return None
        numbers = {k: v for k, v in asdict(decision).items() if k not in ("promoted", "rule", "reason", "min_gain")}
        made = Entry(
            what="promoted" if decision.promoted else "refused",
            version=self.version,
            before=state.champion,
            after=self.version if decision.promoted else state.champion,
            rule=decision.rule,
            reason=decision.reason,
            who=audit.who(),
            when=audit.now(),
            numbers=numbers,
            settings=asdict(self.rule),
            dataset=dict(self.candidate.dataset),
            run=self.run.id,
            commit=self.registry.version(self.version).tags["maskline.git.commit"],
        )
        earlier = [each for each in state.entries if each.version == self.version and each.what == made.what]
        return None if earlier and earlier[-1].repeats(made) else made
