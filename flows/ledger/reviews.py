"""What people say of images, and where they are asked."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from flows.labels import Label
from flows.ledger.batches import Batches, BatchRecord
from flows.ledger.database import Database, insert_once
from flows.ledger.tables import BATCHES, IS_KEPT, LABELS, QUEUES


@dataclass(frozen=True)
class Labels:
    """What people said of images."""

    _database: Database

    def add(self, labels: Sequence[Label]) -> int:
        """Enters labels and says how many were new; earlier ones stay. One that repeats what the person last said of
        the image, or last said by the same way, is not new: so a file may be read twice."""
        last: dict[tuple[str, ...], tuple[str, str]] = {}
        for pipeline in {label.pipeline for label in labels}:
            for known in self.of(pipeline):
                last |= dict.fromkeys(_ways_of(known), (known.verdict, known.comment))
        new = 0
        with self._database.transaction() as connection:
            for label in sorted(labels, key=lambda label: label.labelled_at):
                said = (label.verdict, label.comment)
                if said not in (last.get(way) for way in _ways_of(label)):
                    insert_once(connection, LABELS, **vars(label))
                    last |= dict.fromkeys(_ways_of(label), said)
                    new += 1
        return new

    def of(self, pipeline: str, batch_key: str | None = None) -> tuple[Label, ...]:
        """Every label on images of a pipeline, or of one of its batches, the oldest first."""
        query = sa.select(LABELS).where(LABELS.c.pipeline == pipeline)
        if batch_key is not None:
            query = query.where(LABELS.c.batch_key == batch_key)
        rows = self._database.rows(query.order_by(LABELS.c.labelled_at, LABELS.c.id))
        return tuple(Label(**{name: row._mapping[name] for name in Label.__dataclass_fields__}) for row in rows)


@dataclass(frozen=True)
class Queues:
    """In which queue the images of a finished batch are labelled."""

    _database: Database

    def note(self, batch_key: str, queue: str) -> None:
        """Keeps in which queue the images of a finished batch are to be labelled; empty where there is nothing to."""
        with self._database.transaction() as connection:
            insert_once(
                connection,
                QUEUES,
                batch_key=batch_key,
                queue=queue,
                made_at=self._database.clock(),
                pipeline=sa.select(BATCHES.c.pipeline).where(BATCHES.c.key == batch_key).scalar_subquery(),
            )

    def of(self, batch_key: str) -> str | None:
        """In which queue a batch's images are labelled; None where there is none."""
        rows = self._database.rows(sa.select(QUEUES.c.queue).where(QUEUES.c.batch_key == batch_key))
        return rows[0].queue or None if rows else None

    def of_pipeline(self, pipeline: str) -> tuple[tuple[str, str], ...]:
        """The key and the queue of each batch that has one, the newest batch first."""
        query = sa.select(QUEUES.c.batch_key, QUEUES.c.queue).join(BATCHES, BATCHES.c.key == QUEUES.c.batch_key)
        query = query.where((QUEUES.c.pipeline == pipeline) & IS_KEPT)
        rows = self._database.rows(query.order_by(BATCHES.c.finished_at.desc(), BATCHES.c.key))
        return tuple((row.batch_key, row.queue) for row in rows)

    def count(self, pipeline: str) -> int:
        """How many batches of a pipeline have one."""
        ours = (QUEUES.c.pipeline == pipeline) & IS_KEPT
        return int(self._database.rows(sa.select(sa.func.count()).select_from(QUEUES).where(ours))[0][0])

    def drop(self, batch_key: str) -> None:
        """Writes that a batch's images are labelled nowhere any more; it gets no other queue."""
        self._database.changed(QUEUES, QUEUES.c.batch_key == batch_key, queue="")

    def batches_without(self, pipeline: str, limit: int) -> tuple[BatchRecord, ...]:
        """Those of the last `limit` finished batches that `note_queue` was not told of, the oldest first."""
        newest = Batches(self._database).history(pipeline, limit)
        noted = sa.select(QUEUES.c.batch_key).where(QUEUES.c.batch_key.in_([record.key for record in newest]))
        known = {row.batch_key for row in self._database.rows(noted)}
        return tuple(record for record in reversed(newest) if record.key not in known)


def _ways_of(label: Label) -> tuple[tuple[str, ...], ...]:
    """The keys of what a person said of an image: by this way, and by any."""
    return (*label.image, label.reviewer, label.way), (*label.image, label.reviewer)
