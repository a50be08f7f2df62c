"""Alerts in chat rooms: Slack and Microsoft Teams.

File names and names of batches stand in elements that both show as they are: no markup is read from them, no link made
of them, and nobody is called by them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flows.alerts import Tone, tone
from flows.channels_http import TIMEOUT, post
from flows.words import one_line

# What the services take at most, in characters.
SLACK_TITLE, SLACK_TEXT, LINK = 150, 2500, 2000
TEAMS_TEXT = 5000  # the whole card may have 28 KB

_STYLES: Mapping[Tone, str] = {"good": "good", "info": "accent", "warning": "warning", "critical": "attention"}


@dataclass(frozen=True)
class SlackChannel:
    """A message through one of Slack's incoming webhooks.

    Attributes:
        url: gives the secret address.
    """

    name: str
    url: Callable[[], str] = field(repr=False)
    timeout: float = TIMEOUT

    def send(self, payload: Mapping[str, Any]) -> None:
        """Posts the alert; any answer but 2xx, and none in time, raises DeliveryFailed."""
        post(f"Slack '{self.name}'", self.url(), slack_message(payload), timeout=self.timeout)


@dataclass(frozen=True)
class TeamsChannel:
    """A card through a workflow of Microsoft Teams ("When a Teams webhook request is received").

    Attributes:
        url: gives the secret address.
    """

    name: str
    url: Callable[[], str] = field(repr=False)
    timeout: float = TIMEOUT

    def send(self, payload: Mapping[str, Any]) -> None:
        """Posts the alert; any answer but 2xx, and none in time, raises DeliveryFailed."""
        post(f"Teams '{self.name}'", self.url(), teams_message(payload), timeout=self.timeout)


def slack_message(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The alert in Slack's blocks, with the plain text for notifications and for rooms that know no blocks."""
    title = one_line(payload["title"], SLACK_TITLE)
    blocks: list[dict[str, Any]] = [{"type": "header", "text": _plain_text(title)}, _slack_section(payload)]
    if links := _links(payload):
        buttons = [{"type": "button", "text": _plain_text(words), "url": url} for words, url in links.items()]
        blocks.append({"type": "actions", "elements": buttons})
    return {"text": _slack_escaped(payload["text"][:SLACK_TEXT]), "mrkdwn": False, "blocks": blocks}


def _slack_section(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Rich text, whose parts Slack shows as they are; its mrkdwn has no escape for the `*` and `_` of file names."""

    def said(text: str) -> dict[str, Any]:
        shown = {"type": "text", "text": one_line(text, SLACK_TEXT)}
        return {"type": "rich_text_section", "elements": [shown]}

    elements = [said(f"{payload['severity'].upper()}. {payload['sentences']}")]
    if payload["worst"]:
        elements.append(said("Worst images:"))
        elements.append({"type": "rich_text_list", "style": "ordered", "elements": list(map(said, payload["worst"]))})
    return {"type": "rich_text", "elements": elements}


def _plain_text(text: str) -> dict[str, Any]:
    return {"type": "plain_text", "text": text, "emoji": False}


def _slack_escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def teams_message(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The alert as an Adaptive Card, in the message that a workflow passes on."""
    title = _teams_text(payload["title"], size="Large", weight="Bolder")
    body: list[dict[str, Any]] = [
        {"type": "Container", "style": _STYLES[tone(payload)], "bleed": True, "items": [_teams_block(title)]},
        _teams_block(_teams_text(f"{payload['severity'].upper()}. {payload['sentences']}")),
    ]
    if payload["worst"]:
        body.append(_teams_block(_teams_text("Worst images:", weight="Bolder")))
        body += [_teams_block(_teams_text(name)) for name in payload["worst"]]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "msteams": {"width": "Full"},
        "body": body,
        "actions": [{"type": "Action.OpenUrl", "title": words, "url": url} for words, url in _links(payload).items()],
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _teams_block(run: dict[str, Any]) -> dict[str, Any]:
    """A block of rich text, which reads no Markdown, as a TextBlock would."""
    return {"type": "RichTextBlock", "inlines": [run]}


def _teams_text(text: str, **look: str) -> dict[str, Any]:
    return {"type": "TextRun", "text": one_line(text, TEAMS_TEXT), **look}


def _links(payload: Mapping[str, Any]) -> dict[str, str]:
    """Where people may go on, by what they find there."""
    links = {"See the pictures": payload["run_url"], "Label its images": payload.get("review_url")}
    usable = (url and url.startswith(("http://", "https://")) and len(url) <= LINK for url in links.values())
    return {words: url for (words, url), use in zip(links.items(), usable, strict=True) if use}
