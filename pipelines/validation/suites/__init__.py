"""What a sound dataset is: every check, in Great Expectations' terms and in plain words."""

from pipelines.validation.suites.intake import INTAKE
from pipelines.validation.suites.labels import CLASSES, LABELS
from pipelines.validation.suites.splits import LEAKAGE, SIZES, SPLIT_SIZES, TASK
from pipelines.validation.suites.structure import SEGMENTS, STRUCTURE

CHECKS = (*INTAKE, *STRUCTURE, *SPLIT_SIZES, *TASK, *SEGMENTS, *LABELS, *CLASSES, *SIZES, *LEAKAGE)
