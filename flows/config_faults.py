"""The faults of pipelines.yaml in words: where each one is, what was written, and what to do or which choices exist."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic_core import ErrorDetails, ValidationError

from flows.words import one_line

Location = tuple[str | int, ...]
SHOWN = 50  # faults of one file; who has corrected these is told of the next
LONGEST = 1000  # characters of one of them: keys and words of the file may be of any length


@dataclass(frozen=True, order=True)
class Fault:
    """One fault: its line (1-based), the path of its key, and a sentence without its final stop."""

    line: int
    path: str
    sentence: str


@dataclass(frozen=True)
class Vocabulary:
    """What the wording knows of the models: the keys of each section (by name or union tag) and patterns in words."""

    keys: Mapping[str, Iterable[str]]
    patterns: Mapping[str, str]


# One line a pydantic error type, filled with {value} and the error's own context (`gt`, `min_length`, ...).
_SENTENCES = {
    "missing": "missing",
    "int_type": "{value} is not a whole number",
    "int_parsing": "{value} is not a whole number",
    "int_parsing_size": "{value} is too large",
    "int_from_float": "{value} is not a whole number",
    "float_type": "{value} is not a number",
    "float_parsing": "{value} is not a number",
    "finite_number": "{value} is not a finite number",
    "bool_type": "{value} is neither true nor false",
    "bool_parsing": "{value} is neither true nor false",
    "string_type": "{value} is not text; put it in quotes",
    "string_too_short": "is empty text",
    "path_type": "{value} is not a path",
    "greater_than": "{value} must be greater than {gt}",
    "greater_than_equal": "{value} must be at least {ge}",
    "less_than": "{value} must be less than {lt}",
    "less_than_equal": "{value} must be at most {le}",
    "tuple_type": "{value} is not a list",
    "dict_type": "{value} is not a mapping (keys and their values)",
    "model_type": "{value} is not a mapping (keys and their values)",
    "too_short": "needs at least {min_length}, got {actual_length}",
    "too_long": "takes at most {max_length}, got {actual_length}",
}


def written(location: Sequence[str | int]) -> str:
    """The path as people read it: `pipelines.tiles.alerts[0].url`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def nearest(name: object, choices: Iterable[str]) -> str:
    """`; did you mean 'model'?`, or nothing where no choice is near."""
    match = difflib.get_close_matches(str(name), list(choices), n=1)
    return f"; did you mean '{match[0]}'?" if match else ""


def message(path: Path, faults: Iterable[Fault]) -> str:
    """The one message: the file with the number of faults, then a line for each fault, in the file's order.

    Of a file with many, the first are told.
    """
    ordered = sorted(set(faults))
    counted = "1 fault" if len(ordered) == 1 else f"{len(ordered):,} faults"
    counted += f", of which these are the first {SHOWN}" if len(ordered) > SHOWN else ""
    told = [one_line(f"{fault.path}{': ' * bool(fault.path)}{fault.sentence}", LONGEST) for fault in ordered[:SHOWN]]
    lines = [f"line {fault.line}  {words}" for fault, words in zip(ordered, told, strict=False)]
    return "\n".join([f"{path.name} ({path}): {counted}", *lines])


def model_faults(
    error: ValidationError, lines: Mapping[Location, int], unknown: Collection[Location], vocabulary: Vocabulary
) -> list[Fault]:
    """The faults that a pydantic error stands for, less those of values that are `unknown` (a variable is not set)."""
    return [
        _model_fault(detail, lines, vocabulary)
        for detail in map(_of_its_key, error.errors(include_url=False))
        if not any(detail["loc"][:depth] in unknown for depth in range(len(detail["loc"]) + 1))
        # A list whose items have faults is called too short as well.
        and not (detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"])
    ]


def _model_fault(error: ErrorDetails, lines: Mapping[Location, int], vocabulary: Vocabulary) -> Fault:
    kind, location = error["type"], error["loc"]
    path = tuple(part for part in location if not str(part).startswith("<"))
    known = path
    while known not in lines and known:
        known = known[:-1]  # a shorthand (`model: linear`) has no keys below it
    sentence = _unknown_key(location, vocabulary) if kind == "extra_forbidden" else _sentence(error, vocabulary)
    return Fault(lines.get(known, 1), written(path if kind == "missing" else known), sentence)


def _of_its_key(error: ErrorDetails) -> ErrorDetails:
    """A wrong choice between models, told of the key that chooses (`network:`) where the file has it."""
    given = error["input"]
    if error["type"] != "choice" or not isinstance(given, Mapping) or error["ctx"]["key"] not in given:
        return error
    key = error["ctx"]["key"]
    return ErrorDetails(
        type="literal_error", loc=(*error["loc"], key), msg=error["msg"], input=given[key], ctx=error["ctx"]
    )


def _unknown_key(location: Location, vocabulary: Vocabulary) -> str:
    outermost = {1: "settings", 3: "pipeline"}.get(len(location))
    section = outermost or next(str(part) for part in reversed(location[:-1]) if part in vocabulary.keys)
    choices = sorted(vocabulary.keys[section])
    return f"unknown key{nearest(location[-1], choices)} (choices: {', '.join(choices)})"


def _sentence(error: ErrorDetails, vocabulary: Vocabulary) -> str:
    kind, context = error["type"], error.get("ctx", {})
    # What stands under `alerts` may hold a secret, whatever key it was written at: it is never shown.
    value = "this" if "alerts" in error["loc"][2:3] else _shown(error["input"])
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch":
        return f"{value} is not {vocabulary.patterns.get(context['pattern'], context['pattern'])}"
    if kind == "literal_error":
        return _choice(error["input"], value, context["expected"])
    if kind == "choice":
        given = "has no" if isinstance(error["input"], Mapping) else f"{value} is not a mapping with the"
        return f"{given} key '{context['key']}' (choices: {', '.join(_choices(context['expected']))})"
    if kind in ("dict_type", "model_type") and error["input"] is None:
        return "is empty; write something below it, or delete the key"
    if kind not in _SENTENCES:
        return error["msg"]
    limits = {key: int(limit) if limit in (0, 1) else limit for key, limit in context.items()}  # 1, not 1.0
    return _SENTENCES[kind].format(**limits, value=value)


def _choice(given: object, value: str, expected: str) -> str:
    choices = _choices(expected)
    return f"{value} is not one of the choices{nearest(given, choices)} (choices: {', '.join(choices)})"


def _choices(expected: str) -> list[str]:
    return [choice.strip("'") for choice in re.split(", | or ", expected)]


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
