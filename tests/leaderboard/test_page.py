"""The leaderboard's table and page."""

import csv
import io
import re

from pipelines.leaderboard import page
from pipelines.leaderboard.measure import Cost

ROWS = [
    page.Row(
        name=name,
        encoder="resnet18",
        quality=quality,
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
    table = list(csv.reader(io.StringIO(page.as_csv(ROWS))))
    assert [row[0] for row in table] == ["model", "slow", "fast<b>", "beaten"]
    assert table[1][1:] == ["resnet18", "0.700", "0.600-0.800", "10.00", "2.0", "200.0", "32", "1.5"]
    lines = page.as_markdown(ROWS).splitlines()
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1


def test_the_page_shows_every_model_against_every_cost():
    html = page.as_html(ROWS, title="T", about="A", failed=["gone: no memory"])
    assert html.count("<svg") == 3
    assert html.count("<circle") == 3 * len(ROWS)
    assert "gone: no memory" in html
    assert "<b>" not in html
    assert not re.search(r"(src|href)=", html), "one file that loads nothing"
    front = re.findall(r'<polyline class="front" points="([^"]*)"', html)
    assert len(front[0].split()) == 2, "who is slower and worse than another is not on the line of the best"
