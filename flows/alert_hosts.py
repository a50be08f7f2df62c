"""To which hosts alerts may go, where whoever runs reconwatch is not who writes pipelines.yaml."""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from urllib.parse import urlsplit

from flows.config_channels import AnyChannel, AppriseChannel, EmailChannel, LogChannel, PrefectEventChannel

VARIABLE = "RECONWATCH_ALERT_HOSTS"


def refused_channels(
    channels_by_pipeline: Mapping[str, tuple[AnyChannel, ...]], environment: Mapping[str, str]
) -> Iterator[str]:
    """A sentence for each channel that RECONWATCH_ALERT_HOSTS does not allow; none where it is not set.

    It holds names of hosts between spaces or commas, `*` for any part of one.
    """
    allowed = environment.get(VARIABLE, "").replace(",", " ").lower().split()
    if not allowed:
        return
    for pipeline, channels in channels_by_pipeline.items():
        for channel in channels:
            if reason := _refused(channel, allowed):
                yield f"the alert channel '{channel.name}' of pipeline '{pipeline}' {reason}"


def _refused(channel: AnyChannel, allowed: list[str]) -> str:
    """Why a channel may not be used; empty where it may. An address may be secret: of it only the host is said."""
    if isinstance(channel, LogChannel | PrefectEventChannel):
        return ""
    if getattr(channel, "block", None) is not None:
        return f"uses a block saved in Prefect, whose host {VARIABLE} cannot see: write its address as ${{VARIABLE}}"
    if isinstance(channel, AppriseChannel):  # most of its addresses hold no host, and some a file's name
        return f"goes through apprise, whose hosts {VARIABLE} cannot see: use a channel with an address"
    host = channel.host if isinstance(channel, EmailChannel) else _host_of(channel.url)
    if any(fnmatch(host.lower(), pattern) for pattern in allowed):
        return ""
    return f"leads to the host '{host}', which {VARIABLE} does not allow ({', '.join(allowed)})"


def _host_of(address: object) -> str:
    value = address.get_secret_value() if hasattr(address, "get_secret_value") else address
    return urlsplit(str(value or "")).hostname or ""
