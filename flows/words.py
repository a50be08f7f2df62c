"""Words of others, as text of one line."""


def one_line(text: str, longest: int = 10_000) -> str:
    """The text on one line of at most so many characters; control characters, which file names may hold, are spaces."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
