"""Words of others, as text of one line."""

import re

DENIED = re.compile(r"API request to endpoint (\S+) failed with error code 403\b")  # as MLflow's client has it


def reason_of(error: BaseException) -> str:
    """Why something failed, in words for people."""
    words = str(error) or type(error).__name__
    if denied := DENIED.search(words):
        return (
            f"the MLflow server does not let this login do what was asked ({denied[1]}): who did not begin a pipeline "
            "needs a grant of MANAGE on its experiments (reconwatch/NAME and reconwatch/NAME review) and on its model, "
            "from whoever began it or from an administrator"
        )
    return words


def one_line(text: str, longest: int = 10_000) -> str:
    """The text on one line of at most so many characters; control characters, which file names may hold, are spaces."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
