"""Enough images, none of them twice, and what the task needs: that a score will mean something."""

from great_expectations.expectations.row_conditions import Column

from pipelines.data.schema import SPLITS
from pipelines.validation.checks import Tables
from pipelines.validation.expectations import TASKS, Check, Limits
from pipelines.validation.suites.terms import SEGMENTED, between, never


def shared(tables: Tables) -> dict[str, str]:
    """How many images each two splits have in common."""
    home = tables.images.drop_duplicates("id").set_index("id")["split"]
    images = tables.images.dropna(subset=["copy_of"])
    pairs = list(zip(images["copy_of"].map(home), images["split"], strict=True))
    counts = [(pairs.count((a, b)), a, b) for k, b in enumerate(SPLITS) for a in SPLITS[:k]]
    return {"pairs": ", ".join(f"{n} image{'s' * (n > 1)} in both {a} and {b}" for n, a, b in counts if n)}


def _enough(split: str) -> Check:
    def least(limits: Limits) -> dict[str, int]:
        return {"min_value": max(limits.min_images[split], int(split == "train"))}

    return Check(
        name=f"splits.{split}",
        table="splits",
        **between("images", row_condition=Column("split") == split),
        limit=least,
        expected=f"the {split} split has at least {{min_images[{split}]:image}}",
        fault=f"the {split} split is too small",
        example=f"{{images:row}}, expected at least {{min_images[{split}]}}",
        do=f"add images, give the split a larger part in dataset.splits, or lower validate.min_images.{split}",
    )


SPLIT_SIZES = tuple(_enough(split) for split in SPLITS)


def _sizes(what: str, tasks: tuple[str, ...]) -> Check:
    return Check(
        name=f"sizes.{what}s",
        table="splits",
        **between(f"{what}_size_drift"),
        limit=lambda limits: {"max_value": limits.max_size_drift},
        severity="warning",
        tasks=tasks,
        expected=f"the sizes of {what}s drift from the training split's by at most {{max_size_drift:g}}, chance aside",
        fault=f"{{n:split}} with {what}s of other sizes than the training split",
        example=f"{{split}} ({{images:image}}): {{{what}_size_drift:.2f}}, at most {{max_size_drift:g}}",
        do="draw the splits at random from the same images, or raise validate.max_size_drift if that is how it must be",
    )


SIZES = (_sizes("image", TASKS), _sizes("object", SEGMENTED))

LEAKAGE = (
    Check(
        name="leakage.copies",
        table="images",
        **never("copy_of"),
        expected="no picture is in two splits",
        fault="{pairs}",
        detail=shared,
        example="{id} is {copy_of}",
        do="remove them from one of the splits: a score on training images says nothing",
    ),
    Check(
        name="leakage.reencodings",
        table="images",
        **never("reencoding_of"),
        expected="no picture is in another split with the same labels, saved or scaled anew",
        fault="{n:picture} in another split too, saved or scaled anew, with the same labels",
        example="{id} is {reencoding_of}",
        do="remove them from one of the splits",
    ),
    Check(
        name="leakage.lookalikes",
        table="images",
        **never("resembles"),
        severity="warning",
        expected="no picture looks like one of another split",
        fault="{n:picture} like one of another split",
        example="{id} is like {resembles}",
        do="keep pictures of one scene, film or patient in one split, or the score is too good",
    ),
    Check(
        name="leakage.repeats",
        table="images",
        **never("repeats"),
        severity="warning",
        expected="no picture is in a split twice",
        fault="{n:picture} in the same split before",
        example="{id} is {repeats}",
        do="remove the repetitions: they count twice in training and in scores",
    ),
)

TASK = (
    Check(
        name="task.classes",
        table="dataset",
        **between("classes", min_value=2),
        tasks=("semantic",),
        expected="at least two classes are declared",
        fault="there is nothing to tell apart",
        example="{classes:class|classes} declared",
        do="declare the background as a class of its own",
    ),
    Check(
        name="task.things",
        table="dataset",
        **between("things", min_value=1),
        tasks=SEGMENTED,
        expected="at least one class is a thing",
        fault="no class is a thing, and task {task} finds things",
        do="declare which classes are things, or set task: semantic and a model for it",
    ),
    Check(
        name="task.instances",
        table="dataset",
        **between("train_instances", min_value=1),
        tasks=SEGMENTED,
        expected="the training split has instances to learn from",
        fault="the training split has no instance (crowds are not counted), and task {task} learns from them",
        do="add instance annotations, or set task: semantic and a model for it",
    ),
)
