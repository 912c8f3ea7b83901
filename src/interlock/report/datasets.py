"""Datasets of OpenLineage with their facets; used inside a worker process only, for it imports ``openlineage``.

Names follow OpenLineage's naming: ``file`` and an absolute path, or the bucket as namespace and the key as name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self
from urllib.parse import urlsplit

from interlock import __version__
from interlock.records import Column

PRODUCER: Final = f"urn:interlock:{__version__}"


@dataclass(frozen=True)
class Dataset:
    """One dataset as a run saw it; every method gives a copy that says more."""

    namespace: str
    name: str
    facets: Mapping[str, Any] = field(default_factory=dict)
    as_read: Mapping[str, Any] = field(default_factory=dict)
    as_written: Mapping[str, Any] = field(default_factory=dict)

    def columns(self, columns: Sequence[Column]) -> Self:
        """With names and types of its columns."""
        from openlineage.client.generated.schema_dataset import SchemaDatasetFacet, SchemaDatasetFacetFields

        fields = [SchemaDatasetFacetFields(name=column.name, type=column.type) for column in columns]
        return self._with(schema=SchemaDatasetFacet(fields=fields, producer=PRODUCER)) if columns else self

    def change(self, what: str) -> Self:
        """With what happened to it: CREATE, ALTER, OVERWRITE."""
        from openlineage.client.generated.lifecycle_state_change_dataset import (
            LifecycleStateChange,
            LifecycleStateChangeDatasetFacet,
        )

        state = LifecycleStateChange(what)
        return self._with(
            lifecycleStateChange=LifecycleStateChangeDatasetFacet(lifecycleStateChange=state, producer=PRODUCER)
        )

    def read(self, rows: int, size_bytes: int | None = None, checks: Sequence[tuple[str, bool, str]] = ()) -> Self:
        """With how much of it was read, and what was found about it: (name, passed, reason)."""
        from openlineage.client.generated.data_quality_metrics_input_dataset import DataQualityMetricsInputDatasetFacet
        from openlineage.client.generated.input_statistics_input_dataset import InputStatisticsInputDatasetFacet

        facets: dict[str, Any] = {
            "inputStatistics": InputStatisticsInputDatasetFacet(rowCount=rows, size=size_bytes, producer=PRODUCER),
            "dataQualityMetrics": DataQualityMetricsInputDatasetFacet(
                columnMetrics={}, rowCount=rows, bytes=size_bytes, producer=PRODUCER
            ),
        }
        return replace(self, as_read={**self.as_read, **facets}).checked(checks)

    def checked(self, checks: Sequence[tuple[str, bool, str]]) -> Self:
        """With the rules that it was held against: (name, passed, reason)."""
        from openlineage.client.generated.data_quality_assertions_dataset import (
            Assertion,
            DataQualityAssertionsDatasetFacet,
        )

        if not checks:
            return self
        held = [Assertion(assertion=name, success=passed, description=reason) for name, passed, reason in checks]
        facet = DataQualityAssertionsDatasetFacet(assertions=held, producer=PRODUCER)
        return replace(self, as_read={**self.as_read, "dataQualityAssertions": facet})

    def written(self, rows: int) -> Self:
        """With how many rows were written."""
        from openlineage.client.generated.output_statistics_output_dataset import OutputStatisticsOutputDatasetFacet

        facet = OutputStatisticsOutputDatasetFacet(rowCount=rows, producer=PRODUCER)
        return replace(self, as_written={**self.as_written, "outputStatistics": facet})

    def _with(self, **facets: Any) -> Self:
        return replace(self, facets={**self.facets, **facets})

    def as_input(self) -> Any:
        """As the library's input."""
        from openlineage.client.event_v2 import InputDataset

        return InputDataset(self.namespace, self.name, dict(self.as_read), facets=dict(self.facets))

    def as_output(self) -> Any:
        """As the library's output."""
        from openlineage.client.event_v2 import OutputDataset

        return OutputDataset(self.namespace, self.name, dict(self.as_written), facets=dict(self.facets))


def dataset(place: str, name: str, *, version: str = "") -> Dataset:
    """What lies under ``name`` in a folder or bucket; ``version`` is a number or a digest."""
    from openlineage.client.generated.dataset_version_dataset import DatasetVersionDatasetFacet

    whole = f"{place.rstrip('/')}/{name}" if place else name
    parts = urlsplit(whole)
    if "://" in whole:
        found = Dataset(f"{parts.scheme}://{parts.netloc}", parts.path.lstrip("/"))
    else:
        found = Dataset("file", whole)
    if not version:
        return found
    return replace(found, facets={"version": DatasetVersionDatasetFacet(datasetVersion=version, producer=PRODUCER)})
