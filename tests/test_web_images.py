"""Images behind http(s), on a real server on loopback: only from named places, wherever names and redirects lead."""

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from ae_models.errors import InputError
from ae_models.images import ImageSpec, Unreadable, UnreadableImage, read_or_reason
from flows import web_images
from flows.config import DataConfig
from flows.remote import SourceUnavailable
from flows.sources import inbox_batches
from flows.web_images import fetch, lies_in

SmallImages = Callable[[Path, int, int], list[Path]]
LOOPBACK = ("127.0.0.0/8",)


@dataclass
class Server:
    """A web server: what it answers by path (status, headers, body), and the paths and hosts that it was asked for."""

    url: str = ""
    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    known = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known.asked.append((self.path, self.headers["Host"]))
            status, headers, body = known.answers.get(self.path, (404, {}, b""))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: pytest's output is no place for it."""

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=running.serve_forever, daemon=True).start()
    known.url = f"http://127.0.0.1:{running.server_port}"
    yield known
    running.shutdown()
    running.server_close()


def unreadable(url: str, allowed: list[str], networks: tuple[str, ...] = LOOPBACK) -> str:
    with pytest.raises(UnreadableImage) as caught:
        fetch(url, allowed, networks)
    return str(caught.value)


def test_a_manifest_of_others_names_images_of_allowed_hosts(
    server: Server, tmp_path: Path, small_images: SmallImages
) -> None:
    """Where folder and network are named, the image is fetched; one that is not there is unreadable."""
    (image,) = small_images(tmp_path / "images", 1, 0)
    server.answers["/images/a.png"] = (200, {}, image.read_bytes())
    path = tmp_path / "inbox.csv"
    path.write_text(f"path,batch\n{server.url}/images/a.png,lot\n{server.url}/images/b.png,lot\n")
    allowed: dict[str, Any] = {"allowed_urls": [f"{server.url}/images/"], "allowed_networks": ["127.0.0.1"]}
    data = DataConfig.model_validate({"nominal": "unused", "inbox": str(path), **allowed})
    (batch,) = inbox_batches(data)
    read = [read_or_reason(item.content, ImageSpec(16, 16, 1)) for item in batch.items]
    assert not isinstance(read[0], Unreadable)
    assert read[1] == Unreadable("does not exist")
    path.write_text(f"path,batch\n{server.url}/secret/a.png,lot\n")
    with pytest.raises(InputError, match=r"/secret/a\.png, which is in no folder that data\.allowed_urls names"):
        inbox_batches(data)
    assert [place for place, _ in server.asked] == ["/images/a.png", "/images/b.png"]


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("169.254.169.254", "169.254.169.254"),
        ("10.1.2.3", "10.1.2.3"),
        ("192.168.0.1", "192.168.0.1"),
        ("[::ffff:127.0.0.1]", "::ffff:127.0.0.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("[fd00::1]", "fd00::1"),
        ("100.64.0.1", "100.64.0.1"),
        ("224.0.0.1", "224.0.0.1"),
    ],
)
def test_addresses_that_are_not_public_are_refused_unless_they_are_named(host: str, address: str) -> None:
    """Loopback, link-local, private and shared addresses, however they are written, are asked for nothing."""
    expected = f"is at {host.strip('[]')}, whose address {address} is not public nor in data.allowed_networks"
    assert unreadable(f"http://{host}/a.png", [f"http://{host}"], ()) == expected


def test_a_name_that_leads_to_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the address that counts, and every one that the name has."""
    found = [(2, 1, 6, "", ("93.184.215.14", 80)), (2, 1, 6, "", ("169.254.169.254", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *place, **how: found)
    assert unreadable("http://images.example/a.png", ["http://images.example"], ()) == (
        "is at images.example, whose address 169.254.169.254 is not public nor in data.allowed_networks"
    )


def test_the_connection_goes_to_the_address_that_was_looked_at(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that leads elsewhere a moment later is of no use: it is looked up once, and the server hears the name."""
    port, lookups = int(server.url.rpartition(":")[2]), list[str]()

    def once(host: str, *place: object, **how: object) -> list[Any]:
        lookups.append(host)
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    server.answers["/a.png"] = (200, {}, b"image")
    monkeypatch.setattr(socket, "getaddrinfo", once)
    url = f"http://images.example:{port}"
    assert fetch(f"{url}/a.png", [url], LOOPBACK) == b"image"
    assert server.asked == [("/a.png", f"images.example:{port}")]
    assert "images.example" not in lookups[1:]


