"""Images listed in a table of a database: real SQLite files, and PostgreSQL where the machine has one."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ae_models.errors import InputError
from ae_models.images import ImageSpec, Unreadable, read_or_reason
from flows.completeness import still_arriving
from flows.config import DataConfig, load
from flows.remote import SourceUnavailable
from flows.sources import inbox_batches, labelled_items, nominal_items

SmallImages = Callable[[Path, int, int], list[Path]]
SPEC = ImageSpec(16, 16, 1)


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'plant.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def any_database(request: pytest.FixtureRequest) -> str:
    """A new database of each kind; PostgreSQL is skipped where there is none."""
    name = {"sqlite": "database", "postgresql": "postgresql_url"}[request.param]
    return str(request.getfixturevalue(name))


def write(database: str, table: str, *rows: dict[str, Any], schema: str | None = None) -> None:
    """A new table with these rows; a column's type is that of its first value."""
    kinds: dict[type, Any] = {str: sa.String, bytes: sa.LargeBinary, int: sa.Integer, datetime: sa.DateTime}
    columns = [sa.Column(name, kinds[type(value)]) for name, value in rows[0].items()]
    made = sa.Table(table, sa.MetaData(schema=schema), *columns)
    engine = sa.create_engine(database)
    with engine.begin() as connection:
        made.create(connection)
        connection.execute(sa.insert(made), list(rows))
    engine.dispose()


def data(inbox: dict[str, Any], **parts: Any) -> DataConfig:
    return DataConfig.model_validate({"nominal": "unused", "inbox": inbox, **parts})


class TestPaths:
    """A column of paths or URLs is a manifest that lies in a database."""

    def source(self, database: str, root: Path, **parts: Any) -> dict[str, Any]:
        return {"table": "images", "database": database, "path_column": "file", "root": str(root), **parts}

    def test_rows_are_images_with_what_is_known_of_them(
        self, any_database: str, tmp_path: Path, small_images: SmallImages
    ) -> None:
        """Batches, groups, times and labels come from their columns, whatever these are called."""
        small_images(tmp_path / "root", 3, 0)
        names = [f"image-{number:03d}.png" for number in range(3)]
        day = datetime(2024, 5, 17, 12)
        rows = [{"file": name, "Lot #": f"lot-{i % 2}", "part": f"p{i}", "at": day} for i, name in enumerate(names)]
        write(any_database, "images", *rows)
        columns = {"batch_column": "Lot #", "group_column": "part", "time_column": "at"}
        first, second = inbox_batches(data(self.source(any_database, tmp_path / "root", **columns)))
        assert [Path(item.uri).name for item in first.items] == [names[0], names[2]]
        assert (first.id, second.id, first.items[0].group) == ("lot-0", "lot-1", "p0")
        assert first.taken_at() == day.replace(tzinfo=UTC)
        assert not isinstance(read_or_reason(first.items[0].content, SPEC), Unreadable)

    def test_labels_choose_what_is_nominal(self, database: str, tmp_path: Path) -> None:
        """As in a manifest, only rows with a nominal label are learnt from."""
        write(database, "images", {"file": "a.png", "kind": "good"}, {"file": "b.png", "kind": "crack"})
        source = self.source(database, tmp_path, label_column="kind")
        found = nominal_items(DataConfig.model_validate({"nominal": source}))
        assert [Path(item.uri).name for item in found.items] == ["a.png"]
        labelled = labelled_items(DataConfig.model_validate({"nominal": "unused", "labelled": source}))
        assert labelled is not None
        assert labelled[1].tolist() == [False, True]

    @pytest.mark.parametrize("place", ["../secret.png", "/etc/hostname"])
    def test_paths_that_lead_out_are_refused(self, database: str, tmp_path: Path, place: str) -> None:
        """Who writes the table reads no other files of this machine."""
        write(database, "images", {"file": place, "lot": "1"})
        source = self.source(database, tmp_path / "root", batch_column="lot")
        with pytest.raises(
            InputError, match=r"the table images names .*, which lies outside of .*root: correct that row"
        ):
            inbox_batches(data(source))
        source.pop("root")
        with pytest.raises(InputError, match="which lies outside of any root"):
            inbox_batches(data({**source, "root": None}))

    def test_names_are_quoted(self, any_database: str, tmp_path: Path) -> None:
        """A table or column whose name is SQL is a name, and nothing else."""
        evil = 'x"; DROP TABLE keep; --'
        write(any_database, "keep", {"a": 1})
        write(any_database, evil, {"file": "a.png", 'lot"; DROP TABLE keep; --': "1"})
        source = self.source(any_database, tmp_path, table=evil, batch_column='lot"; DROP TABLE keep; --')
        assert [batch.id for batch in inbox_batches(data(source))] == ["1"]
        assert sa.inspect(sa.create_engine(any_database, poolclass=sa.NullPool)).has_table("keep")

    def test_rows_without_a_path_or_a_batch_are_said(self, database: str, tmp_path: Path) -> None:
        """Nothing is skipped in silence."""
        write(database, "images", {"file": "a.png", "lot": "1"}, {"file": "b.png", "lot": None})
        source = self.source(database, tmp_path, batch_column="lot")
        with pytest.raises(InputError, match=r"the inbox table images needs a value in column 'lot' for .*b\.png"):
            inbox_batches(data(source))
        write(database, "more", {"file": "a.png", "lot": "1"}, {"file": None, "lot": "1"})
        with pytest.raises(InputError, match="the table more has a row without a value for file or its image"):
            inbox_batches(data({**source, "table": "more"}))

    def test_a_thousand_and_more_rows_come_in_chunks(self, any_database: str, tmp_path: Path) -> None:
        """All of them arrive, in the order of their keys."""
        write(any_database, "images", *({"file": f"{n:05d}.png", "lot": "1"} for n in range(2500)))
        (batch,) = inbox_batches(data(self.source(any_database, tmp_path, batch_column="lot")))
        assert [Path(item.uri).stem for item in batch.items] == [f"{n:05d}" for n in range(2500)]


