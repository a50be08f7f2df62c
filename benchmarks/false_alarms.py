"""False alarms, promised and realised: of images, batches and streams; in simulations and, where given, on real images.

    python -m benchmarks.false_alarms [--quick] [--data FOLDER] [--pipeline SPLITS] [--output FILE.json]
        [--pictures FOLDER]

FOLDER holds magnetic-tiles/ (with manifest.csv) and fashion-mnist/ (as torchvision lays it out), or one of them; the
environment variable DATA names it too. Takes about eight minutes on one core; --quick less, with wider intervals.
--pipeline adds the whole pipeline on so many splits of the real images, minutes each.
"""

import argparse
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.special import logsumexp
from scipy.stats import binom, gamma

from ae_models.calibration import conformal_threshold, images_needed
from ae_models.curves import percent
from ae_models.monitoring import batch_verdict, smallest_alarming_count
from ae_models.stream import RATIOS, ChangeState, log_e_values
from benchmarks.false_alarms_at_work import pipeline_rows
from benchmarks.false_alarms_on_images import data_rows
from benchmarks.false_alarms_table import Row, at_most, rate_of, told
from flows.verdicts import NOMINAL_BATCHES

LAW = gamma(4)  # of nominal scores: positive and skewed, as mean squared errors are
Random = np.random.Generator


def image_rows(repeats: int, random: Random) -> Iterator[Row]:
    """The rate of one calibration is known exactly here: the law's tail above its threshold."""
    for rate in (0.05, 0.01):
        for n in (100, 300, 1000):
            for confidence in (None, 0.95):
                if n < images_needed(rate, confidence):
                    continue
                values = [
                    conformal_threshold(LAW.rvs(n, random_state=random), rate, confidence).value for _ in range(repeats)
                ]
                rates = LAW.sf(values)
                setting = f"n {n:,}, rate {percent(rate)}"
                if confidence is None:
                    error = float(rates.std() / np.sqrt(repeats))
                    found = f"{rates.mean():.2%} ± {error:.2%}"
                    yield Row("image, on average", setting, percent(rate), found, rates.mean() <= rate + 3 * error)
                else:
                    above = rate_of(int((rates > rate).sum()), repeats)
                    yield Row("image, calibrations above the rate", setting, "5%", told(above), at_most(above, 0.05))


def batch_rows(repeats: int, random: Random) -> Iterator[Row]:
    """Nominal batches against calibrations of their own, by all tests, by the flagged images alone, and naively."""
    for n in (300, 1000):
        for m in (20, 100, 1000):
            alarms = Counter[str]()
            example = conformal_threshold(np.arange(n), 0.01)
            exact_from = smallest_alarming_count(m, example, 0.02)  # half of which is the flagged images'
            for _ in range(repeats):
                nominal = LAW.rvs(n, random_state=random)
                unreadable = int(random.binomial(m, 0.01))
                scores = LAW.rvs(m - unreadable, random_state=random)
                threshold = conformal_threshold(nominal, 0.01)
                flagged = int(threshold.flags(scores).sum())
                verdict = batch_verdict(
                    len(scores), flagged, unreadable, threshold, 0.01, 0.01, scores=scores, calibration_scores=nominal
                )
                alarms["all"] += verdict.alarm
                flagged += int(threshold.flags(LAW.rvs(unreadable, random_state=random)).sum())
                alarms["exact"] += exact_from is not None and flagged >= exact_from
                alarms["naive"] += bool(binom.sf(flagged - 1, m, 0.01) <= 0.01)
            setting = f"n {n:,}, m {m:,}"
            for name, test in (
                ("all", "all tests"),
                ("exact", "flagged images, exact"),
                ("naive", "flagged images, naive"),
            ):
                found = rate_of(alarms[name], repeats)
                yield Row(f"nominal batch, {test}", setting, "1%", told(found), name == "naive" or at_most(found, 0.01))


