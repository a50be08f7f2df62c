"""An alert as an e-mail: plain text and HTML, with the picture of the worst images inside."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from email import policy
from email.message import EmailMessage
from email.utils import format_datetime
from html import escape
from typing import Any

from PIL import Image

from flows.alerts import Tone, tone
from flows.words import one_line

SUBJECT = 200  # characters
LARGEST_PICTURE = 1_000_000  # bytes; what is larger is made smaller
LARGEST_SIDES = (2400, 1600, 1100, 750)  # pixels that are tried for it, one after the other

_COLOURS: Mapping[Tone, str] = {"good": "#2e7d32", "info": "#1565c0", "warning": "#b26a00", "critical": "#b71c1c"}
_PICTURE = "worst-images"  # the picture's name within the message


def email_message(
    payload: Mapping[str, Any], sender: str, recipients: Sequence[str], picture: bytes | None, now: datetime
) -> EmailMessage:
    """The message, whose Message-ID is that of the alert, so that a second copy is known for one.

    Args:
        picture: a PNG or JPEG, or None.
    """
    message = EmailMessage(policy=policy.SMTP)
    message["Subject"] = _subject(payload)
    message["From"], message["To"] = sender, ", ".join(recipients)
    message["Date"] = format_datetime(now)
    message["Message-ID"] = _identifier(payload["dedupe_key"], sender)
    if payload["incident"] != payload["dedupe_key"]:
        message["References"] = message["In-Reply-To"] = _identifier(payload["incident"], sender)
    message["Auto-Submitted"] = "auto-generated"  # no out-of-office notes in return
    message.set_content(payload["text"], cte="quoted-printable")
    message.add_alternative(_html(payload, picture is not None), subtype="html", cte="quoted-printable")
    if picture is not None:
        kind = "jpeg" if picture.startswith(b"\xff\xd8") else "png"
        page = message.get_body(("html",))
        assert page is not None
        page.add_related(picture, "image", kind, cid=f"<{_PICTURE}>", filename=f"worst.{kind}", disposition="inline")
    return message


def picture_for_email(png: bytes, largest: int = LARGEST_PICTURE) -> bytes | None:
    """The picture in at most so many bytes, as a smaller JPEG where need be; None where it is none, or too large."""
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            image.load()
            if len(png) <= largest:
                return png
            flat = image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    for side in LARGEST_SIDES:
        flat.thumbnail((side, side * 4))  # by its width, as mail programs show it
        file = io.BytesIO()
        flat.save(file, "JPEG", quality=80)
        if file.tell() <= largest:
            return file.getvalue()
    return None


def _subject(payload: Mapping[str, Any]) -> str:
    mark = "[critical] " if tone(payload) == "critical" else ""
    return one_line(f"{mark}{payload['title']}", SUBJECT)


def _identifier(key: str, sender: str) -> str:
    return f"<{hashlib.sha256(key.encode()).hexdigest()[:40]}@{sender.rpartition('@')[2]}>"


def _html(payload: Mapping[str, Any], has_picture: bool) -> str:
    colour = _COLOURS[tone(payload)]
    parts = [f'<p style="margin:0 0 16px">{escape(one_line(payload["sentences"]))}</p>']
    if payload["worst"]:
        names = "".join(f"<li>{escape(one_line(name))}</li>" for name in payload["worst"])
        parts.append(f'<p style="margin:0">Worst images:</p><ol style="margin:4px 0 16px">{names}</ol>')
    if has_picture:
        parts.append(
            f'<p style="margin:0 0 16px"><img src="cid:{_PICTURE}" alt="The worst images: input, reconstruction and '
            'error beside each other" style="max-width:100%;border:1px solid #ccc"></p>'
        )
    if payload["run_url"]:
        look = f"background:{colour};color:#fff;padding:8px 16px;border-radius:4px;text-decoration:none"
        parts.append(f'<p style="margin:0 0 16px"><a href="{escape(payload["run_url"])}" style="{look}">'
                     "See the pictures in MLflow</a></p>")  # fmt: skip
    if payload.get("review_url"):
        parts.append(f'<p style="margin:0 0 16px"><a href="{escape(payload["review_url"])}">Label its images</a></p>')
    facts = [payload["severity"], f"pipeline {payload['pipeline']}"]
    facts += [f"batch {payload['batch']}"] if payload["batch"] else []
    footer = escape(one_line(" · ".join(facts)))
    return f"""<!doctype html>
<html lang="en"><body style="margin:0;font-family:sans-serif;font-size:15px;line-height:1.4">
<div style="max-width:900px;border-top:6px solid {colour};padding:16px">
<h1 style="font-size:19px;margin:0 0 12px">{escape(one_line(payload["title"]))}</h1>
{"".join(parts)}
<p style="margin:0;color:#666;font-size:13px">{footer}</p>
</div></body></html>
"""
