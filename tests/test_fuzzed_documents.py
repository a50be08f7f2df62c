"""Damaged pipelines.yaml, manifests and tables of scores: a valid result or one clear sentence, in bounded time."""

import io
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from ae_models.errors import InputError
from flows.config import DataConfig, ManifestSource, load
from flows.processes import highest_memory
from flows.sources import inbox_batches, nominal_items
from flows.tracking import ArtifactMissing
from flows.tracking.scores import read_scores
from tests.fuzzing import spoiled, told

FILES = 1000  # of each kind
LONGEST = 10_000  # characters of what is said of a file; a pipelines.yaml may have many faults
SECONDS = 60.0  # processor time of one file
MEMORY = 2**30  # bytes above what the process holds before the first file
ENVIRONMENT = {"HOOK": "https://hooks.example.com/x", "LIMIT": "12"}
WHOLE = """
workspace: store
dashboard: https://mlflow.example.com/
schedule: {score: "*/10 * * * *"}
pipelines:
  tiles:
    data: &data
      nominal: {manifest: tables/tiles.parquet, where: {label: good, side: [1, 2]}, root: images}
      inbox: inbox/*/new
      labelled: {nominal: ok, anomalous: {path: broken}}
      nominal_labels: [fine]
      group: part_(\\d+)
      size: [96, 128]
      channels: 1
    model: {network: convolutional, widths: [16, 32], convolutions: 2, decoder: transposed, code_channels: 8}
    training: {epochs: 5, learning_rate: 1e-2, device: cuda:1, seed: 7}
    threshold: {method: f_score, beta: 2}
    monitor: {batch_false_alarm_rate: 0.05, unreadable_rate: 0, expect_batch_every: 2h}
    alerts: [log, {type: webhook, name: shift-lead, url: "${HOOK}"}, {type: webhook, block: line-one}]
  copies:
    data: *data
    threshold: {method: f_score, beta: 1}
  digits:
    data:
      nominal: {torchvision: MNIST, root: "${DATA:-torch}", train: true, classes: [0, 1], limit: "${LIMIT}"}
      inbox: {torchvision: SVHN, root: torch, split: test, batch_size: 100}
    model: linear
    threshold: {confidence: 0.9}
    runner: {type: processes, workers: 2}
"""
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**400, -(10**400), 0.5, 1e-320, 1e308),
    *(float("inf"), float("nan"), "", " ", "\0", "a\0b", "\n", "../../..", "/", "~", "~nobody/x", "file:///etc/passwd"),
    *("s3://", "s3://[", "http://[::1", "http://a:99999/", "zip://x", "${", "${NOWHERE}", "$${", "${HOOK}", "%s", "{}"),
    *("x" * 100_000, "\ud7ff\U0010ffff", "9" * 5000, "1e999", "99999999999999 days", "1 eon", "* * * * *", "["),
    *([], {}, [[]], [{}], {"": None}, {"x": {"y": {"z": []}}}, [1] * 1000, {str(n): n for n in range(1000)}),
)
TABLE = pd.DataFrame(
    {
        "path": [f"part-{place}/image, {place}.png" for place in range(30)],
        "label": ["nominal", "broken", "NA"] * 10,
        "group": ["a", "b"] * 15,
        "timestamp": ["2024-05-17T12:30:00", None, "2024-05-17T12:30:00+02:00"] * 10,
        "batch": [f"batch {place // 10}" for place in range(30)],
        "side": range(30),
    }
)
SCORES = pd.DataFrame(
    {
        "uri": [f"image-{place}.png" for place in range(30)],
        "score": [place / 7 for place in range(29)] + [float("nan")],
        "p_value": [1 / (place + 1) for place in range(29)] + [float("nan")],
        "flagged": [False] * 25 + [True] * 5,
        "status": ["scored"] * 29 + ["unreadable"],
        "reason": [""] * 29 + ["no image"],
        "review": [False] * 30,
        "audit": [True, False] * 15,
    }
)


def parquet(table: pd.DataFrame, **options: Any) -> bytes:
    file = io.BytesIO()
    table.to_parquet(file, index=False, **options)
    return file.getvalue()


