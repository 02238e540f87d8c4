"""What can go wrong because of the input, and how it is said: what was found, what is allowed, what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class MasklineError(Exception):
    """Ends the stage with `exit_code` and its own text; a traceback would tell the user nothing more."""

    exit_code = 1


class InputError(MasklineError):
    """The input is wrong. Holds every fault that was found, not the first alone."""

    exit_code = 2

    def __init__(self, what: str, faults: Iterable[str] = (), do: str = ""):
        self.faults = tuple(faults)
        lines = [what, *(f"  - {fault}" for fault in self.faults), *([f"do: {do}"] if do else [])]
        super().__init__("\n".join(lines))


class ConfigError(InputError):
    """params.yaml does not say what may be said."""


class DataError(InputError):
    """The dataset, or an artifact made of it, cannot be read as what it claims to be."""


class ValidationFailed(InputError):
    """The dataset was read, and breaks an expectation."""


class RunError(MasklineError):
    """The run itself failed: a worker was lost too often, the loss left the finite numbers, ..."""


class PromotionError(RunError):
    """The registry could not be brought into the state that was decided."""


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """`, did you mean 'unet'?` where something close exists, else nothing."""
    close = get_close_matches(str(name), [str(a) for a in allowed], n=1, cutoff=0.5)
    return f", did you mean '{close[0]}'?" if close else ""


def bounded(faults: list[str], limit: int = 20) -> list[str]:
    """The first `limit` faults and a count of the rest: a message that can be read."""
    rest = len(faults) - limit
    return faults if rest <= 0 else [*faults[:limit], f"and {rest} more"]
