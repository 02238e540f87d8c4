"""Whether a challenger becomes champion: a pure rule. Same numbers, same answer, and a sentence that says why."""

from pipelines.promotion.names import COSTS, ERRORS, METRICS, PER_CLASS, check, number
from pipelines.promotion.rule import HEADLINE_BY_CLASS, Check, Decision, Difference, Rule, decide

__all__ = [
    "COSTS", "ERRORS", "HEADLINE_BY_CLASS", "METRICS", "PER_CLASS", "Check", "Decision", "Difference", "Rule", "check",
    "decide", "number",
]  # fmt: skip