def yaml_bombs() -> dict[str, bytes]:
    """Small files that say far more than they weigh, or that take a reader long."""
    laughs = ["a0: &a0 [lol, lol]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30))]
    merges = ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 30))]
    chain = ["a0: &a0 {x0: 1}", *(f"a{n}: &a{n} {{<<: *a{n - 1}, x{n}: 1}}" for n in range(1, 3000))]
    text = {
        "billion laughs": "\n".join(laughs),
        "billion merges": "\n".join(merges),
        "chain of merges": "\n".join(chain),
        "itself": "a: &a [*a]",
        "itself by merging": "a: &a {<<: *a}",
        "deep lists": "[" * 100_000,
        "deep mappings": "{a: " * 100_000,
        "deep blocks": "\n".join(" " * n + "a:" for n in range(3000)),
        "deep dashes": "- " * 100_000 + "a",
        "deep within limits": "pipelines: " + "[" * 150 + "]" * 150,
        "long number": "pipelines: " + "9" * 200_000,
        "long hexadecimal": "pipelines: 0x" + "f" * 200_000,
        "long binary": "pipelines: 0b" + "1" * 200_000,
        "sexagesimal": "pipelines: " + "59:" * 50_000 + "59",
        "large exponent": "pipelines: 1e999999999",
        "many digits": "pipelines: 0." + "1" * 200_000,
        "not a date": "pipelines: 9999-99-99",
        "long text": "pipelines: " + "x" * 3_000_000,
        "long key": "x" * 200_000 + ": 1",
        "many pipelines that are none": "pipelines:\n" + "".join(f"  p{n}: {n}\n" for n in range(20_000)),
        "many unknown keys": "".join(f"key{n}: {n}\n" for n in range(20_000)),
        "one key many times": "pipelines: 1\n" * 20_000,
        "many documents": "---\na: 1\n" * 20_000,
        "keys that are lists": "? [a, b]\n: c\n",
        "keys that are mappings": "? {a: b}\n: c\n",
        "Python objects": "pipelines: !!python/object/apply:os.system ['exit 3']",
        "many anchors": "\n".join(f"a{n}: &a{n} 1" for n in range(20_000)),
        "unknown anchor": "pipelines: *nowhere",
        "unknown tag": "pipelines: !nothing 1",
        "tag directive": "%TAG ! tag:example.com,2000:\n---\npipelines: !x 1",
        "version directive": "%YAML 9.9\n---\npipelines: {}",
        "tabs": "pipelines:\n\ttiles: 1",
        "many variables": "pipelines: '" + "${HOOK}" * 100_000 + "'",
        "variables never closed": "pipelines: '" + "${A:-" * 100_000 + "'",
        "set": "pipelines: !!set {a, b}",
        "binary": "pipelines: !!binary '////'",
        "ordered": "pipelines: !!omap [a: 1, a: 2]",
        "only a scalar": "pipelines",
        "quotes never closed": "pipelines: '" + "x\n" * 50_000,
        "large": WHOLE + "# comment\n" * 2_000_000,
    }
    bombs = {name: content.encode() for name, content in text.items()}
    wide = WHOLE.encode("utf-16"), WHOLE.encode("utf-32"), ("\N{LATIN SMALL LETTER E WITH ACUTE}: 1").encode("latin-1")
    return bombs | dict(zip(("UTF-16", "UTF-32", "Latin-1"), wide, strict=True)) | {"NULs": b"\0" * 1000, "empty": b""}