class TestBytes:
    """A column may hold the image files themselves."""

    @pytest.fixture
    def source(self, any_database: str, tmp_path: Path, small_images: SmallImages) -> dict[str, Any]:
        database = any_database
        pictures = [path.read_bytes() for path in small_images(tmp_path / "images", 3, 0)]
        write(database, "images", *({"id": n, "picture": picture, "lot": "a"} for n, picture in enumerate(pictures)))
        columns = {"key_column": "id", "bytes_column": "picture", "batch_column": "lot"}
        return {"table": "images", "database": database, **columns}

    def test_they_are_read_when_an_image_is_needed(self, source: dict[str, Any]) -> None:
        """Each image has an address of its own, and what does not exist any more is unreadable."""
        (batch,) = inbox_batches(data(source))
        assert [item.uri for item in batch.items] == [f"table://images/{n}" for n in range(3)]
        assert not any(isinstance(read_or_reason(item.content, SPEC), Unreadable) for item in batch.items)
        self.execute(source, "DELETE FROM images WHERE id = 1")
        assert read_or_reason(batch.items[1].content, SPEC) == Unreadable("does not exist")

    def test_other_bytes_are_another_batch(self, source: dict[str, Any]) -> None:
        """What was replaced is seen by its length, and then by its content."""
        write(source["database"], "other", {"picture": b"0"})
        (before,) = inbox_batches(data(source))
        hashes = before.stat_hash(), before.manifest_hash()
        assert hashes == (inbox_batches(data(source))[0].stat_hash(), before.manifest_hash())
        self.execute(source, "UPDATE images SET picture = (SELECT picture FROM other) WHERE id = 1")
        (after,) = inbox_batches(data(source))
        assert after.stat_hash() != hashes[0]
        assert after.manifest_hash() != hashes[1]

    def execute(self, source: dict[str, Any], statement: str) -> None:
        engine = sa.create_engine(source["database"], poolclass=sa.NullPool)
        with engine.begin() as connection:
            connection.execute(sa.text(statement))


def test_a_batch_settles_by_the_time_of_its_rows(database: str, tmp_path: Path) -> None:
    """Rows are inserted one by one: the batch is complete once the newest is as old as is stated."""
    at = datetime(2024, 5, 17, 12)
    write(database, "images", {"file": "a.png", "lot": "1", "at": at})
    columns = {"path_column": "file", "batch_column": "lot", "time_column": "at", "settled": "1min"}
    tiles = data({"table": "images", "database": database, "root": str(tmp_path), **columns})
    (batch,) = inbox_batches(tiles)
    assert tiles.inbox is not None
    early, late = (datetime(2024, 5, 17, 12, minute, 30, tzinfo=UTC) for minute in (0, 1))
    assert still_arriving(batch, tiles.inbox, early).startswith("is still being written: it changed 30 s ago")
    assert still_arriving(batch, tiles.inbox, late) == ""


