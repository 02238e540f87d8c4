"""Charts as SVG text: pure functions of numbers. Colours and type are the page's (CSS classes and variables).

One axis, few grid lines, names beside the lines instead of a legend, every value in a hover title.
"""

from pipelines.reporting.charts.against import against
from pipelines.reporting.charts.bars import bars
from pipelines.reporting.charts.columns import columns
from pipelines.reporting.charts.differences import differences
from pipelines.reporting.charts.heat_map import heat_map
from pipelines.reporting.charts.histogram import histogram
from pipelines.reporting.charts.lines import Points, line_chart
from pipelines.reporting.charts.reliability import reliability
from pipelines.reporting.charts.scatter import scatter
from pipelines.reporting.charts.svg import LABEL, number, standalone

__all__ = [
    "LABEL",
    "Points",
    "against",
    "bars",
    "columns",
    "differences",
    "heat_map",
    "histogram",
    "line_chart",
    "number",
    "reliability",
    "scatter",
    "standalone",
]
