"""Share a way to measure without workers, whose start takes seconds."""

import pytest

from benchmarks.rd import jobs
from utils.workers import Outcome


@pytest.fixture
def without_workers(monkeypatch):
    """Measure in this process, one job after the other."""

    def run(_function, waiting, _unit, **_workers):
        for job in waiting:
            try:
                jobs.measure(job, alone=True)
                yield Outcome(job)
            except Exception as error:
                yield Outcome(job, error=str(error))

    monkeypatch.setattr(jobs, "run_with_bar", run)