class TestWords:
    """Each fault is one sentence, without the password."""

    def source(self, database: str, **parts: Any) -> DataConfig:
        return data({"table": "images", "database": database, "path_column": "file", "batch_column": "lot", **parts})

    def test_a_wrong_column_or_table_is_answered_with_those_there_are(self, database: str, tmp_path: Path) -> None:
        """Whoever misspelt a name sees the right one."""
        write(database, "images", {"file": "a.png", "Lot": "1"})
        with pytest.raises(InputError) as caught:
            inbox_batches(self.source(database, batch_column="lots"))
        assert str(caught.value) == "the table images has no column lots: it has file, Lot"
        with pytest.raises(InputError) as caught:
            inbox_batches(self.source(database, table="image"))
        assert str(caught.value) == (f"the database sqlite:///{tmp_path}/plant.db has no table image: it has images")

    def test_an_inbox_needs_its_column_of_batches(self, database: str) -> None:
        """Without it nobody knows what arrived together."""
        with pytest.raises(InputError, match="the inbox table images needs batch_column: the column that names each"):
            inbox_batches(self.source(database, batch_column=None))

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("no url secret", "database of the table images is no SQLAlchemy URL, such as postgresql"),
            ("nosuch://me:secret@host/x", "database of the table images is no SQLAlchemy URL"),
            ("mysql://me:secret@host/x", "mysql:// needs a package that is not installed"),
        ],
    )
    def test_a_url_that_opens_nothing(self, url: str, words: str) -> None:
        """The URL itself is not repeated."""
        with pytest.raises(InputError) as caught:
            inbox_batches(self.source(url))
        assert words in str(caught.value)
        assert "secret" not in str(caught.value)

    def test_a_database_that_is_damaged_or_away(self, tmp_path: Path) -> None:
        """Its batches stay due."""
        (tmp_path / "plant.db").write_bytes(b"no database, but long enough to be looked at" * 100)
        with pytest.raises(SourceUnavailable) as caught:
            inbox_batches(self.source(f"sqlite:///{tmp_path}/plant.db"))
        words = "did not answer, and its batches stay due: file is not a database"
        assert str(caught.value) == f"the database sqlite:///{tmp_path}/plant.db {words}"

    def test_a_postgresql_that_refuses_does_not_hear_the_password_repeated(self, postgresql_url: str) -> None:
        """A wrong password is an outage, in one sentence that does not hold it."""
        host = postgresql_url.rpartition("@")[2]
        with pytest.raises(SourceUnavailable) as caught:
            inbox_batches(self.source(f"postgresql+psycopg://reconwatch:hunter2@{host}"))
        assert str(caught.value).startswith(f"the database postgresql+psycopg://reconwatch:***@{host} did not answer")
        assert "hunter2" not in str(caught.value)

    def test_a_password_stays_out_of_everything(self, tmp_path: Path) -> None:
        """It must be a variable in the file, and is shown neither in the settings nor in their JSON."""
        path = tmp_path / "pipelines.yaml"
        text = "pipelines:\n  tiles:\n    data:\n      nominal: a\n      inbox:\n        table: images\n"
        text += "        path_column: file\n        batch_column: lot\n        database: "
        url = "postgresql+psycopg://me:hunter2@host/plant"
        path.write_text(text + url)
        with pytest.raises(
            InputError, match=r"inbox\.database: is secret and must not stand in the file: write \$\{NAME\}"
        ) as caught:
            load(path, {})
        assert "hunter2" not in str(caught.value)
        path.write_text(text + "${PLANT}")
        tiles = load(path, {"PLANT": url}).pipeline("tiles")
        assert "hunter2" not in repr(tiles)
        assert "hunter2" not in tiles.model_dump_json()
        path.write_text(text + "sqlite:///plant.db")
        assert load(path, {}).pipeline("tiles").data.inbox is not None

    @pytest.mark.parametrize(
        ("columns", "words"),
        [
            ({}, "needs either path_column (paths or URLs) or bytes_column (the image files' bytes)"),
            ({"path_column": "a", "bytes_column": "b"}, "needs either path_column"),
            ({"bytes_column": "b"}, "needs key_column beside bytes_column: the column that names an image, such as id"),
            ({"path_column": "a", "settled": "1min"}, "needs time_column beside settled"),
        ],
    )
    def test_columns_that_do_not_go_together(self, columns: dict[str, str], words: str) -> None:
        """The file is refused, with what is missing."""
        with pytest.raises(ValueError, match="needs") as caught:
            data({"table": "images", "database": "sqlite://", **columns})
        assert words in str(caught.value)
