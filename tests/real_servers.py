"""The servers of `mlflow/servers.sh` as a team has them: on PostgreSQL and a store that speaks S3, all on loopback."""

import base64
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import boto3
from moto.server import ThreadedMotoServer

from tests.outages import Outage
from tests.ports import free_port
from tests.postgresql import USER, PostgreSQL

ROOT = Path(__file__).parents[1]
BUCKET = "mlflow"
ADMIN, ADMIN_PASSWORD = "admin", "planted-admin-password-1"
KEY, SECRET_KEY = "planted-access-key", "planted-secret-key"
SESSIONS = "planted-session-key"


@dataclass(frozen=True)
class RealServers:
    """Running servers, and what they stand on."""

    mlflow: str
    prefect: str
    store: str
    database: PostgreSQL
    log: Path
    way_to_store: Outage
    way_to_database: Outage  # of MLflow and Prefect; the ledger has its own

    def environment(self, user: str = ADMIN, password: str = ADMIN_PASSWORD) -> dict[str, str]:
        """What a client of theirs has set: addresses and its own login, and no key of the store."""
        return {
            "MLFLOW_TRACKING_URI": self.mlflow,
            "MLFLOW_TRACKING_USERNAME": user,
            "MLFLOW_TRACKING_PASSWORD": password,
            "PREFECT_API_URL": f"{self.prefect}/api",
            "RECONWATCH_LEDGER_URL": self.database.url("reconwatch"),
        }

    def make_user(self, name: str, password: str) -> None:
        """A user of MLflow, made by the administrator."""
        self.ask("2.0/mlflow/users/create", {"username": name, "password": password})

    def ask(self, path: str, document: Any, user: str = ADMIN, password: str = ADMIN_PASSWORD) -> Any:
        """What MLflow answers a user to a document posted to its REST interface."""
        request = Request(f"{self.mlflow}/api/{path}", json.dumps(document).encode())
        request.add_header("Content-Type", "application/json")
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {login}")
        with urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def objects(self) -> dict[str, bytes]:
        """Everything in the store, by key."""
        client = store_client(self.store)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        keys = [str(found["Key"]) for page in pages for found in page.get("Contents", ())]
        return {key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}


def dump(database: PostgreSQL, name: str) -> bytes:
    """Everything in a database, as text."""
    command = [
        str(database.programs / "pg_dump"),
        "-h",
        "127.0.0.1",
        "-p",
        str(database.port),
        "-U",
        USER,
        "--inserts",
        name,
    ]
    environment = os.environ | {"PGPASSWORD": database.password}
    return subprocess.run(command, env=environment, check=True, capture_output=True).stdout


def store_client(url: str) -> Any:
    """A client of the store."""
    return boto3.client(
        "s3", endpoint_url=url, aws_access_key_id=KEY, aws_secret_access_key=SECRET_KEY, region_name="us-east-1"
    )


@contextmanager
def s3_store() -> Iterator[str]:
    """A store that speaks S3, with the bucket; its address."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        store_client(url).create_bucket(Bucket=BUCKET)
        yield url
    finally:
        server.stop()


@contextmanager
def real_servers(database: PostgreSQL, folder: Path) -> Iterator[RealServers]:
    """What `servers.sh` starts, once both answer; it is told to end, and must."""
    with s3_store() as store, Outage(int(store.rpartition(":")[2])) as way, Outage(database.port) as to_database:
        mlflow, prefect = free_port(), free_port()
        log = folder / "servers.log"
        settings = {
            "RECONWATCH_WORKSPACE": str(folder / "workspace"),
            "POSTGRES_HOST": "127.0.0.1",
            "POSTGRES_PORT": str(to_database.port),
            "POSTGRES_USER": USER,
            "POSTGRES_PASSWORD": database.password,
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}",
            "MLFLOW_S3_ENDPOINT_URL": way.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
            "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN_PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": SESSIONS,
            "MLFLOW_PORT": str(mlflow),
            "MLFLOW_WORKERS": "1",
            "PREFECT_PORT": str(prefect),
            "PREFECT_HOME": str(folder / "prefect"),
            "NO_PROXY": "127.0.0.1",
        }
        with log.open("wb") as output:
            process = start_script(settings, output)
        urls = (f"http://127.0.0.1:{mlflow}", f"http://127.0.0.1:{prefect}")
        servers = RealServers(*urls, store, database, log, way, to_database)
        try:
            for url in (f"{servers.mlflow}/health", f"{servers.prefect}/api/health"):
                _wait_for(url, process, log)
            yield servers
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)


def start_script(settings: Mapping[str, str], output: Any) -> "subprocess.Popen[bytes]":
    """`mlflow/servers.sh` with these settings, in a group of its own."""
    return subprocess.Popen(
        [ROOT / "mlflow" / "servers.sh"],
        env=os.environ | settings,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def _wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until the server answers; it takes a minute or two on a busy machine."""
    until = time.monotonic() + 400
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text(encoding="utf-8", errors="replace")[-3000:]
        try:
            with urlopen(url, timeout=2):
                return
        except (URLError, OSError):
            time.sleep(0.2)
    raise TimeoutError(f"{url} does not answer: {log.read_text(encoding='utf-8', errors='replace')[-3000:]}")