class TestRedirects:
    """Each step of the way is looked at as the first one is."""

    def test_within_the_allowed_folder_they_are_followed(self, server: Server) -> None:
        """Relative and whole addresses both."""
        server.answers["/images/a.png"] = (302, {"Location": "b.png"}, b"")
        server.answers["/images/b.png"] = (307, {"Location": f"{server.url}/images/c.png"}, b"")
        server.answers["/images/c.png"] = (200, {}, b"image")
        assert fetch(f"{server.url}/images/a.png", [f"{server.url}/images"], LOOPBACK) == b"image"

    @pytest.mark.parametrize(
        "onward",
        ["http://169.254.169.254/latest/meta-data", "/secret", "file:///etc/passwd", "../secret", "//other.example/a"],
    )
    def test_anywhere_else_they_are_refused(self, server: Server, onward: str) -> None:
        """Neither another host nor another folder nor a file is asked for."""
        server.answers["/images/a.png"] = (302, {"Location": onward}, b"")
        words = unreadable(f"{server.url}/images/a.png", [f"{server.url}/images"])
        assert words.startswith("leads to ")
        assert words.endswith(", which data.allowed_urls does not name")
        assert [place for place, _ in server.asked] == ["/images/a.png"]

    def test_a_circle_ends(self, server: Server) -> None:
        """Five redirects are enough."""
        server.answers["/a"] = (302, {"Location": "/a"}, b"")
        assert unreadable(f"{server.url}/a", [server.url]) == "is redirected more than 5 times"
        assert len(server.asked) == 6


class TestOutages:
    """A server that fails says nothing of an image: the batch stays due."""

    @pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
    def test_a_failure_of_the_server(self, server: Server, status: int) -> None:
        """Its status is in the sentence."""
        server.answers["/a.png"] = (status, {}, b"")
        with pytest.raises(SourceUnavailable, match=f"/a.png answered {status}, and its batch stays due"):
            fetch(f"{server.url}/a.png", [server.url], LOOPBACK)

    def test_nobody_listens(self) -> None:
        """The address is in the sentence, without what may be secret in it."""
        with pytest.raises(SourceUnavailable) as caught:
            fetch("http://127.0.0.1:9/a.png?token=secret", ["http://127.0.0.1:9"], LOOPBACK)
        assert str(caught.value).startswith("http://127.0.0.1:9/a.png did not answer, and its batch stays due: ")
        assert "secret" not in str(caught.value)

    def test_a_host_that_is_not_found(self) -> None:
        """A name that nobody knows is an outage too: it may be the name server's."""
        with pytest.raises(SourceUnavailable, match=r"the host nobody\.invalid is not found, and its batch stays due"):
            fetch("http://nobody.invalid/a.png", ["http://nobody.invalid"], ())

    def test_an_answer_without_end_is_cut_off(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        """Memory is bounded whatever a server sends, and so is the time that it takes."""
        server.answers["/a.png"] = (200, {}, b"x" * 1000)
        monkeypatch.setattr(web_images, "LARGEST", 100)
        assert unreadable(f"{server.url}/a.png", [server.url]) == "has more than the 100 bytes that are fetched"
        monkeypatch.setattr(web_images, "LARGEST", 10_000)
        monkeypatch.setattr(web_images, "SECONDS", -1.0)
        with pytest.raises(SourceUnavailable, match="took more than"):
            fetch(f"{server.url}/a.png", [server.url], LOOPBACK)


@pytest.mark.parametrize(
    ("url", "inside"),
    [
        ("https://h/images/a.png", True),
        ("https://H/images/sub/a.png", True),
        ("https://h/imagesx/a.png", False),
        ("https://h/images/../a.png", False),
        ("https://h/images/%2e%2e/a.png", False),
        ("https://h/images\\..\\a.png", False),
        ("http://h/images/a.png", False),
        ("https://h:444/images/a.png", False),
        ("https://h.evil/images/a.png", False),
        ("https://h@evil/images/a.png", False),
        ("https://me@h/images/a.png", False),
        ("https://h:x/images/a.png", False),
    ],
)
def test_an_address_is_below_a_folder_by_its_parts(url: str, inside: bool) -> None:
    """Scheme, host, port and whole parts of the path have to agree; nothing leads up again."""
    assert lies_in(url, ["https://h/images"]) is inside
