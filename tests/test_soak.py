"""Many batches in one process: what it holds does not grow with them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.faults
@pytest.mark.slow
def test_a_process_that_goes_on_holds_no_more_files_threads_or_memory(
    tmp_path: Path, fault_count: Callable[[int], int]
) -> None:
    """Batch after batch through ledger, MLflow, pages, queues and alerts: the last tenth holds what the first did."""
    batches, pipelines = max(20, fault_count(fault_count(2000))), max(2, fault_count(20))  # 2,000, or 20 in make test
    output = tmp_path / "soak.json"
    command = [sys.executable, "-m", "benchmarks.soak", "--batches", str(batches), "--pipelines", str(pipelines)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [*command, "--output", str(output)],
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout)
    figures = json.loads(output.read_text())
    assert sum(window["batches"] for window in figures["windows"]) == batches
    growth = figures["growth"]
    assert growth["open_files"] <= 2
    # MLflow's thread pools come and go with Python's collection of garbage.
    assert max(window["threads"] for window in figures["windows"]) < 64
    assert growth["memory_mib_second_half"] < 100
