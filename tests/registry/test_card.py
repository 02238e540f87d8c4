"""The model card: what it must say, and what it must not let through."""

import re

from pipelines.registry import card


def test_the_card_holds_no_markup_of_the_dataset_s_and_fits() -> None:
    nasty = '<img src=x onerror="alert(1)">|[x](javascript:1)'
    classes = [{"name": f"{nasty}{i}", "color": [1, 2, 3], "isthing": True} for i in range(300)]
    description = {
        "task": "semantic", "model": {"name": "unet", "encoder": "unet"}, "classes": classes, "epoch": 3,
        "dataset": {"name": nasty, "hash": "d" * 64}, "parameters": {"train": {"epochs": 3}},
    }  # fmt: skip
    metrics = {
        "semantic": {
            "miou": 0.5, "dice": None, "iou": {c["name"]: 0.25 for c in classes},
            "intervals": {"miou": [0.45, 0.55], "dice": None, "iou": {c["name"]: [0.2, 0.3] for c in classes}},
        },
        "dataset": {"hash": "e" * 64, "split": "test", "images": 7},
    }  # fmt: skip
    text = card.write(name="m", description=description, metrics=metrics, commit="c0ffee", weights="f" * 64)
    assert "<img" not in text
    assert not re.search(r"(?<!\\)[\[\]]\S*\(", text.replace("```python", ""))
    rows = ("| semantic.miou | 0.5000 | 0.4500 to 0.5500 |", "| semantic.dice | undefined |  |")
    for said in (*rows, "7 images of the test split", "c0ffee"):
        assert said in text
    assert text.count("0.2500") == 300
    short = card.shorten(text)
    assert len(short) <= card.DESCRIPTION_LENGTH
    assert rows[0] in short
    assert short.endswith("files.*\n")
    assert card.shorten("short") == "short"


def test_pictures_and_costs_stand_on_it_and_mlflow_is_told_where_they_are() -> None:
    description = {
        "task": "semantic", "model": {"name": "unet", "encoder": "paper"}, "epoch": 1, "parameters": {},
        "classes": [{"name": "sky", "color": [1, 2, 3], "isthing": False}], "dataset": {"name": "d", "hash": "d" * 64},
    }  # fmt: skip
    metrics = {"semantic": {"miou": 0.5}, "dataset": {"hash": "e" * 64, "split": "test", "images": 7}}
    about = {"name": "m", "description": description, "metrics": metrics, "commit": "c", "weights": "f" * 64}
    text = card.write(**about, picture="predictions.jpg", costs={"latency_ms": 12.3456789, "device": "cpu"})
    assert "](predictions.jpg)" in text
    assert "| latency\\_ms | 12.3457 |" in text
    told = card.for_mlflow(text, "predictions.jpg", room=600)
    assert "](predictions.jpg)" not in told
    assert "`predictions.jpg` among the model's files" in told
    assert "| semantic.miou\u00a0\u00a0 | 0.5000\u00a0\u00a0 |\n" in told
    assert "|\n| --- | --- |\n" in told, "what makes it a table"
    assert "](" not in card.write(**about)
