"""The leaderboard's table and page."""

import csv
import io
import re
from dataclasses import replace

from pipelines.data.schema import ClassInfo
from pipelines.evaluation.evaluator import Evaluator
from pipelines.leaderboard import page
from pipelines.leaderboard.measure import Cost

CLASSES = (ClassInfo(name="sky", color=(0, 0, 0), isthing=False), ClassInfo(name="cat", color=(1, 1, 1), isthing=True))
ROWS = [
    page.Row(
        name=name,
        encoder="resnet18",
        scores=(quality,),
        interval=(quality - 0.1, quality + 0.1),
        cost=Cost(parameters=parameters, operations=2 * 10**9, seconds=seconds, memory=2**25),
        training=90.0,
    )
    for name, quality, parameters, seconds in [
        ("slow", 0.7, 10**7, 0.2),
        ("beaten", 0.5, 0, 0.1),
        ("fast<b>", 0.6, 10**6, 0.05),
    ]
]


def test_the_best_comes_first():
    table = list(csv.reader(io.StringIO(page.as_csv(ROWS, "semantic"))))
    assert [row[0] for row in table] == ["model", "slow", "fast<b>", "beaten"]
    assert table[1][1:] == ["resnet18", "0.700", "0.600-0.800", "10.00", "2.0", "200.0", "32", "1.5"]
    lines = page.as_markdown(ROWS, "semantic").splitlines()
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1


def test_the_page_shows_every_model_against_every_cost():
    html = page.as_html(ROWS, task="semantic", title="T", about="A", failed=["gone: no memory"])
    assert html.count("<svg") == 3
    assert html.count("<circle") == 3 * len(ROWS) - 1, "who has no parameters is not drawn against them"
    assert "gone: no memory" in html
    assert "<b>" not in html
    assert not re.search(r"(src|href)=", html), "one file that loads nothing"
    front = re.findall(r'<polyline class="front" points="([^"]*)"', html)
    assert len(front[0].split()) == 2, "who is slower and worse than another is not on the line of the best"


def test_each_task_has_scores_of_its_own():
    (row,) = [replace(ROWS[0], scores=(0.3, 0.6, None, 0.4))]
    header, cells = csv.reader(io.StringIO(page.as_csv([row], "instance")))
    assert header[2:7] == ["AP", "95 %", "AP50", "accuracy 0.5", "accuracy 0.7"]
    assert cells[2:7] == ["0.300", "0.600-0.800", "0.600", "", "0.400"]
    for task, scores in page.SCORES.items():
        found = Evaluator(task=task, classes=CLASSES).compute()
        assert all(key in found[view] for _, view, key in scores)
