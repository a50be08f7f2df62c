"""Whether a Prefect server is at hand, asked without the seconds that importing Prefect takes."""

import tomllib
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

SECONDS = 3.0
NOT_SET_UP = "no server is set up (PREFECT_API_URL)"


@dataclass(frozen=True)
class PrefectServer:
    """Its API's address, or None; and why none is at hand."""

    url: str | None
    reason: str = ""


def find_server(environment: Mapping[str, str]) -> PrefectServer:
    """The server of PREFECT_API_URL or of Prefect's active profile, where it answers within three seconds."""
    url = environment.get("PREFECT_API_URL") or _profile_url(environment)
    if not url:
        return PrefectServer(None, NOT_SET_UP)
    try:
        with _asked(url.rstrip("/")) as answer:
            if answer.headers.get_content_type() == "text/html":  # Prefect's own pages stand beside its API
                return PrefectServer(None, f"at {url} are web pages, and no API (its address ends in /api)")
            return PrefectServer(url)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return PrefectServer(url)  # it is there; Prefect brings the credentials
        why = ", as it does where its database is away" if error.code == 503 else ""
        return PrefectServer(None, f"the server at {url} answered {error.code}{why}")
    except (OSError, ValueError, HTTPException) as error:
        why = str(getattr(error, "reason", error)).strip()
        return PrefectServer(None, f"the server at {url} does not answer ({why})")


def _asked(url: str) -> Any:
    """The answer to whether it is ready: a server whose database is away is healthy, and can do nothing."""
    try:
        return urllib.request.urlopen(f"{url}/ready", timeout=SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return urllib.request.urlopen(f"{url}/health", timeout=SECONDS)


def _profile_url(environment: Mapping[str, str]) -> str | None:
    home = Path(environment.get("PREFECT_HOME") or "~/.prefect").expanduser()
    try:
        profiles = tomllib.loads((home / "profiles.toml").read_text(encoding="utf-8"))
        active = environment.get("PREFECT_PROFILE") or profiles.get("active", "")
        url = profiles["profiles"][active].get("PREFECT_API_URL")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return str(url) if url else None