def csv_bombs() -> dict[str, bytes]:
    text = {
        "no row": "path,label\n",
        "no header": "\n" * 1000,
        "only commas": "," * 200_000,
        "many columns": ",".join(f"c{n}" for n in range(20_000)) + ",path\n",
        "columns of one name": "path,path,path\na,b,c\n",
        "rows of many lengths": "path,label\n" + "".join("a" + ",b" * (n % 7) + "\n" for n in range(1000)),
        "quote never closed": 'path\n"' + "x\n" * 200_000,
        "many quotes": 'path\n"' + '""' * 200_000 + '"\n',
        "long cell": "path\n" + "x" * 3_000_000 + "\n",
        "paths out": "path\n../../../etc/passwd\n",
        "paths of NULs": "path\na\0b\n",
        "paths that are addresses": "path\nhttp://127.0.0.1:1/x\n",
        "addresses that are none": "path,batch\nhttp://[::1,a\n",
        "many rows": "path,batch\n" + "".join(f"i{n}.png,{n}\n" for n in range(50_000)),
        "carriage returns": "path\ra\rb\r",
        "lone surrogates": "path\n\ufffe\n",
    }
    return {name: content.encode() for name, content in text.items()} | {
        "UTF-16": TABLE.to_csv(index=False).encode("utf-16"),
        "Latin-1": "path\nb\xe9.png\n".encode("latin-1"),
        "NULs": b"\0" * 100_000,
        "empty": b"",
    }


def parquet_bombs(table: pd.DataFrame) -> dict[str, bytes]:
    """Parquet files that are no tables of this kind, or far larger than they weigh."""
    names, first = [str(name) for name in table.columns], str(table.columns[0])

    def with_column(name: str, values: Any) -> bytes:
        changed = table.copy()
        changed[name] = values
        return parquet(changed)

    return {
        "empty": b"",
        "only its name": b"PAR1PAR1",
        "long footer": b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1",
        "no row": parquet(table.iloc[:0]),
        "no column": parquet(table[[]]),
        "many rows": parquet(pd.DataFrame({name: [table[name].iloc[0]] * 50_000 for name in table})),
        "many columns": parquet(pd.DataFrame({f"c{place}": [1] for place in range(3000)})),
        **{f"{name} as lists": with_column(name, [[1, 2]] * len(table)) for name in names},
        **{f"{name} as numbers": with_column(name, range(len(table))) for name in names},
        **{f"{name} as words": with_column(name, "word") for name in names},
        **{f"{name} as bytes": with_column(name, b"\xff\0") for name in names},
        **{f"{name} as nothing": with_column(name, None) for name in names},
        **{f"without {name}": parquet(table.drop(columns=name)) for name in names},
        f"{first} long": with_column(first, "x" * 1_000_000),
        f"{first} with NULs": with_column(first, "a\0b"),
        f"{first} as mappings": with_column(first, [{"a": 1}] * len(table)),
    }


def changed_tree(chance: random.Random) -> bytes:
    """The whole pipelines.yaml with one to three of its values hostile, its keys moved, doubled or gone."""
    document = yaml.safe_load(WHOLE)
    document = json.loads(json.dumps(document))  # without aliases
    for _ in range(chance.choice((1, 1, 2, 3))):
        places = list(_places(document))
        parent, key = chance.choice(places)
        match chance.randrange(4):
            case 0 | 1:
                parent[key] = chance.choice(HOSTILE)
            case 2:
                other, at = chance.choice(places)
                parent[key] = json.loads(json.dumps(other[at], default=str))
            case 3 if isinstance(parent, dict):
                parent[chance.choice(("", "x", "0", "null", "path", "type", "network"))] = parent.pop(key)
            case 3:
                del parent[key]
    return yaml.safe_dump(document, allow_unicode=True).encode()


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
    for key in keys:
        yield node, key
        yield from _places(node[key])


def fuzzed(kind: str, number: int) -> Iterator[tuple[str, bytes]]:
    """So many files of a kind by a name that makes each again: bombs, sound ones, and mutations of these."""
    sound: dict[str, dict[str, bytes]] = {
        "yaml": {"whole": WHOLE.encode()},
        "csv": {"table": TABLE.to_csv(index=False).encode(), "few": TABLE[["path"]].to_csv(index=False).encode()},
        "parquet": {
            "table": parquet(TABLE),
            "no compression": parquet(TABLE, compression="none", use_dictionary=False),
            "zstd": parquet(TABLE, compression="zstd", row_group_size=7),
        },
        "scores": {"scores": parquet(SCORES), "plain": parquet(SCORES, compression="none", use_dictionary=False)},
    }
    bombs: dict[str, Callable[[], dict[str, bytes]]] = {
        "yaml": yaml_bombs,
        "csv": csv_bombs,
        "parquet": lambda: parquet_bombs(TABLE),
        "scores": lambda: parquet_bombs(SCORES),
    }
    large = bombs[kind]()
    yield from list((sound[kind] | large).items())
    contents = [*sound[kind].items(), *((name, data) for name, data in large.items() if 0 < len(data) < 20_000)]
    for place in range(number):
        chance = random.Random(place)
        if kind == "yaml" and place % 2:
            yield f"tree {place}", changed_tree(chance)
            continue
        name, content = chance.choice([*contents, *list(sound[kind].items()) * 20])
        yield f"{name}, mutation {place}", spoiled(content, chance.choice(contents)[1], chance)


