"""Folders and files behind URLs: a real S3 endpoint on loopback, and a store in memory; outages lose nothing."""

import importlib
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Barrier, Thread
from types import SimpleNamespace
from typing import Any

import fsspec
import httpx
import pytest
from gcp_storage_emulator.server import create_server

from ae_models.errors import InputError
from ae_models.images import ImageSpec, Unreadable, read_or_reason, stream
from flows import remote, running
from flows.config import DataConfig
from flows.fetching import AHEAD, AT_ONCE, contents_of
from flows.items import Item
from flows.progress import LogProgress
from flows.remote import SourceUnavailable, files_below
from flows.sources import inbox_batches, labelled_items, nominal_items
from flows.workspace import open_workspace
from tests.outages import Mode, Outage
from tests.ports import free_port

SmallImages = Callable[[Path, int, int], list[Path]]
SPEC = ImageSpec(16, 16, 1)
AZURITE = Path(__file__).parents[1] / ".azurite" / "node_modules" / ".bin"
PROGRESS = LogProgress(logging.getLogger("test"))


def data(**parts: Any) -> DataConfig:
    """The data section that says this; what is absent is as by default."""
    return DataConfig.model_validate({"nominal": "unused", **parts})


def sentence(raised: type[Exception], url: str) -> str:
    with pytest.raises(raised) as caught:
        files_below(url)
    return str(caught.value)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The address of a real S3 endpoint on loopback."""
    from moto.server import ThreadedMotoServer  # it takes seconds

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The endpoint as a file system, with an empty bucket `tiles` alone; the environment leads there."""
    httpx.post(f"{endpoint}/moto-api/reset", trust_env=False).raise_for_status()
    with _led_to(endpoint, monkeypatch) as store:
        store.mkdir("tiles")
        yield store


