"""Words of others in Markdown."""


def as_text(words: str) -> str:
    """Words of others as Markdown that shows them as they are: no HTML, no links, no table cells of their own."""
    escaped = "".join(f"\\{letter}" if letter in r"\`*_{}[]()#+!|~" else letter for letter in words)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")
