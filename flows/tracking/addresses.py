"""Where a browser shows runs, pictures and versions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from flows.tracking.store import Store

VIEW = "?workflowType=machine_learning"  # without it MLflow shows the pages of its language-model side


@dataclass(frozen=True)
class Addresses:
    """The addresses of what MLflow shows; of runs that of its first page, while it does not answer."""

    _store: Store
    _experiments: dict[str, str]  # by pipeline, those that were asked for before

    def run(self, pipeline: str, run_id: str, artifact: str = "") -> str:
        """Where a browser shows the run, or one of its artifacts."""
        place = f"/artifacts/{quote(artifact)}" if artifact else ""
        return self._in_experiment(pipeline, f"/{run_id}{place}{VIEW}")

    def search(self, pipeline: str, tags: Mapping[str, str]) -> str:
        """Where a browser shows the pipeline's runs that have these `reconwatch.` tags."""
        condition = " and ".join(f"tags.`reconwatch.{name}` = '{value}'" for name, value in tags.items())
        return f"{self.pipeline(pipeline)}&searchFilter={quote(condition)}"

    def version(self, pipeline: str, version: str) -> str:
        """Where a browser shows a version of the pipeline's model."""
        return f"{self._store.dashboard}/#/models/{quote(pipeline)}/versions/{version}{VIEW}"

    def picture(self, run_id: str, name: str) -> str:
        """The address of a picture among the run's artifacts, for pages of MLflow itself."""
        return f"{self._store.dashboard}/get-artifact?path={quote(name, safe='')}&run_uuid={run_id}"

    def pipeline(self, pipeline: str) -> str:
        """Where a browser shows all runs of the pipeline."""
        return self._in_experiment(pipeline, VIEW)

    def pipelines(self, pipelines: Iterable[str]) -> dict[str, str]:
        """The same of many pipelines, asked for together; of those that have no run yet the first page."""
        first, known = self._store.dashboard, self._store.experiments(pipelines) if self._store.answers() else {}
        return {
            name: f"{first}/#/experiments/{known[name]}/runs{VIEW}" if name in known else first for name in pipelines
        }

    def _in_experiment(self, pipeline: str, rest: str) -> str:
        if not self._store.answers():  # asked first: the next line would wait for a minute
            return self._store.dashboard
        if pipeline not in self._experiments:
            self._experiments[pipeline] = self._store.experiment(pipeline)
        return f"{self._store.dashboard}/#/experiments/{self._experiments[pipeline]}/runs{rest}"
