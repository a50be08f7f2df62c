"""Labels: of each person the latest counts, nothing said is lost, and nothing is entered twice."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ae_models.curves import Proportion
from ae_models.errors import InputError
from flows.labels import Label, Opinion, opinions, read_verdict
from flows.ledger import BatchRecord, Claim, Ledger
from flows.review_measures import measure, measure_parts, table_of

NOON = datetime(2024, 5, 17, 12, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}", lambda: NOON)


@pytest.fixture
def batch(ledger: Ledger) -> BatchRecord:
    """A decided batch."""
    claim = ledger.claim("tiles", "lot-7", "images", "3", "5")
    assert isinstance(claim, Claim)
    ledger.finish(claim, run_id="run", verdict={}, alarm=False, n_scored=9, n_flagged=1, n_unreadable=0)
    return ledger.batches.history("tiles")[0]


@pytest.fixture
def label(batch: BatchRecord) -> Callable[..., Label]:
    """A maker of labels on the batch; by default Anna says at noon that a flagged image is an outlier."""

    def make(**changes: object) -> Label:
        usual = Label(
            pipeline="tiles",
            batch_key=batch.key,
            batch="lot-7",
            uri="/data/a.png",
            verdict="outlier",
            comment="",
            reviewer="anna",
            labelled_at=NOON,
            way="terminal",
            score=2.0,
            threshold=1.0,
            flagged=True,
            audit=False,
        )
        return replace(usual, **changes)  # type: ignore[arg-type]  # the names of its fields, by the tests

    return make


Make = Callable[..., Label]


class TestWords:
    """What people may write."""

    @pytest.mark.parametrize(
        ("text", "verdict"),
        [
            ("outlier", "outlier"),
            (" True  Outlier ", "outlier"),
            ("false alarm", "nominal"),
            ("false alarm (nominal)", "nominal"),
            ("NOMINAL", "nominal"),
            ("u", "unsure"),
        ],
    )
    def test_verdicts_are_read_in_their_usual_words(self, text: str, verdict: str) -> None:
        """Those of the Review tab, those people say, and single letters."""
        assert read_verdict(text) == verdict

    def test_another_word_is_refused_with_the_choices(self) -> None:
        """Markup in it is text, and cut."""
        with pytest.raises(InputError, match=r"'<b>maybe</b>' is no label: write outlier, nominal .* or unsure"):
            read_verdict("<b>maybe</b>")


class TestLedger:
    """What the ledger keeps."""

    def test_a_label_comes_back_as_it_was_given(self, ledger: Ledger, label: Make) -> None:
        """Every field, with any text in it."""
        given = label(comment="<script>alert(1)</script> 'x'; DROP TABLE labels", score=None, audit=True, way="csv")
        assert ledger.labels.add([given]) == 1
        assert ledger.labels.of("tiles") == (given,)
        assert ledger.labels.of("tiles", given.batch_key) == (given,)
        assert ledger.labels.of("wood") == ()

    def test_history_is_kept(self, ledger: Ledger, label: Make) -> None:
        """A person who thinks again adds a label; the earlier one stays."""
        ledger.labels.add([label()])
        ledger.labels.add([label(verdict="nominal", labelled_at=NOON + timedelta(hours=1))])
        assert [one.verdict for one in ledger.labels.of("tiles")] == ["outlier", "nominal"]

    def test_what_was_read_before_is_not_new(self, ledger: Ledger, label: Make) -> None:
        """The same answers of MLflow, or the same file, twice."""
        labels = [label(way="mlflow"), label(uri="/data/b.png", way="mlflow")]
        assert (ledger.labels.add(labels), ledger.labels.add(labels)) == (2, 0)

    def test_an_old_file_does_not_take_back_what_was_said_since(self, ledger: Ledger, label: Make) -> None:
        """A file without times is read again after its author changed her mind in the terminal."""
        ledger.labels.add([label(way="csv")])
        ledger.labels.add([label(verdict="nominal", labelled_at=NOON + timedelta(hours=1))])
        assert ledger.labels.add([label(way="csv", labelled_at=NOON + timedelta(hours=2))]) == 0
        assert [opinion.verdict for opinion in opinions(ledger.labels.of("tiles")).values()] == ["nominal"]

    def test_an_exported_label_is_not_new_when_it_comes_back(self, ledger: Ledger, label: Make) -> None:
        """It is the person's latest, whatever way it came in."""
        ledger.labels.add([label(way="mlflow")])
        assert ledger.labels.add([label(way="csv")]) == 0


