"""Class ids, empty and ignored labels, and which classes are seen: that there is something to learn."""

import numpy as np
from great_expectations.expectations.row_conditions import Column

from pipelines.data.schema import IGNORE
from pipelines.validation.checks import Tables
from pipelines.validation.expectations import Check
from pipelines.validation.suites.terms import DENSE, SEGMENTED, TRAIN, always, between, never


def undeclared(tables: Tables) -> dict[str, str]:
    """Which class ids, how many pixels each, and what that looks like."""
    declared, counts = len(tables.manifest.classes), np.sum(list(tables.pixels.values()), axis=0)
    ids = [i for i in np.flatnonzero(counts).tolist() if declared <= i != IGNORE]
    pixels = ", ".join(f"{i}: {counts[i]} pixels" for i in ids[:8]) + (", ..." if len(ids) > 8 else "")
    hint = "; the ids seem to start at 1" if ids == [declared] and not counts[0] else ""
    return {"ids": f"{{{', '.join(map(str, ids))}}} outside 0..{declared - 1}, ignore {IGNORE} ({pixels}{hint})"}


LABELS = (
    Check(
        name="labels.ids",
        table="images",
        **never("undeclared"),
        expected="semantic maps hold declared class ids and the ignore value alone",
        fault="{n:image} with class ids {ids}",
        detail=undeclared,
        example="{id}: {undeclared}",
        do="declare these classes, or map the ids to declared ones",
    ),
    Check(
        name="labels.binary",
        table="dataset",
        **always("binary", value=False),
        expected="masks are class ids, not black and white",
        fault="all masks hold 0 and 255 alone, and 255 means ignored: they look like black and white masks",
        do="map 255 to the class id that it stands for",
    ),
    Check(
        name="labels.empty",
        table="images",
        **between("labelled", min_value=0, strict_min=True),
        severity="warning",
        expected="something is labelled in each image",
        fault="{n:image} without a labelled pixel, from which nothing is learned",
        do="label them, or remove them",
    ),
    Check(
        name="labels.background",
        table="images",
        **between("classes", min_value=2, mostly=0.5, row_condition=TRAIN),
        severity="warning",
        tasks=DENSE,
        expected="at least half of the training images show two classes or more",
        fault="{n:training image} with fewer than two classes",
        do="look whether labels were lost on the way, or whether most images show background alone",
    ),
    Check(
        name="labels.instances",
        table="images",
        **between("instances", min_value=1, mostly=0.5, row_condition=TRAIN),
        severity="warning",
        tasks=SEGMENTED,
        expected="at least half of the training images hold an instance",
        fault="{n:training image} without an instance",
        do="look whether annotations were lost on the way",
    ),
    Check(
        name="labels.ignored",
        table="splits",
        **between("ignored", row_condition=TRAIN),
        limit=lambda limits: {"max_value": limits.max_ignored},
        expected="at most {max_ignored:.0%} of the training pixels are ignored",
        fault="too much of the training split is ignored",
        example="{ignored:.1%} of its pixels, at most {max_ignored:.0%} may be",
        do="label more of it, or raise validate.max_ignored",
    ),
)

CLASSES = (
    Check(
        name="classes.train",
        table="coverage",
        **between("pixels", row_condition=TRAIN),
        limit=lambda limits: {"min_value": limits.min_class_pixels},
        expected="each class has at least {min_class_pixels:pixel} in the training split",
        fault="{n:class|classes} with fewer than {min_class_pixels:pixel} in the training split",
        example="{class}: {pixels:pixel}",
        do="add images that show them, leave the classes out, or lower validate.min_class_pixels",
    ),
    Check(
        name="classes.instances",
        table="coverage",
        **between("instances", min_value=1, row_condition=TRAIN & (Column("kind") == "thing") & (Column("pixels") > 0)),
        severity="warning",
        tasks=SEGMENTED,
        expected="each thing class that is seen in the training split has an instance there",
        fault="{n:thing class|thing classes} with pixels but no instance in the training split",
        example="{class}",
        do="annotate their instances, or declare them stuff",
    ),
    Check(
        name="classes.elsewhere",
        table="coverage",
        **between("pixels", min_value=1, row_condition=(Column("split") != "train") & (Column("images") > 0)),
        severity="warning",
        expected="each class is seen in the other splits too",
        fault="{n:class|classes} missing from a split, where the score is then not defined",
        do="draw the splits so that each shows every class",
    ),
    Check(
        name="classes.drift",
        table="splits",
        **between("drift"),
        limit=lambda limits: {"max_value": limits.max_class_drift},
        expected="class frequencies drift from the training split's by at most {max_class_drift:g}",
        fault="{n:split} with other class frequencies than the training split",
        example="{split} ({images:image}): total variation {drift:.2f}, at most {max_class_drift:g}",
        do="draw the splits at random from the same images, enlarge small ones, or raise validate.max_class_drift",
    ),
)
