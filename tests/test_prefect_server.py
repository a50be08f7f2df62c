"""A Prefect server is used only where one is set up and answers; otherwise the reason is said at once."""

import socket
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from flows import prefect_server
from flows.prefect_server import PrefectServer, find_server

NOTHING = PrefectServer(None, "no server is set up (PREFECT_API_URL)")
Serve = Callable[..., str]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is reached without whatever proxy the tests' machine has."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A starter of web servers on loopback that answer `GET /api/health`, or another page; gives the API's address."""
    servers: list[ThreadingHTTPServer] = []

    def start(
        status: int = 200, content_type: str = "application/json", body: bytes = b"true", page: str = "health"
    ) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == f"/api/{page}" else 404)
                self.send_header("Content-Type", content_type)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/api"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def mute() -> Iterator[socket.socket]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A PREFECT_HOME with two profiles, `here` being the active one."""
    (tmp_path / "profiles.toml").write_text(
        'active = "here"\n'
        '[profiles.here]\nPREFECT_API_URL = "http://127.0.0.1:1/here"\n'
        '[profiles.there]\nPREFECT_API_URL = "http://127.0.0.1:1/there"\n'
        "[profiles.local]\n"
    )
    return tmp_path


def address(port: socket.socket) -> str:
    return f"http://127.0.0.1:{port.getsockname()[1]}/api"


class TestTheAddress:
    """Where the server's address comes from."""

    def test_nothing_is_set_up(self, tmp_path: Path) -> None:
        """Without a variable or a profile there is none, and the variable to set is named."""
        assert find_server({"PREFECT_HOME": str(tmp_path)}) == NOTHING

    def test_an_empty_variable_is_none(self, tmp_path: Path) -> None:
        """PREFECT_API_URL= sets nothing up."""
        assert find_server({"PREFECT_API_URL": "", "PREFECT_HOME": str(tmp_path)}) == NOTHING

    def test_the_variable_comes_before_the_profile(self, home: Path, serve: Serve) -> None:
        """PREFECT_API_URL is taken though a profile names another."""
        url = serve()
        assert find_server({"PREFECT_API_URL": url, "PREFECT_HOME": str(home)}) == PrefectServer(url)

    @pytest.mark.parametrize(("variables", "path"), [({}, "here"), ({"PREFECT_PROFILE": "there"}, "there")])
    def test_a_profile_names_it(self, home: Path, variables: dict[str, str], path: str) -> None:
        """It is the active profile's, or that of PREFECT_PROFILE."""
        found = find_server({"PREFECT_HOME": str(home), **variables})
        assert found.reason.startswith(f"the server at http://127.0.0.1:1/{path} does not answer")

    def test_prefect_home_is_in_the_users_folder(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without PREFECT_HOME the profiles of ~/.prefect count, and `~` stands for the home folder in it too."""
        monkeypatch.setenv("HOME", str(home.parent))
        home.rename(home.parent / ".prefect")
        for environment in ({}, {"PREFECT_HOME": "~/.prefect"}):
            assert "127.0.0.1:1/here" in find_server(environment).reason

    @pytest.mark.parametrize("profile", ["local", "unknown"])
    def test_a_profile_without_an_address(self, home: Path, profile: str) -> None:
        """A profile that names no server, or that is not there, sets none up."""
        assert find_server({"PREFECT_HOME": str(home), "PREFECT_PROFILE": profile}) == NOTHING

    @pytest.mark.parametrize(
        "text", ["active =", "", "profiles = 3", 'active = "a"\n[profiles]\na = "text"', "active = []\n[profiles.a]"]
    )
    def test_a_broken_profiles_file(self, tmp_path: Path, text: str) -> None:
        """A profiles file that Prefect did not write stops nobody."""
        (tmp_path / "profiles.toml").write_text(text)
        assert find_server({"PREFECT_HOME": str(tmp_path)}) == NOTHING


class TestTheAnswer:
    """What counts as being at hand."""

    def test_a_healthy_server(self, serve: Serve) -> None:
        """It is used, with or without a slash at the end of its address."""
        url = serve()
        assert find_server({"PREFECT_API_URL": url}) == PrefectServer(url)
        assert find_server({"PREFECT_API_URL": f"{url}/"}) == PrefectServer(f"{url}/")

    @pytest.mark.parametrize("status", [401, 403])
    def test_a_server_that_asks_for_credentials(self, serve: Serve, status: int) -> None:
        """It is there, and Prefect brings the credentials."""
        url = serve(status)
        assert find_server({"PREFECT_API_URL": url}) == PrefectServer(url)

    def test_a_server_without_its_database(self, serve: Serve) -> None:
        """It says that it is healthy, but not ready: no flow could run by it."""
        url = serve(503, page="ready")
        found = find_server({"PREFECT_API_URL": url})
        assert found == PrefectServer(None, f"the server at {url} answered 503, as it does where its database is away")

    @pytest.mark.parametrize("status", [404, 500])
    def test_a_server_in_trouble(self, serve: Serve, status: int) -> None:
        """It is not used, and what it answered is said."""
        url = serve(status)
        assert find_server({"PREFECT_API_URL": url}) == PrefectServer(None, f"the server at {url} answered {status}")

    def test_web_pages(self, serve: Serve) -> None:
        """Prefect's pages answer any address well; whoever names them is told of the API's."""
        url = serve(content_type="text/html; charset=utf-8", body=b"<html>")
        assert find_server({"PREFECT_API_URL": url}) == PrefectServer(
            None, f"at {url} are web pages, and no API (its address ends in /api)"
        )

    def test_nobody_there(self) -> None:
        """A port where nobody listens is said."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = address(listener)
        found = find_server({"PREFECT_API_URL": url})
        assert found.url is None
        assert found.reason.startswith(f"the server at {url} does not answer (")
        assert "refused" in found.reason

    def test_silence(self, mute: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server that takes the connection and says nothing is given up after SECONDS, which are three."""
        assert prefect_server.SECONDS == 3
        monkeypatch.setattr(prefect_server, "SECONDS", 0.1)
        assert find_server({"PREFECT_API_URL": address(mute)}) == PrefectServer(
            None, f"the server at {address(mute)} does not answer (timed out)"
        )

    def test_another_language(self, mute: socket.socket) -> None:
        """A server that does not speak HTTP is none."""

        def greet() -> None:
            connection, _ = mute.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-somebody\r\n")

        thread = Thread(target=greet)
        thread.start()
        found = find_server({"PREFECT_API_URL": address(mute)})
        thread.join()
        assert found == PrefectServer(None, f"the server at {address(mute)} does not answer (SSH-2.0-somebody)")

    @pytest.mark.parametrize("url", ["127.0.0.1:4200/api", "4200", "http://a b/api", "http://127.0.0.1:port/api"])
    def test_no_address(self, url: str) -> None:
        """What is no address is said in the same words."""
        found = find_server({"PREFECT_API_URL": url})
        assert found.url is None
        assert found.reason.startswith(f"the server at {url} does not answer (")