@dataclass(frozen=True)
class Outcome:
    """What became of one file: what was said, or '' where it was read; processor seconds; highest memory in bytes."""

    file: str
    said: str
    seconds: float
    memory: int


def read(path: Path) -> None:
    """Read a file as the product does, by its kind."""
    if path.suffix == ".yaml":
        load(path, ENVIRONMENT)
    elif path.suffix == ".scores":
        read_scores(path, "run 7")
    else:
        manifest = ManifestSource(manifest=path)
        data = DataConfig(nominal=manifest, inbox=manifest)
        for batch in inbox_batches(data):
            batch.stat_hash()
            batch.own_time()
        nominal_items(data)


def read_each(folder: Path, said: Connection) -> None:
    """In a process of its own: the name of each file before it is read, and its outcome after."""
    for path in sorted(folder.iterdir()):
        said.send(path.name)
        start, words = time.process_time(), ""
        try:
            read(path)
        except (InputError, ArtifactMissing) as error:
            words = str(error) or "NOTHING SAID"
        except Exception as error:
            words = f"ESCAPED {type(error).__name__}: {error}"
        said.send(Outcome(path.name, words, time.process_time() - start, highest_memory()))
    said.send(None)


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["yaml", "csv", "parquet", "scores"])
def test_every_fuzzed_document_is_valid_or_refused_in_clear_words(
    kind: str, tmp_path: Path, fault_count: Callable[[int], int]
) -> None:
    """No file ends the process, hangs, takes much memory or raises anything but what says which file and what of it."""
    names = {}
    for place, (name, content) in enumerate(fuzzed(kind, fault_count(FILES))):
        path = tmp_path / f"{place:05d}.{kind}"
        path.write_bytes(content)
        names[path.name] = name
    outcomes = [outcome for outcome in told(read_each, tmp_path) if isinstance(outcome, Outcome)]
    assert len(outcomes) == len(names)
    wrong = {names[outcome.file]: outcome.said[:300] for outcome in outcomes if not is_clear(kind, outcome)}
    slow = {names[outcome.file]: outcome.seconds for outcome in outcomes if outcome.seconds > SECONDS}
    growth = outcomes[-1].memory - outcomes[0].memory
    valid = sum(not outcome.said for outcome in outcomes)
    slowest = max(outcomes, key=lambda outcome: outcome.seconds)
    print(f"{kind}: {len(outcomes)} files, {valid} valid, {len(outcomes) - valid} refused")
    print(f"slowest {slowest.seconds:.2f} s ({names[slowest.file]}); memory grew by {growth / 2**20:.0f} MiB")
    heads = Counter(outcome.said.replace(str(tmp_path), "")[:90] for outcome in outcomes)
    print(*heads.most_common(15), sep="\n")
    assert wrong == {}
    assert slow == {}
    assert growth < MEMORY


def is_clear(kind: str, outcome: Outcome) -> bool:
    """Whether what is said is short text, one line but for the faults of a pipelines.yaml, that names the file."""
    said = outcome.said
    if not said:
        return True
    control = any(letter < " " and letter != "\n" for letter in said)
    named = outcome.file in said or kind == "scores"
    lines = said.count("\n") == 0 or kind == "yaml"
    return not said.startswith("ESCAPED") and not control and named and lines and len(said) <= LONGEST
