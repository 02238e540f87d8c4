"""The page and the table of a search."""

import csv
import re
from pathlib import Path

import pytest

from pipelines.reporting import search
from pipelines.reporting.search import Search, Trial

NAMES = ("train.learning_rate", "train.optimizer", "train.ema")
TRIALS = [
    Trial(number=0, values={"train.learning_rate": 0.01, "train.optimizer": "adamw"}, score=0.5,
          curve=[(1, 0.4), (2, 0.5)], status="done"),
    Trial(number=1, values={"train.learning_rate": 0.1, "train.optimizer": "sgd", "train.ema": 0.3}, score=0.2,
          curve=[(1, 0.2)], status="stopped"),
    Trial(number=2, values={"train.learning_rate": 0.02, "train.optimizer": "<b>"}, score=None, curve=[],
          status="failed", error="<script>memory</script>", notes="micro-batches of 1 instead of 2"),
]  # fmt: skip


def found(**more: object) -> Search:
    return Search(metric="pq", about="random", names=NAMES, trials=TRIALS, winner=0, **more)  # type: ignore[arg-type]


def test_each_trial_is_one_row_whatever_became_of_it(tmp_path: Path):
    search.write(tmp_path, found())
    with (tmp_path / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["0", "1", "2"]
    assert [row["score"] for row in rows] == ["0.5", "0.2", ""]
    assert [row["train.ema"] for row in rows] == ["", "0.3", ""]
    assert [row["status"] for row in rows] == ["done", "stopped", "failed"]
    assert rows[2]["error"] == "<script>memory</script>"


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path):
    page = search.render(found(importance={"train.learning_rate": 0.7, "train.optimizer": 0.3}))
    assert "<script" not in page
    assert not re.search(r"""(src|href)=["']?(https?:|//)|url\(|@import""", page)
    assert page.count('<polyline class="trial won"') == 2, "one among the parameters, one among the curves"
    assert "PED-ANOVA" in page


@pytest.mark.parametrize("trials", [[], TRIALS[:1], TRIALS[2:]])
def test_there_is_a_page_of_any_search(trials):
    whole = Search(metric="pq", about="x", names=NAMES, trials=trials, winner=0 if trials else None)
    assert search.render(whole).endswith("</html>")


def test_the_front_is_drawn_where_latency_was_measured():
    timed = [Trial(number=n, values={"train.ema": n}, score=0.1 * n, curve=[(1, 0.1 * n)], status="done",
                   latency=10.0 + n, on_front=True) for n in range(3)]  # fmt: skip
    page = search.render(Search(metric="pq", about="x", names=NAMES, trials=timed, winner=2))
    assert page.count('class="spot"') == 3
