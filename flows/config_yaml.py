"""pipelines.yaml as plain values, each with its line: variables are expanded, YAML 1.1's surprises are refused."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ae_models.errors import InputError
from flows.config_faults import Fault, Location, written

LARGEST = 5_000_000  # bytes of the file; a thousand pipelines take a fifth of it
LARGEST_EXPANSION = 10_000  # values, once every alias is written out

_TAG = "tag:yaml.org,2002:"
_TEXT_TAGS = ("str", "bool", "int", "float", "timestamp", "value", "merge")
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\}|\$\{")


@dataclass
class Document:
    """The values of the file, the line of each path, the faults found so far, and the paths whose value is unknown.

    Attributes:
        expanded: the paths whose text holds a variable.
    """

    environment: Mapping[str, str]
    values: Any = None
    lines: dict[Location, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    unknown: set[Location] = field(default_factory=set)
    expanded: set[Location] = field(default_factory=set)

    def add_fault(self, path: Location, line: int, sentence: str) -> None:
        """Record a fault that is not the models' to find."""
        self.faults.append(Fault(line, written(path), sentence))


def read(path: Path, environment: Mapping[str, str]) -> Document:
    """The document in `path`; raises InputError where there is none (no file, not YAML, nothing in it)."""
    text = _text(path)
    document = Document(environment)
    problem = None
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is not None:
            _check(document, root)
            document.values = _value(document, loader, root, ())
    except yaml.MarkedYAMLError as error:
        line = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = f"is not valid YAML{line}: {error.problem or error.context}"
    except yaml.reader.ReaderError as error:
        line_number = text.count("\n", 0, int(error.position)) + 1
        problem = f"is not valid YAML at line {line_number}: a control character that no text may hold"
    except RecursionError:
        problem = "is nested too deeply"
    if problem is None and document.values is None:
        problem = "is empty: write 'pipelines:' and a pipeline below it, or let 'reconwatch init FOLDER' write one"
    elif problem is None and not isinstance(document.values, dict):
        problem = "does not start with a key: write 'pipelines:' at its top and a pipeline below it"
    if problem:
        raise InputError(f"{path.name} ({path}) {problem}")
    return document


def _text(path: Path) -> str:
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the file, such as {path / 'pipelines.yaml'}")
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path.name} ({path}) has more than {LARGEST:,} bytes: is it another file?")
        return path.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"no {path.name} in {path.parent}: 'reconwatch init FOLDER' writes one") from None
    except OSError as error:
        raise InputError(f"{path.name} ({path}) cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} ({path}) is not UTF-8 text (byte {error.start}): save it as UTF-8") from None


def _check(document: Document, root: yaml.Node) -> None:
    """Record duplicate keys and keys that are not text; raises where aliases are circular or expand without measure."""
    sizes: dict[int, int] = {}  # node -> number of values in it, with each alias written out; 0 while it is open

    def visit(node: yaml.Node, path: Location) -> int:
        if id(node) in sizes:
            if not sizes[id(node)]:
                raise yaml.MarkedYAMLError(problem="an alias (*) refers to itself", problem_mark=node.start_mark)
            return sizes[id(node)]
        sizes[id(node)] = 0
        size = 1
        if isinstance(node, yaml.SequenceNode):
            size += sum(visit(item, (*path, index)) for index, item in enumerate(node.value))
        elif isinstance(node, yaml.MappingNode):
            _check_keys(document, node, path)
            size += sum(visit(value, (*path, str(key.value))) for key, value in node.value)
        sizes[id(node)] = size
        return size

    if visit(root, ()) > max(LARGEST_EXPANSION, len(sizes)):
        sentence = f"its aliases (*) expand to more than {LARGEST_EXPANSION:,} values"
        raise yaml.MarkedYAMLError(problem=sentence, problem_mark=root.start_mark)


def _check_keys(document: Document, node: yaml.MappingNode, path: Location) -> None:
    first_lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=key.start_mark)
        if key.tag == f"{_TAG}merge":
            continue
        if key.tag != f"{_TAG}str":
            kind = key.tag.removeprefix(_TAG)
            document.add_fault(
                (*path, key.value), line, f"YAML reads this key as {kind}, not as text: quote it, '{key.value}'"
            )
        if key.value in first_lines:
            document.add_fault((*path, key.value), line, f"the key is already at line {first_lines[key.value]}")
        first_lines.setdefault(key.value, line)


def _value(document: Document, loader: yaml.SafeLoader, node: yaml.Node, path: Location) -> Any:
    document.lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
        loader.flatten_mapping(node)  # puts what `<<` merges in front, so that a mapping's own keys win
        pairs = {key.value: (key, value) for key, value in node.value}
        document.lines.update({(*path, name): key.start_mark.line + 1 for name, (key, _) in pairs.items()})
        return {name: _value(document, loader, value, (*path, name)) for name, (_, value) in pairs.items()}
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
        return [_value(document, loader, item, (*path, index)) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(document, loader, node, path)
    raise yaml.MarkedYAMLError(problem=f"the tag {node.tag} is not supported", problem_mark=node.start_mark)


def _scalar(document: Document, loader: yaml.SafeLoader, node: yaml.ScalarNode, path: Location) -> Any:
    kind, text = node.tag.removeprefix(_TAG), node.value
    # Only what everybody reads as a number or a truth value is one: 0123, 12:30, no and on stay text.
    plain = {
        "null": True,
        "bool": text.lower() in ("true", "false"),
        "int": _DECIMAL.fullmatch(text) is not None,
        "float": ":" not in text,
    }
    if plain.get(kind):
        try:
            return loader.construct_object(node)
        except ValueError:
            raise yaml.MarkedYAMLError(problem="not a number", problem_mark=node.start_mark) from None
    if kind in _TEXT_TAGS:
        return _expanded(document, text, path)
    raise yaml.MarkedYAMLError(problem=f"the tag {node.tag} is not supported", problem_mark=node.start_mark)


def _expanded(document: Document, text: str, path: Location) -> str:
    def replacement(match: re.Match[str]) -> str:
        name, default = match.groups()
        if match[0] == "$${":
            return "${"
        document.expanded.add(path)
        value = document.environment.get(name or "", "") or default
        if value is None and name in document.environment:
            return ""
        if value is not None:
            return value
        document.unknown.add(path)
        sentence = (
            f"the variable {name} is not set: export it, or give a default, ${{{name}:-...}}"
            if name
            else "'${' must be followed by NAME} or NAME:-default}; for the characters themselves write '$${'"
        )
        document.add_fault(path, document.lines[path], sentence)
        return match[0]

    return _VARIABLE.sub(replacement, text)
