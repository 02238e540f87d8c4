"""What happened so far, as Prometheus reads it."""

from bisect import bisect_left
from collections import Counter

BOUNDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds


class Counters:
    """Of one service."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # path, status
        self.seconds = [0] * (len(BOUNDS) + 1)
        self.total = 0.0
        self.waiting = 0

    def answered(self, path: str, status: int, seconds: float) -> None:
        self.requests[path, status] += 1
        if path == "/predict" and status == 200:
            self.seconds[bisect_left(BOUNDS, seconds)] += 1
            self.total += seconds

    def text(self) -> str:
        lines = ["# TYPE maskline_requests_total counter"]
        lines += [
            f'maskline_requests_total{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(self.requests.items())
        ]
        lines += ["# TYPE maskline_waiting gauge", f"maskline_waiting {self.waiting}"]
        lines.append("# TYPE maskline_predict_seconds histogram")
        below = 0
        for bound, count in zip((*BOUNDS, "+Inf"), self.seconds, strict=True):
            below += count
            lines.append(f'maskline_predict_seconds_bucket{{le="{bound}"}} {below}')
        lines += [f"maskline_predict_seconds_sum {self.total:.6f}", f"maskline_predict_seconds_count {below}"]
        return "\n".join(lines) + "\n"