def correlated_rows(repeats: int, random: Random) -> Iterator[Row]:
    """Batches whose flags are correlated, with and without 199 earlier ones to compare with."""
    threshold = conformal_threshold(np.arange(1000), 0.01)
    for correlation in (0.0, 0.01, 0.05):
        strength = 1 / correlation - 1 if correlation else 1e12

        def flags(size: int, strength: float = strength) -> list[int]:
            rates = random.beta(0.01 * strength, 0.99 * strength, size=size)
            return [int(flagged) for flagged in random.binomial(200, rates)]

        alone, compared = 0, 0
        for _ in range(repeats // 20):
            history = [(flagged, 200) for flagged in flags(199)]
            for flagged in flags(20):
                alone += batch_verdict(200, flagged, 0, threshold, 0.01, 0.01).alarm
                verdict = batch_verdict(200, flagged, 0, threshold, 0.01, 0.01, nominal_batches=history)
                compared += verdict.alarm
        setting = f"m 200, correlation {correlation:g}"
        for name, count in (("", alone), (", 199 earlier ones known", compared)):
            found = rate_of(count, repeats // 20 * 20)
            kept = at_most(found, 0.005) or (correlation > 0 and not name)
            yield Row(f"nominal batch, flagged images{name}", setting, "0.5%", told(found), kept)


def marked_rows(repeats: int, random: Random) -> Iterator[Row]:
    """Batches as they come, whose flags are correlated and of which 2% are bad lots, while people mark false alarms.

    As in the ledger, a batch is compared with the last 1,000 that did not alarm or were marked, which is 10 batches
    after it. Of each 800 the first 400 are not counted: the comparison takes 199 that are known.
    """
    threshold = conformal_threshold(np.arange(1000), 0.01)
    for correlation in (0.01, 0.05):
        for marked in (0.0, 0.5, 1.0):
            alarms, totals = Counter[str](), Counter[str]()
            for _ in range(repeats):
                history, waiting = deque[tuple[int, int]](maxlen=NOMINAL_BATCHES), deque[tuple[int, int]]()
                for place in range(800):
                    kind, rate = ("bad", 0.1) if random.random() < 0.02 else ("nominal", 0.01)
                    strength = 1 / correlation - 1
                    flagged = int(random.binomial(200, random.beta(rate * strength, (1 - rate) * strength)))
                    verdict = batch_verdict(200, flagged, 0, threshold, 0.01, 0.01, nominal_batches=tuple(history))
                    if place >= 400:
                        alarms[kind] += verdict.alarm
                        totals[kind] += 1
                    if not verdict.alarm:
                        history.append((flagged, 200))
                    elif kind == "nominal" and random.random() < marked:
                        waiting.append((place, flagged))
                    while waiting and waiting[0][0] <= place - 10:
                        history.append((waiting.popleft()[1], 200))
            setting = f"m 200, correlation {correlation:g}, {marked:.0%} of false alarms marked"
            found = rate_of(alarms["nominal"], totals["nominal"])
            kept = at_most(found, 0.005) or marked < 1
            yield Row("nominal batch at work, flagged images", setting, "0.5%", told(found), kept)
            noticed = told(rate_of(alarms["bad"], totals["bad"]))
            yield Row("bad lot at work, 10% flagged", setting, "", noticed, True)


def stream_rows(repeats: int, random: Random) -> Iterator[Row]:
    """Whole streams: a false alarm at any time, the naive likelihood ratio beside it, delays, and run lengths."""
    scored = 100 * np.arange(1, 501)
    for n in (300, 1000):
        exceedances = n // 100
        rates = random.beta(exceedances, n + 1 - exceedances, size=(repeats, 1))
        flagged = random.binomial(100, rates, size=(repeats, 500)).cumsum(axis=1)
        evidence = {
            "e-process": log_e_values(flagged, scored, exceedances, n),
            "naive": _naive_evidence(flagged, scored),
        }
        for name, logarithms in evidence.items():
            for budget in (0.05, 0.01):
                found = rate_of(int((logarithms.max(axis=1) >= -np.log(budget)).sum()), repeats)
                kept = name == "naive" or at_most(found, budget)
                yield Row(
                    f"nominal stream ever, {name}", f"n {n:,}, 500 batches of 100", percent(budget), told(found), kept
                )
    for rate in (0.05, 0.03, 0.02):
        flagged = random.binomial(100, rate, size=(repeats, 500)).cumsum(axis=1)
        alarms = log_e_values(flagged, scored, 10, 1000) >= np.log(20)
        median = float(np.median(np.where(alarms.any(axis=1), alarms.argmax(axis=1) + 1, np.inf)))
        delay = f"{median:g} batches (median)" if np.isfinite(median) else "more than 500 batches (median)"
        yield Row("stream's delay, e-process", f"n 1,000, true rate {percent(rate)}", "", delay, True)
    state, alarms_raised = ChangeState.start(conformal_threshold(np.arange(1000), 0.01, 0.95), 500), 0
    batches = 100 * repeats
    for count in random.binomial(100, 0.01, size=batches).tolist():
        state = state.after(count, 100)
        alarms_raised += state.alarm
    length = f"{batches / max(1, alarms_raised):,.0f} batches"
    yield Row(
        "change detector's run length", "at the full rate of 1%", "500 batches", length, alarms_raised <= batches / 500
    )


def _naive_evidence(flagged: NDArray[np.int64], scored: NDArray[np.int64]) -> NDArray[np.float64]:
    """The likelihood ratio that takes 1% for the true rate."""
    worse = 0.01 * RATIOS
    hits, misses = flagged[..., None], (scored - flagged)[..., None]
    ratios = hits * np.log(worse / 0.01) + misses * np.log((1 - worse) / 0.99)
    return np.asarray(logsumexp(ratios, axis=-1) - np.log(len(RATIOS)))


def diagnosis_rows(repeats: int, random: Random) -> Iterator[Row]:
    """What ails a batch of 200, n = 1,000: which name the verdict gives it."""

    def mixed(share: float) -> NDArray[np.float64]:
        defects = 3 * LAW.std() + LAW.ppf(0.99) * (1 + random.random(200))
        return np.where(random.random(200) < share, defects, LAW.rvs(200, random_state=random))

    def moved(shift: float, scale: float) -> NDArray[np.float64]:
        return np.asarray(scale * LAW.rvs(200, random_state=random) + shift * LAW.std())

    cases: list[tuple[str, str, Callable[[], NDArray[np.float64]]]] = [
        *((f"{share:.0%} defects", "defects", partial(mixed, share)) for share in (0.02, 0.05, 0.1, 0.2)),
        ("moved by 0.5 deviations", "moved", partial(moved, 0.5, 1)),
        ("moved by 1 deviation", "moved", partial(moved, 1, 1)),
        ("moved by 4 deviations", "moved", partial(moved, 4, 1)),
        ("moved down by 0.5", "moved", partial(moved, -0.5, 1)),
        ("all scores x 1.5", "moved", partial(moved, 0, 1.5)),
    ]
    for setting, right, draw in cases:
        names = Counter[str]()
        for _ in range(repeats):
            nominal, scores = LAW.rvs(1000, random_state=random), draw()
            threshold = conformal_threshold(nominal, 0.01)
            flagged = int(threshold.flags(scores).sum())
            verdict = batch_verdict(200, flagged, 0, threshold, 0.01, 0.01, scores=scores, calibration_scores=nominal)
            names[verdict.diagnosis] += 1
        shares = ", ".join(f"{name} {count / repeats:.0%}" for name, count in names.most_common())
        wrong = sum(count for name, count in names.items() if name not in ("none", right))
        yield Row("what ails a batch of 200", setting, right, shares, wrong <= 0.05 * repeats)


def power_row(repeats: int, random: Random) -> Iterator[Row]:
    """The power that is asked for: 5% flagged, m = 200, n = 1,000, rate 1%."""
    alarms = Counter[str]()
    for _ in range(repeats):
        nominal, scores = LAW.rvs(1000, random_state=random), LAW.rvs(200, random_state=random)
        threshold = conformal_threshold(nominal, 0.01)
        scores[random.random(200) < 0.05] = 2 * nominal.max()
        flagged = int(threshold.flags(scores).sum())
        for budget in (0.01, 0.02):
            alarms[percent(budget)] += batch_verdict(200, flagged, 0, threshold, budget, 0.01).alarm
    for spent, count in alarms.items():
        found = rate_of(count, repeats)
        yield Row(
            "power, 5% defects all caught", f"n 1,000, m 200, budget {spent}", "85%", told(found), found.high >= 0.85
        )


def pictures(folder: Path, random: Random) -> None:
    """How the naive tests break their promise: of batches by calibration size, and of a stream over time."""
    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes = [100, 200, 300, 500, 1000, 2000, 5000]
    for name in ("exact", "naive"):
        shares = []
        for n in sizes:
            rates = random.beta(n // 100, n + 1 - n // 100, size=200_000)
            example = conformal_threshold(np.arange(n), 0.01)
            exact_from = smallest_alarming_count(1000, example, 0.02)
            alarms_from = exact_from if name == "exact" else int(binom.ppf(0.99, 1000, 0.01)) + 1
            assert alarms_from is not None
            shares.append(100 * np.mean(binom.sf(alarms_from - 1, 1000, rates)))
        left.plot(sizes, shares, marker="o", label=name)
    left.axhline(1, color="grey", linestyle="--", label="promised")
    left.set(
        xscale="log", xlabel="calibration images", ylabel="nominal batches that alarm (%)", title="Batches of 1,000"
    )
    scored = 100 * np.arange(1, 501)
    flagged = random.binomial(100, random.beta(10, 991, size=(2000, 1)), size=(2000, 500)).cumsum(axis=1)
    evidence = {"e-process": log_e_values(flagged, scored, 10, 1000), "naive": _naive_evidence(flagged, scored)}
    for name, logarithms in evidence.items():
        ever = np.maximum.accumulate(logarithms, axis=1) >= np.log(20)
        right.plot(np.arange(1, 501), 100 * ever.mean(axis=0), label=name)
    right.axhline(5, color="grey", linestyle="--", label="promised")
    right.set(
        xlabel="batches of 100",
        ylabel="nominal streams that alarmed so far (%)",
        title="Streams, 1,000 calibration images",
    )
    for axes in (left, right):
        axes.legend()
    figure.savefig(folder / "false-alarms.png", dpi=90)


def main() -> None:
    """Print the table; write it and the pictures where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the repeats")
    parser.add_argument("--data", type=Path, default=os.environ.get("DATA"), help="the folder of the real images")
    parser.add_argument("--pipeline", type=int, default=0, help="splits of the real images for the whole pipeline")
    parser.add_argument("--output", type=Path, help="a JSON file for the rows")
    parser.add_argument("--pictures", type=Path, help="a folder for the pictures of the guide")
    arguments = parser.parse_args()
    start, random, less = perf_counter(), np.random.default_rng(0), 10 if arguments.quick else 1
    parts = [
        (image_rows, 1000),
        (batch_rows, 2000),
        (correlated_rows, 20000),
        (stream_rows, 2000),
        (diagnosis_rows, 400),
        (power_row, 2000),
        (marked_rows, 20),
    ]
    rows = [row for part, repeats in track(parts, "Simulations") for row in part(repeats // less, random)]
    if arguments.data:
        rows += data_rows(Path(arguments.data), 30 // (less // 2 or 1), arguments.pictures)
    if arguments.data and arguments.pipeline:
        rows += pipeline_rows(Path(arguments.data), arguments.pipeline)
    if arguments.pictures:
        pictures(arguments.pictures, random)
    table = Table("what", "setting", "promised", "realised", "kept", title="False alarms")
    for row in rows:
        table.add_row(row.what, row.setting, row.promised, row.realised, "yes" if row.kept else "NO")
    Console(width=160).print(table)
    if arguments.output:
        document = {"seconds": round(perf_counter() - start), "rows": [asdict(row) for row in rows]}
        arguments.output.write_text(json.dumps(document, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