class _led_to:  # noqa: N801 (a context, used as one)
    """The S3 file system of an endpoint, with credentials from the environment alone."""

    def __init__(self, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")

    def __enter__(self) -> Any:
        store = fsspec.filesystem("s3", skip_instance_cache=True)
        store.clear_instance_cache()
        return store

    def __exit__(self, *error: object) -> None:
        fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture(scope="module")
def google() -> Iterator[str]:
    """The address of a server on loopback that speaks Google's protocol."""
    port = free_port()
    server = create_server("127.0.0.1", port, in_memory=True)
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def gs(google: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The server as a file system, with an empty bucket `tiles` alone."""
    lead_google_to(google, monkeypatch)
    store = fsspec.filesystem("gs", token="anon", skip_instance_cache=True)
    store.mkdir("tiles")
    yield store
    store.invalidate_cache()
    store.rm("tiles", recursive=True)
    type(store).clear_instance_cache()


def lead_google_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of who uses that server."""
    for name, value in (("NO_PROXY", "127.0.0.1"), ("STORAGE_EMULATOR_HOST", url), ("NO_GCE_CHECK", "true")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The connection string of Microsoft's own emulator on loopback; without it its tests are skipped."""
    command = shutil.which("azurite-blob", path=f"{AZURITE}{os.pathsep}{os.environ['PATH']}")
    if command is None:
        pytest.skip("no azurite is installed (with npm: npm install --prefix .azurite azurite@3.35.0)")
    port, log = free_port(), tmp_path_factory.mktemp("azurite") / "log"
    options = ["--blobPort", str(port), "--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck"]
    with log.open("wb") as output:
        server = subprocess.Popen([command, *options], cwd=log.parent, stdout=output, stderr=output)
    try:
        while b"successfully listens" not in log.read_bytes():
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        yield azure_string(port)
    finally:
        server.terminate()
        server.wait()


def azure_string(port: int) -> str:
    """The connection string of the account that every emulator of Azure has, by a key that everybody knows."""
    return (
        "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50u"
        f"SRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
    )


@pytest.fixture
def az(azurite: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The emulator as a file system, with an empty container `tiles` alone."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite)
    store = fsspec.filesystem("az", skip_instance_cache=True)
    store.mkdir("tiles")
    yield store
    store.invalidate_cache()
    store.rm("tiles", recursive=True)
    type(store).clear_instance_cache()


@contextmanager
def answering(status: int, answer: bytes) -> Iterator[int]:
    """The port of a server on loopback that answers everything so."""

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/xml" if answer.startswith(b"<") else "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: pytest's output is no place for it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def memory() -> Iterator[Any]:
    """The store in memory, empty."""
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    yield store
    store.store.clear()


def put(store: Any, folder: str, images: list[Path]) -> None:
    for image in images:
        store.pipe(f"{folder}/{image.name}", image.read_bytes())


class TestFolders:
    """A folder of a store is what a folder of the machine is."""

    @pytest.fixture(params=["s3", "gs", "az", "memory"])
    def store(self, request: pytest.FixtureRequest) -> tuple[Any, str]:
        """Each store, and the address of a folder that its tests use."""
        return request.getfixturevalue(request.param), f"{request.param}://tiles/place"

    def test_images_come_by_name_and_documents_are_left_out(
        self, store: tuple[Any, str], tmp_path: Path, small_images: SmallImages
    ) -> None:
        """Subfolders are looked into, hidden files and documents are not images, and every image can be read."""
        system, url = store
        put(system, "tiles/place", small_images(tmp_path, 2, 0))
        for name in ("notes.txt", ".hidden/b.png"):
            system.pipe(f"tiles/place/{name}", b"x")
        put(system, "tiles/place/größe 1", small_images(tmp_path, 1, 3))
        found = nominal_items(data(nominal=url))
        assert [item.uri.rpartition("place/")[2] for item in found.items] == [
            "größe 1/image-000.png",
            "image-000.png",
            "image-001.png",
        ]
        assert [left.rpartition("/")[2] for left in found.left_out] == ["b.png", "notes.txt"]
        assert not any(isinstance(read_or_reason(item.content, SPEC), Unreadable) for item in found.items)

    def test_a_subfolder_a_label(self, store: tuple[Any, str], tmp_path: Path, small_images: SmallImages) -> None:
        """Labelled images lie in folders of their labels there too."""
        system, url = store
        images = small_images(tmp_path, 1, 0)
        put(system, "tiles/place/good", images)
        put(system, "tiles/place/crack", images)
        labelled = labelled_items(data(labelled=url))
        assert labelled is not None
        assert labelled[1].tolist() == [True, False]

    def test_each_subfolder_is_a_batch_and_new_ones_are_seen(
        self, store: tuple[Any, str], tmp_path: Path, small_images: SmallImages
    ) -> None:
        """An inbox without a file yet has no batch; what arrives is there at the next look."""
        system, url = store
        system.pipe("tiles/other.png", b"x")
        assert inbox_batches(data(inbox=url)) == ()
        put(system, "tiles/place/lot-1", small_images(tmp_path, 3, 0))
        system.pipe("tiles/place/stray.png", b"x")
        assert [(batch.id, len(batch.items)) for batch in inbox_batches(data(inbox=url))] == [("lot-1", 3)]
        put(system, "tiles/place/lot-2", small_images(tmp_path, 1, 1))
        assert [batch.id for batch in inbox_batches(data(inbox=url))] == ["lot-1", "lot-2"]

    def test_a_batch_is_known_by_its_images(
        self, store: tuple[Any, str], tmp_path: Path, small_images: SmallImages
    ) -> None:
        """The same content written again is the same batch; other content is another."""
        system, url = store
        images = small_images(tmp_path, 2, 0)
        put(system, "tiles/place/lot", images)
        (before,) = inbox_batches(data(inbox=url))
        hashes = before.stat_hash(), before.manifest_hash()
        put(system, "tiles/place/lot", images)
        (again,) = inbox_batches(data(inbox=url))
        assert again.manifest_hash() == hashes[1]
        put(system, "tiles/place/lot", small_images(tmp_path, 1, 5))
        (changed,) = inbox_batches(data(inbox=url))
        assert changed.stat_hash() != hashes[0]
        assert changed.manifest_hash() != hashes[1]

    def test_an_image_that_was_deleted_meanwhile_is_unreadable(
        self, store: tuple[Any, str], tmp_path: Path, small_images: SmallImages
    ) -> None:
        """The store answered, and the image is not there: that is a result."""
        system, url = store
        put(system, "tiles/place", small_images(tmp_path, 1, 0))
        (item,) = nominal_items(data(nominal=url)).items
        system.rm("tiles/place/image-000.png")
        assert read_or_reason(item.content, SPEC) == Unreadable("does not exist")

    def test_an_image_that_changed_since_it_was_listed_ends_the_batch(
        self, store: tuple[Any, str], tmp_path: Path, small_images: SmallImages
    ) -> None:
        """Its batch was listed as another one: nothing is recorded of it."""
        system, url = store
        put(system, "tiles/place", small_images(tmp_path, 1, 0))
        (item,) = nominal_items(data(nominal=url)).items
        system.pipe("tiles/place/image-000.png", b"shorter")
        with pytest.raises(SourceUnavailable, match="changed while its batch was read: it stays due"):
            read_or_reason(item.content, SPEC)

    def test_a_manifest_and_its_images_may_lie_in_a_store(
        self, store: tuple[Any, str], tmp_path: Path, small_images: SmallImages
    ) -> None:
        """Relative paths start at the manifest's folder there; whole addresses must lie in it."""
        system, url = store
        put(system, "tiles/place/images", small_images(tmp_path, 2, 0))
        rows = ["path,batch", "images/image-000.png,lot", f"{url}/images/image-001.png,lot"]
        system.pipe("tiles/place/inbox.csv", "\n".join(rows).encode())
        (batch,) = inbox_batches(data(inbox=f"{url}/inbox.csv"))
        assert not any(isinstance(read_or_reason(item.content, SPEC), Unreadable) for item in batch.items)
        system.pipe("tiles/place/inbox.csv", b"path,batch\ns3://other/a.png,lot")
        with pytest.raises(InputError, match=r"names s3://other/a\.png, which is in no folder that data\.allowed_urls"):
            inbox_batches(data(inbox=f"{url}/inbox.csv"))
        assert len(inbox_batches(data(inbox=f"{url}/inbox.csv", allowed_urls=["s3://other"]))) == 1


class TestWords:
    """Each failure of a store is one sentence: what, where, what to do."""

    def test_a_missing_folder_or_bucket(self, s3: Any) -> None:
        """The address is named, without its batches being taken for unreadable ones."""
        for url in ("s3://nowhere/inbox", "s3://tiles/nothing"):
            expected = f"there is no {url}: correct the address, or make the bucket or folder"
            assert sentence(InputError, url) == expected
        with pytest.raises(InputError, match="there is no s3://nowhere/inbox"):
            inbox_batches(data(inbox="s3://nowhere/inbox"))

    def test_a_server_that_is_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody listens: the batches stay due, and no secret is in the sentence."""
        with _led_to("http://127.0.0.1:9", monkeypatch):
            words = sentence(SourceUnavailable, "s3://tiles/inbox")
        assert words.startswith("s3://tiles/inbox did not answer, and its batches stay due: Could not connect to the ")
        assert "planted-secret" not in words

    @pytest.mark.parametrize(
        ("status", "code", "words"),
        [
            (
                403,
                "AccessDenied",
                "may not be read, and its batches stay due: check the credentials in the environment",
            ),
            (500, "InternalError", "did not answer, and its batches stay due: "),
        ],
    )
    def test_a_server_that_refuses_or_fails(
        self, monkeypatch: pytest.MonkeyPatch, status: int, code: str, words: str
    ) -> None:
        """Denied and broken each have their sentence."""
        answer = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()

        with answering(status, answer) as port, _led_to(f"http://127.0.0.1:{port}", monkeypatch):
            assert sentence(SourceUnavailable, "s3://tiles/inbox").startswith(f"s3://tiles/inbox {words}")

    def test_a_server_that_hangs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is waited for as long as is stated, and not for ever."""
        monkeypatch.setitem(remote.CLIENT, "read_timeout", 0.2)
        silent = socket.create_server(("127.0.0.1", 0))
        with silent, _led_to(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch):
            words = sentence(SourceUnavailable, "s3://tiles/inbox")
        assert words.startswith("s3://tiles/inbox did not answer, and its batches stay due: Read timeout on endpoint")

    @pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("az", "adlfs")])
    def test_a_missing_package(self, monkeypatch: pytest.MonkeyPatch, scheme: str, package: str) -> None:
        """What opens a store is an extra: the sentence is the command that installs it."""
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, scheme, raising=False)
        assert sentence(InputError, f"{scheme}://bucket/folder") == (
            f"{scheme}://bucket/folder: {scheme}:// needs the package {package}: install it with: "
            f"pip install 'reconwatch[{scheme}]'"
        )

    def test_what_a_library_says_holds_no_secret_of_an_address(
        self, memory: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Signed queries and passwords in addresses are left out of its words."""

        def away(*place: object, **how: object) -> None:
            raise OSError("no answer of https://me:planted@store.example/a.png?sig=planted (try again)")

        monkeypatch.setattr(type(memory), "find", away)
        said = sentence(SourceUnavailable, "memory://tiles").partition("stay due: ")[2]
        assert said == "no answer of https://store.example/a.png (try again)"

    def test_an_unknown_scheme(self) -> None:
        """Nothing opens it."""
        assert sentence(InputError, "bucket://a/b").startswith("bucket://a/b: nothing here opens bucket://")

    def test_a_web_server_lists_no_folders(self) -> None:
        """Images of a web server are named by a manifest."""
        assert sentence(InputError, "https://host/images") == (
            "https://host/images: web servers list no folders: give a manifest of the addresses instead"
        )

    def test_a_file_that_is_too_large_is_not_fetched(self, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Memory is bounded whatever lies in the store."""
        memory.pipe("/tiles/a.png", b"12345")
        monkeypatch.setattr(remote, "LARGEST", 4)
        (item,) = nominal_items(data(nominal="memory://tiles")).items
        assert read_or_reason(item.content, SPEC) == Unreadable("has 5 bytes, more than the 4 that are fetched")

    @pytest.mark.parametrize("url", ["zip://a::b", "tar://x", "simplecache://x", "sftp://me:secret@host/x"])
    def test_archives_and_passwords_are_refused_in_the_file(self, url: str) -> None:
        """Neither is opened, and the sentence does not repeat a password."""
        with pytest.raises(ValueError, match=r"archives are not opened|without '::'|holds a password") as caught:
            data(inbox={"url": url})
        assert "secret" not in str(caught.value)


ANSWERS = {  # what a server of each kind says where it refuses, and where it is broken
    "gs": {
        403: b'{"error": {"code": 403, "message": "no"}}',
        401: b'{"error": {"code": 401, "message": "Anonymous caller does not have storage.objects.list access"}}',
        500: b'{"error": {"code": 500, "message": "no"}}',
    },
    "az": {
        403: b"<?xml version='1.0'?><Error><Code>AuthenticationFailed</Code><Message>no</Message></Error>",
        401: b"<?xml version='1.0'?><Error><Code>NoAuthenticationInformation</Code><Message>no</Message></Error>",
        500: b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>no</Message></Error>",
    },
}


class TestWordsOfOthers:
    """Google's and Azure's stores fail with the same sentences as S3, each library's own exceptions notwithstanding."""

    @pytest.fixture(params=["gs", "az"])
    def lead(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], str]]:
        """Leads the environment to a port of loopback, and gives an address; no library waits between attempts."""
        lead_google_to("http://127.0.0.1:9", monkeypatch)  # before its library is imported
        from azure.storage.blob._shared.policies_async import AsyncStorageRetryPolicy
        from gcsfs import retry

        async def no_wait(*_: object) -> None:
            return

        monkeypatch.setattr(AsyncStorageRetryPolicy, "sleep", no_wait)
        monkeypatch.setattr(retry, "asyncio", SimpleNamespace(sleep=no_wait))
        kind: str = request.param

        def to(port: int) -> str:
            lead_google_to(f"http://127.0.0.1:{port}", monkeypatch)
            monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azure_string(port))
            return f"{kind}://tiles/inbox"

        yield to
        fsspec.get_filesystem_class(kind).clear_instance_cache()

    def test_a_server_that_is_away(self, lead: Callable[[int], str], caplog: pytest.LogCaptureFixture) -> None:
        """One sentence, and no traceback of the library's in the log."""
        url = lead(9)
        words = sentence(SourceUnavailable, url)
        assert words.startswith(f"{url} did not answer, and its batches stay due: Cannot connect to host 127.0.0.1:9")
        assert caplog.records == []

    @pytest.mark.parametrize("status", [401, 403, 500])
    def test_a_server_that_refuses_or_fails(self, lead: Callable[[int], str], status: int) -> None:
        """Without credentials or with wrong ones it may not be read; a broken one did not answer."""
        denied = "may not be read, and its batches stay due: check the credentials in the environment ("
        kind = lead(9).partition(":")[0]
        with answering(status, ANSWERS[kind][status]) as port:
            url = lead(port)
            words = sentence(SourceUnavailable, url)
        expected = "did not answer, and its batches stay due: no" if status == 500 else denied
        assert words.startswith(f"{url} {expected}")
        assert "<" not in words

    def test_a_server_that_hangs(self, lead: Callable[[int], str], monkeypatch: pytest.MonkeyPatch) -> None:
        """An image is waited for as long as is stated, and not for ever."""
        monkeypatch.setattr(remote, "ANSWER_SECONDS", 0.2)
        monkeypatch.setitem(remote.AZURE, "read_timeout", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"{lead(silent.getsockname()[1])}/a.png"
            with pytest.raises(SourceUnavailable, match=r"did not answer, and its batches stay due: .*[Tt]imeout"):
                remote.read_bytes(url)


class TestCredentials:
    """What is missing is said with what to set."""

    def test_no_account_of_azure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is named in the environment."""
        for name in ("CONNECTION_STRING", "ACCOUNT_NAME", "ACCOUNT_KEY"):
            monkeypatch.delenv(f"AZURE_STORAGE_{name}", raising=False)
        words = sentence(InputError, "az://tiles/inbox")
        assert words.startswith("az://tiles/inbox: no account is known (")
        assert words.endswith(
            "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY"
        )

    def test_no_file_of_google(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Where one is named it must be there: otherwise everything would be asked without a name."""
        lead_google_to("http://127.0.0.1:9", monkeypatch)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
        words = sentence(SourceUnavailable, "gs://tiles/inbox")
        assert words.startswith("gs://tiles/inbox may not be read, and its batches stay due: check the credentials")
        assert f"File {tmp_path / 'account.json'} was not found" in words

    def test_none_of_s3(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Neither in the environment nor in files."""
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in (("HOME", str(tmp_path)), ("AWS_EC2_METADATA_DISABLED", "true")):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        words = sentence(SourceUnavailable, "s3://tiles/inbox")
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        assert words.startswith("s3://tiles/inbox may not be read, and its batches stay due: check the credentials")

    def test_saved_logins_of_google_are_not_unpickled(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Its library would load them when it is imported, whatever they hold."""
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / ".gcs_tokens").write_bytes(b"cos\nsystem\n(S'touch harm'\ntR.")
        words = sentence(InputError, "gs://tiles/inbox")
        assert words.startswith("~/.gcs_tokens holds logins of a browser as a pickle")
        assert not Path("harm").exists()


class TestReadAhead:
    """Images that wait for a network are fetched beforehand: many at once, and never too many."""

    def test_they_come_in_their_order_with_a_bound_on_what_is_held(self) -> None:
        """However slowly they are used, only so many are there that nobody asked for."""
        begun: list[int] = []

        def item(place: int) -> Item:
            def content() -> bytes:
                begun.append(place)
                return str(place).encode()

            return Item(f"s3://b/{place}", content, waits=True)

        with contents_of([item(place) for place in range(500)]) as contents:
            assert begun == []
            for place, content in enumerate(contents):
                assert content() == str(place).encode()
                assert len(begun) <= place + 1 + AHEAD
        assert sorted(begun) == list(range(500))
        assert AT_ONCE <= AHEAD

    def test_many_are_waited_for_at_once(self) -> None:
        """Sixteen requests are under way together: each waits until the others have begun."""
        together = Barrier(AT_ONCE)

        def content() -> bytes:
            together.wait(timeout=30)
            return b""

        with contents_of([Item(f"s3://b/{n}", content, waits=True) for n in range(AT_ONCE)]) as contents:
            assert [content() for content in contents] == [b""] * AT_ONCE

    def test_local_files_are_not_read_ahead(self) -> None:
        """The disk needs no pool of its own."""
        items = [Item("a", lambda: b"a"), Item("b", lambda: b"b")]
        with contents_of(items) as contents:
            assert contents == [item.content for item in items]

    def test_an_outage_ends_the_stream(self) -> None:
        """What is no property of an image is raised, and nothing is left running."""

        def content() -> bytes:
            raise SourceUnavailable("away")

        with (
            pytest.raises(SourceUnavailable, match="away"),
            contents_of([Item(f"s3://b/{n}", content, waits=True) for n in range(100)]) as contents,
        ):
            list(stream(contents, SPEC))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gs", "az"])
@pytest.mark.filterwarnings("ignore::UserWarning:mlflow", "ignore::DeprecationWarning")
def test_a_pipeline_lives_in_any_store(
    kind: str,
    request: pytest.FixtureRequest,
    project: Callable[..., Path],
    small_images: SmallImages,
    tmp_path: Path,
) -> None:
    """It trains on Google's and Azure's stores, and decides each batch there once."""
    store = request.getfixturevalue(kind)
    put(store, "tiles/nominal", small_images(tmp_path / "a", 60, 0))
    put(store, "tiles/inbox/lot-1", small_images(tmp_path / "b", 20, 1))
    path = project(tmp_path / "p", data={"nominal": f"{kind}://tiles/nominal", "inbox": f"{kind}://tiles/inbox"})
    workspace = open_workspace(path, {})
    report = running.run(workspace, "tiles", PROGRESS)
    assert report.failure == ""
    (scored,) = report.batches
    assert (scored.outcome, scored.verdict.scored if scored.verdict else 0) == ("scored", 20)
    assert running.run(workspace, "tiles", PROGRESS).batches == ()


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore::UserWarning:mlflow", "ignore::DeprecationWarning")
def test_a_pipeline_lives_in_a_bucket_that_is_away_at_times(
    s3: Any,
    endpoint: str,
    project: Callable[..., Path],
    small_images: SmallImages,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Training, calibration and scoring take their images from S3. Whether it refuses, or answers 500 or nothing in the
    middle of a batch: nothing is recorded, the batch stays due, and is scored whole once the store is back."""
    put(s3, "tiles/nominal", small_images(tmp_path / "a", 60, 0))
    put(s3, "tiles/inbox/lot-1", small_images(tmp_path / "b", 20, 1))
    path = project(tmp_path / "p", data={"nominal": "s3://tiles/nominal", "inbox": "s3://tiles/inbox"})
    workspace = open_workspace(path, {})
    monkeypatch.setitem(remote.CLIENT, "read_timeout", 0.5)
    with Outage(int(endpoint.rpartition(":")[2])) as outage, _led_to(outage.url, monkeypatch):
        report = running.run(workspace, "tiles", PROGRESS)
        assert report.failure == ""
        assert [(batch.batch, batch.outcome) for batch in report.batches] == [("lot-1", "scored")]
        assert running.run(workspace, "tiles", PROGRESS).batches == ()

        modes: tuple[Mode, ...] = ("error", "hang")
        for number, mode in enumerate(modes, 2):
            put(s3, f"tiles/inbox/lot-{number}", small_images(tmp_path / mode, 20, number))
            outage.set(mode, b"image-009.png")
            (failed,) = running.run(workspace, "tiles", PROGRESS).batches
            assert (failed.batch, failed.outcome) == (f"lot-{number}", "failed")
            assert f"lot-{number}/image-009.png did not answer" in failed.reason
            assert workspace.ledger.batches.count("tiles") == number - 1
            outage.set("refuse")
            report = running.run(workspace, "tiles", PROGRESS)
            assert (report.batches, "\n" in report.failure) == ((), False)
            assert "s3://tiles/inbox did not answer, and its batches stay due" in report.failure
            outage.set("pass")
            (scored,) = running.run(workspace, "tiles", PROGRESS).batches
            assert (scored.outcome, scored.verdict.scored if scored.verdict else 0) == ("scored", 20)
