"""MLflow runs, without MLflow's global state: every call names its server and its run.

MLflow is imported inside the functions (two seconds that a wrong parameter need not wait for).
"""

from pipelines.tracking.flat import PARAM_LENGTH, TAG_LENGTH, flatten, numbers, texts
from pipelines.tracking.run import KEY, Point, Run, end_the_dead, find, milliseconds
from pipelines.tracking.server import Server, Unreachable, prepare, uri
from pipelines.tracking.source import revision

__all__ = [
    "KEY", "PARAM_LENGTH", "TAG_LENGTH", "Point", "Run", "Server", "Unreachable", "end_the_dead", "find", "flatten",
    "milliseconds", "numbers", "prepare", "revision", "texts", "uri",
]  # fmt: skip