class TestOpinions:
    """What several labels on one image come to."""

    @pytest.mark.parametrize(
        ("said", "verdict"),
        [
            ([("anna", "outlier"), ("anna", "nominal")], "nominal"),
            ([("anna", "outlier"), ("bob", "unsure")], "outlier"),
            ([("anna", "outlier"), ("bob", "nominal")], "unsure"),
            ([("anna", "outlier"), ("bob", "nominal"), ("bob", "outlier")], "outlier"),
            ([("anna", "unsure")], "unsure"),
        ],
    )
    def test_of_each_person_the_latest_counts(self, label: Make, said: list[tuple[str, str]], verdict: str) -> None:
        """Who is unsure does not vote; a contradiction is unsure."""
        labels = [
            label(reviewer=reviewer, verdict=word, labelled_at=NOON + timedelta(minutes=minute))
            for minute, (reviewer, word) in enumerate(said)
        ]
        (opinion,) = opinions(reversed(labels)).values()
        assert opinion.verdict == verdict


class TestMeasures:
    """What labels say of a pipeline."""

    @pytest.fixture
    def known(self, label: Make) -> list[Opinion]:
        """Of 4 flagged images 3 are outliers; of an audit of 5, one is flagged and nominal, and one is missed."""
        labels = [label(uri=f"/lot-1/{number}.png") for number in range(3)]
        labels += [label(uri="/lot-2/3.png", verdict="nominal", audit=True)]
        labels += [label(uri="/lot-2/4.png", flagged=False, audit=True)]
        labels += [label(uri=f"/lot-2/{n}.png", flagged=False, audit=True, verdict="nominal") for n in (5, 6, 7)]
        labels += [label(uri="/lot-2/8.png", verdict="unsure"), label(uri="/lot-2/9.png", flagged=False)]
        return list(opinions(labels).values())

    def test_precision_is_of_flagged_images_and_misses_are_of_the_audit(self, known: list[Opinion]) -> None:
        """An image that was neither flagged nor drawn tells nothing, as somebody picked it."""
        measures = measure(known)
        assert measures.precision == Proportion(3, 4)
        assert measures.misses == Proportion(1, 4)
        assert measures.false_alarms == Proportion(1, 4)
        assert measures.unsure == 1

    def test_it_is_said_with_intervals(self, known: list[Opinion]) -> None:
        """Clopper and Pearson's, worked out by hand: 3 of 4 has 19.4% to 99.4%."""
        said = measure(known).sentences()
        assert said[0].startswith("Precision: 75% (3 of 4; 95% interval 19.4% to 99.4%) of the flagged images")
        assert said[1].startswith("Misses: 25% (1 of 4;")
        assert said[-1] == "1 image is left out: nobody is sure, or people contradict each other."

    def test_no_label_tells_nothing(self) -> None:
        """No division by zero, and no metric."""
        assert measure([]).sentences() == ()
        assert measure([]).metrics()["review_precision"] is None

    def test_parts_are_weeks_versions_groups_and_batches(self, known: list[Opinion], batch: BatchRecord) -> None:
        """All images first; each group with its own share."""
        groups = {opinion.label.uri: opinion.label.uri.split("/")[1] for opinion in known}
        parts = measure_parts(known, {batch.key: batch}, groups)
        assert [(part.kind, part.name) for part in parts] == [
            ("all", ""),
            ("week", "2024-W20"),
            ("version", "3"),
            ("group", "lot-1"),
            ("group", "lot-2"),
            ("batch", "lot-7"),
        ]
        table = table_of(parts).set_index("name")
        assert table.loc["lot-1", "precision"] == 1
        assert table.loc["lot-2", "precision"] == 0
        assert table["misses_of"].tolist() == [4, 4, 4, 0, 4, 4]
