"""How much the score follows from each parameter: PED-ANOVA (Watanabe et al., IJCAI 2023, arXiv 2304.10255), Optuna's.

It asks how unlike the better trials' values are to all trials' values. Trials are compared after as many epochs as all
of them have run, so that the stopped ones count.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.config import space as spaces
from pipelines.training.search.learned import distribution
from pipelines.training.search.record import Record

FEWEST = 8  # trials, below which it would be an opinion


def importance(records: Sequence[Record], space: Mapping[str, Mapping[Any, Any]]) -> dict[str, float]:
    """Shares that sum to 1, of the parameters that every trial has, the greatest first; empty of few trials."""
    scored = [r for r in records if r.rows and r.number]  # the first was not drawn
    ranges = spaces.read(space)
    names = [name for name in ranges if all(name in r.drawn for r in scored)]
    if len(scored) < FEWEST or not names:
        return {}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    common = min(r.epochs for r in scored)
    study = optuna.create_study(direction="maximize")
    for record in scored:
        params = {name: _as_number(ranges[name], record.drawn[name]) for name in names}
        study.add_trial(
            optuna.trial.create_trial(
                params=params,
                distributions={name: distribution(ranges[name]) for name in names},
                value=record.score_at(common),
            )
        )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator, params=names))


def _as_number(range_: spaces.Range, value: Any) -> Any:
    return range_.values.index(value) if range_.kind == "choice" else value
