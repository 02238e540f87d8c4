"""What a sound dataset is: every check, in Great Expectations' terms and in plain words."""

from pipelines.data.suites.labels import CLASSES, LABELS
from pipelines.data.suites.splits import LEAKAGE, SPLIT_SIZES, TASK
from pipelines.data.suites.structure import SEGMENTS, STRUCTURE

CHECKS = (*STRUCTURE, *SPLIT_SIZES, *TASK, *SEGMENTS, *LABELS, *CLASSES, *LEAKAGE)
