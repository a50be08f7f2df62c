"""Images behind http(s): only from where the configuration says, at addresses that are public or named there."""

import ipaddress
import socket
from collections.abc import Sequence
from functools import partial
from time import monotonic
from urllib.parse import unquote, urljoin, urlsplit

from ae_models.images import UnreadableImage
from flows.items import Item
from flows.remote import LARGEST, SourceUnavailable, shown
from flows.words import reason_of

WEB = ("http", "https")
CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 30.0
SECONDS = 120.0  # for one image, however slowly it trickles in
REDIRECTS = 5
GONE = (404, 410)


def lies_in(url: str, folders: Sequence[str]) -> bool:
    """Whether the address is below one of these, by scheme, host, port and whole parts of the path."""
    return any(_is_below(url, folder) for folder in folders)


def web_item(url: str, allowed: Sequence[str], networks: Sequence[str]) -> Item:
    """The image at an http(s) address, fetched only from where it may be."""
    return Item(url, partial(fetch, url, tuple(allowed), tuple(networks)), waits=True)


def fetch(url: str, allowed: Sequence[str], networks: Sequence[str]) -> bytes:
    """The bytes at the address; each address on the way there is looked at before anything is asked of it.

    Raises:
        UnreadableImage: there is nothing there, it is too large, or the way leads where it may not.
        SourceUnavailable: the server did not answer, or with a failure.
    """
    import httpx  # where no manifest names an address, nobody waits for it

    for _ in range(REDIRECTS + 1):
        if not lies_in(url, allowed):
            raise UnreadableImage(f"leads to {shown(url)}, which data.allowed_urls does not name")
        try:
            content, onward = _answer(url, _address(url, networks))
        except httpx.HTTPError as error:
            words = reason_of(error)
            raise SourceUnavailable(f"{shown(url)} did not answer, and its batch stays due: {words}") from error
        if not onward:
            return content
        url = urljoin(url, onward)
    raise UnreadableImage(f"is redirected more than {REDIRECTS} times")


def _is_below(url: str, folder: str) -> bool:
    one, other = urlsplit(url), urlsplit(folder)
    try:
        same = (one.scheme.lower(), one.hostname, one.port) == (other.scheme.lower(), other.hostname, other.port)
    except ValueError:  # no port
        return False
    parts, root = unquote(one.path).split("/"), [part for part in unquote(other.path).split("/") if part]
    below = [part for part in parts if part]
    return same and one.username is None and ".." not in parts and "\\" not in one.path and below[: len(root)] == root


def _address(url: str, networks: Sequence[str]) -> str:
    """The numeric address of the host, which is the one that is then asked; never one that a name may not lead to."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        found = socket.getaddrinfo(host, parts.port or parts.scheme, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise SourceUnavailable(f"the host {host} is not found, and its batch stays due: {error}") from error
    addresses = [str(sockaddr[0]) for *_, sockaddr in found]
    for address in addresses:
        if not _is_allowed(address, networks):
            raise UnreadableImage(f"is at {host}, whose address {address} is not public nor in data.allowed_networks")
    return addresses[0]


def _is_allowed(address: str, networks: Sequence[str]) -> bool:
    number = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(number, ipaddress.IPv6Address) and number.ipv4_mapped:
        number = number.ipv4_mapped
    public = number.is_global and not number.is_multicast
    return public or any(number in ipaddress.ip_network(network) for network in networks)


def _answer(url: str, address: str) -> tuple[bytes, str]:
    """The bytes, or where the server sends us; the connection goes to this address, whatever its name says by now."""
    import httpx

    parts = httpx.URL(url)
    asked = parts.copy_with(host=address)
    timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
    headers = {"Host": parts.netloc.decode("ascii"), "Accept-Encoding": "identity"}
    # No proxy of the environment: it would look the name up again. The certificate is checked by the name.
    with (
        httpx.Client(trust_env=False, timeout=timeout) as client,
        client.stream("GET", asked, headers=headers, extensions={"sni_hostname": parts.host}) as answer,
    ):
        if answer.is_redirect:
            return b"", answer.headers.get("Location", "")
        if answer.status_code in GONE:
            raise UnreadableImage("does not exist")
        if not answer.is_success:
            raise SourceUnavailable(f"{shown(url)} answered {answer.status_code}, and its batch stays due")
        content, until = bytearray(), monotonic() + SECONDS
        for chunk in answer.iter_bytes():
            content += chunk
            if len(content) > LARGEST:
                raise UnreadableImage(f"has more than the {LARGEST:,} bytes that are fetched")
            if monotonic() > until:
                raise SourceUnavailable(f"{shown(url)} took more than {SECONDS:.0f} s, and its batch stays due")
    return bytes(content), ""
