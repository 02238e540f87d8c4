"""Process settings that must stand before numpy, torch, Ray or MLflow are imported; what the user has set wins."""

import os

DEFAULTS = {
    # One thread per process: with two torch threads on two busy cores libgomp's spin barriers cost a factor of ten.
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    # No telemetry, no update checks.
    "DVC_NO_ANALYTICS": "1",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    # A broken picture is told in our message.
    "OPENCV_LOG_LEVEL": "ERROR",
    "RAY_USAGE_STATS_ENABLED": "0",
    # MLflow: no pickle is ever loaded, no guessing of requirements, no progress bars between ours.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # Ray: a lost worker is noticed at once, and `uv run` does not copy the folder to every worker.
    "RAY_AIR_NEW_OUTPUT": "0",  # no tables between our lines of progress
    "RAY_DEDUP_LOGS_SKIP_REGEX": "Raylet is terminated|has been marked dead",  # pages of log; we say what was lost
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # its own ends the search early as if that were a success
}


def prepare() -> None:
    """Set every default that the user has not set."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if not os.environ.get("RAY_ADDRESS"):
        # A Ray of our own serves this machine alone: without this, which Ray reads when it is first imported, it
        # listens on every interface.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
