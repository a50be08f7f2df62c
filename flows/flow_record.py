"""What a flow run shows in Prefect: its log, and an artifact that leads to MLflow."""

import re
from collections.abc import Sequence

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact

from flows.progress import LogProgress, Progress


def flow_progress() -> Progress:
    """Progress as lines in the log of the flow run."""
    return LogProgress(get_run_logger())


def record(key: str, url: str, sentences: Sequence[str]) -> None:
    """Leave a Markdown artifact with the sentences and the address of the MLflow page."""
    lines = [f"- {sentence}" for sentence in sentences if sentence]
    create_markdown_artifact(
        key=re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-"),
        markdown="\n".join([*lines, "", f"[Open in MLflow]({url})"]),
        description="What this flow run did",
    )
