"""Alerts by e-mail arrive whole at a server that speaks SMTP, encrypted where that is asked for, or say why not."""

import base64
import io
import ipaddress
import logging
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from PIL import Image
from pydantic import SecretStr

from flows import config_channels as config
from flows.alert_email import LARGEST_PICTURE, email_message, picture_for_email
from flows.alerts import Alert, DeliveryFailed
from flows.channels import channels
from flows.channels_email import EmailChannel
from flows.cli import main
from flows.workspace import open_workspace

NOON = datetime(2024, 5, 17, 12, tzinfo=UTC)
PASSWORD = "s3cr3t-p4ss"
ALERT = Alert(
    pipeline="tiles",
    batch="lot-7",
    verdict={"diagnosis": "defects"},
    sentences="7 of 90 images are flagged.",
    worst=("tile-03.png", "tile-41.png"),
    run_url="http://127.0.0.1:5000/#/runs/1",
    dedupe_key="tiles/lot-7",
    run_id="run-1",
    picture="worst.png",
)


@dataclass
class Mailbox:
    """An SMTP server on loopback: how it behaves, and what it took.

    `certificate` is its own, for STARTTLS, or from the first byte where `encrypted`. `answers` stand in place of its
    own to a verb; the answer `hang` keeps silent.
    """

    certificate: ssl.SSLContext | None = None
    encrypted: bool = False
    answers: dict[str, str] = field(default_factory=dict)
    taken: list[tuple[list[str], bytes, bool]] = field(default_factory=list)  # recipients, message, whether encrypted
    logins: list[bytes] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    def message(self) -> EmailMessage:
        """The one message that it took."""
        ((_, content, _),) = self.taken
        message = message_from_bytes(content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        return message


class Session(socketserver.StreamRequestHandler):
    """One client's dialogue."""

    def __init__(self, mailbox: Mailbox, *arguments: Any) -> None:
        self.mailbox, self.secure, self.recipients = mailbox, mailbox.encrypted, list[str]()
        super().__init__(*arguments)

    def handle(self) -> None:
        try:
            if self.mailbox.encrypted:
                self.encrypt()
            self.say("220 mail.example.com")
            while line := self.rfile.readline():
                verb = line.split()[0].decode().upper()
                answer = self.mailbox.answers.get(verb) or self.answer(verb, line)
                if answer == "hang":
                    self.mailbox.released.wait(30)
                    return
                self.say(answer)
                if verb == "STARTTLS" and answer.startswith("220"):
                    self.encrypt()
                if verb == "QUIT":
                    return
        except OSError:  # a client that trusts no such certificate leaves
            pass

    def finish(self) -> None:
        super().finish()
        self.connection.close()

    def answer(self, verb: str, line: bytes) -> str:
        if verb == "EHLO":
            offered = ["250-mail.example.com", "250-SIZE 20000000"]
            offered += ["250-STARTTLS"] if self.mailbox.certificate and not self.secure else []
            return "\r\n".join([*offered, "250 AUTH PLAIN" if self.secure else "250 HELP"])
        if verb == "AUTH":
            self.mailbox.logins.append(base64.b64decode(line.split()[2]))
            return "235 2.7.0 welcome"
        if verb == "RCPT":
            address = line.decode().partition("<")[2].partition(">")[0]
            if address.startswith("nobody"):
                return "550 5.1.1 no such user"
            self.recipients.append(address)
        if verb == "DATA":
            self.say("354 go on")
            content = b"".join(iter(self.rfile.readline, b".\r\n")).replace(b"\r\n..", b"\r\n.")
            self.mailbox.taken.append((self.recipients, content, self.secure))
        return {"STARTTLS": "220 go on", "QUIT": "221 bye"}.get(verb, "250 ok")

    def encrypt(self) -> None:
        assert self.mailbox.certificate is not None
        self.request = self.connection = self.mailbox.certificate.wrap_socket(self.request, server_side=True)
        self.rfile, self.wfile = self.request.makefile("rb"), self.request.makefile("wb", 0)
        self.secure = True

    def say(self, answer: str) -> None:
        self.wfile.write(f"{answer}\r\n".encode())


Serve = Callable[..., Mailbox]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a mailbox that behaves as its arguments say."""
    running: list[tuple[Mailbox, socketserver.ThreadingTCPServer, threading.Thread]] = []

    def start(**behaviour: Any) -> Mailbox:
        mailbox = Mailbox(**behaviour)
        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), partial(Session, mailbox))
        mailbox.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((mailbox, server, thread))
        return mailbox

    yield start
    for mailbox, server, thread in running:
        mailbox.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass(frozen=True)
class Certificate:
    """A certificate of the tests' own for 127.0.0.1: as a server shows it, and as a client trusts it."""

    shown: ssl.SSLContext
    path: Path

    def trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.path))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder, now = tmp_path_factory.mktemp("certificate"), datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail.example.com")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = builder.add_extension(addresses, critical=False).sign(key, hashes.SHA256())
    (folder / "certificate.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*plain))
    shown = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    shown.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return Certificate(shown, folder / "certificate.pem")


def channel_to(mailbox: Mailbox, **settings: Any) -> EmailChannel:
    given: dict[str, Any] = {"security": "none", "recipients": ("night@example.com",), "clock": lambda: NOON}
    return EmailChannel("mail", "127.0.0.1", mailbox.port, sender="recon@example.com", **(given | settings))


def png(height: int = 40, width: int = 40) -> bytes:
    """A picture that does not compress: about 3 bytes a pixel."""
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def part(message: EmailMessage, kind: str) -> str:
    """The message's text of a kind, `plain` or `html`."""
    body = message.get_body((kind,))
    assert body is not None
    text: str = body.get_content()
    return text


def pictures(message: EmailMessage) -> list[EmailMessage]:
    return [part for part in message.walk() if part.get_content_maintype() == "image"]


# What arrives


def test_the_mail_says_what_is_wrong(serve: Serve) -> None:
    """Title, sentences, names and address, as text and as HTML, from and to whom it was configured."""
    mailbox = serve()
    channel_to(mailbox, recipients=("night@example.com", "day@example.com")).send(ALERT.payload())
    message = mailbox.message()
    assert mailbox.taken[0][0] == ["night@example.com", "day@example.com"]
    assert message["Subject"] == "reconwatch: batch lot-7 of tiles raised an alarm"
    assert (message["From"], message["To"]) == ("recon@example.com", "night@example.com, day@example.com")
    assert message["Date"].datetime == NOON
    assert message["Auto-Submitted"] == "auto-generated"
    assert part(message, "plain").splitlines() == ALERT.text().splitlines()
    html = part(message, "html")
    for words in ("7 of 90 images are flagged.", "<li>tile-03.png</li>", 'href="http://127.0.0.1:5000/#/runs/1"'):
        assert words in html


def test_the_contact_sheet_is_inside(serve: Serve) -> None:
    """The page shows the picture that the message itself holds; nothing is fetched to read it."""
    mailbox, asked = serve(), list[tuple[str, str]]()

    def sheets(run_id: str, name: str) -> bytes:
        asked.append((run_id, name))
        return png()

    channel_to(mailbox, pictures=sheets).send(ALERT.payload())
    message = mailbox.message()
    (picture,) = pictures(message)
    assert asked == [("run-1", "worst.png")]
    assert picture.get_content() == png()
    assert picture.get_content_type() == "image/png"
    assert f'src="cid:{picture["Content-ID"].strip("<>")}"' in part(message, "html")
    assert part(message, "html").count("src=") == 1


def test_a_contact_sheet_of_ten_megabytes_is_made_smaller(serve: Serve) -> None:
    """The mail stays below two megabytes and still shows the picture, whole."""
    mailbox, large = serve(), png(2600, 1300)
    assert len(large) > 10_000_000
    channel_to(mailbox, pictures=lambda *_: large).send(ALERT.payload())
    (picture,) = pictures(mailbox.message())
    assert len(mailbox.taken[0][1]) < 2_000_000
    with Image.open(io.BytesIO(picture.get_content())) as image:
        assert (image.format, round(image.height / image.width, 1)) == ("JPEG", 2.0)


@pytest.mark.parametrize("found", [None, b"no picture", png()[:2000]], ids=["none", "text", "cut"])
def test_a_missing_picture_does_not_stop_the_mail(serve: Serve, found: bytes | None) -> None:
    """A contact sheet that is gone or broken is left out."""
    mailbox = serve()
    channel_to(mailbox, pictures=lambda *_: found).send(ALERT.payload())
    assert pictures(mailbox.message()) == []
    assert "src=" not in part(mailbox.message(), "html")


def test_a_failing_store_does_not_stop_the_mail(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Where MLflow does not answer, the alert goes without its picture, and the log says so."""
    mailbox = serve()

    def broken(*_: str) -> bytes:
        raise OSError(f"http://user:{PASSWORD}@mlflow is down")

    channel_to(mailbox, pictures=broken).send(ALERT.payload())
    assert pictures(mailbox.message()) == []
    assert caplog.messages == ["e-mail 'mail': an alert goes without its picture (OSError)"]


def test_a_picture_that_stays_too_large_is_left_out() -> None:
    """No mail grows without measure."""
    assert picture_for_email(png(400, 400), largest=2000) is None
    assert len(picture_for_email(png(900, 900)) or b"") <= LARGEST_PICTURE


def test_copies_and_threads_are_known(serve: Serve) -> None:
    """A second copy has the first's Message-ID; what is said later of the incident is an answer to its first mail."""
    mailbox = serve()
    opening, closing = replace(ALERT, incident="tiles/12", dedupe_key="tiles/12"), replace(ALERT, kind="resolved")
    closing = replace(closing, incident="tiles/12", dedupe_key="tiles/12/resolved")
    for alert in (opening, opening, closing):
        channel_to(mailbox).send(alert.payload())
    first, second, third = (message_from_bytes(content, policy=policy.default) for _, content, _ in mailbox.taken)
    assert first["Message-ID"] == second["Message-ID"] != third["Message-ID"]
    assert first["In-Reply-To"] is None
    assert third["In-Reply-To"] == third["References"] == first["Message-ID"]
    assert first["Message-ID"].endswith("@example.com>")


def test_critical_alerts_say_so_first() -> None:
    """The subject of a critical alarm begins with it; that of its end does not."""
    for kind, start in (("alarm", "[critical] reconwatch: "), ("resolved", "reconwatch: ")):
        alert = replace(ALERT, kind=kind, severity="critical")  # type: ignore[arg-type]  # of a tuple
        assert email_message(alert.payload(), "a@b", ["c@d"], None, NOON)["Subject"].startswith(start)


# Names that others chose


def test_a_name_makes_no_header(serve: Serve) -> None:
    """A line break in a batch's name ends no header; nobody else gets the mail."""
    mailbox = serve()
    alert = replace(ALERT, batch="lot\r\nBcc: thief@example.com\r\n\r\nhello", pipeline="tiles\u2028x")
    channel_to(mailbox).send(alert.payload())
    message = mailbox.message()
    assert message["Bcc"] is None
    assert mailbox.taken[0][0] == ["night@example.com"]
    assert message["Subject"].strip().startswith("reconwatch: batch lot Bcc: thief@example.com hello of tiles x raised")


def test_a_name_makes_no_html(serve: Serve) -> None:
    """Names are shown as they are: no element, no address and no attribute comes from them."""
    mailbox = serve()
    odd = '<img src=http://evil.example/x onerror=alert(1)>"&\n.png'
    alert = replace(ALERT, batch=odd, worst=(odd,), sentences=odd, run_url='http://a/"><script>')
    channel_to(mailbox).send(alert.payload())
    html = part(mailbox.message(), "html")
    assert "<img" not in html
    assert "<script" not in html
    assert html.count("&lt;img src=http://evil.example/x onerror=alert(1)&gt;&quot;&amp; .png") == 4


def test_a_long_name_fits(serve: Serve) -> None:
    """Subjects are cut, and lines of the body are as short as SMTP wants them."""
    mailbox = serve()
    channel_to(mailbox).send(replace(ALERT, batch="ü" * 5000).payload())
    content = mailbox.taken[0][1]
    assert len(mailbox.message()["Subject"]) == 200
    assert max(map(len, content.splitlines())) <= 998
    assert content.isascii()


# Encryption and passwords


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_password_and_mail_travel_encrypted(serve: Serve, certificate: Certificate, security: str) -> None:
    """Both ways of encryption log in and hand over, once the certificate is trusted."""
    mailbox = serve(certificate=certificate.shown, encrypted=security == "tls")
    way = channel_to(mailbox, security=security, user="recon", password=PASSWORD, trust=certificate.trusted)
    way.send(ALERT.payload())
    assert [encrypted for *_, encrypted in mailbox.taken] == [True]
    assert mailbox.logins == [f"\0recon\0{PASSWORD}".encode()]


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_certificate_that_is_not_trusted_gets_nothing(serve: Serve, certificate: Certificate, security: str) -> None:
    """Whoever stands in between learns neither the password nor the mail."""
    mailbox = serve(certificate=certificate.shown, encrypted=security == "tls")
    with pytest.raises(DeliveryFailed, match=r"has a certificate that is not trusted \(self.signed certificate\)"):
        channel_to(mailbox, security=security, user="recon", password=PASSWORD).send(ALERT.payload())
    assert (mailbox.logins, mailbox.taken) == ([], [])


def test_no_encryption_is_no_delivery(serve: Serve) -> None:
    """A server without STARTTLS is not spoken to in clear text instead."""
    mailbox = serve()
    with pytest.raises(DeliveryFailed) as failure:
        channel_to(mailbox, security="starttls", user="recon", password=PASSWORD).send(ALERT.payload())
    assert str(failure.value) == (
        f"e-mail 'mail': 127.0.0.1:{mailbox.port} does not offer STARTTLS: check port and security"
    )
    assert (mailbox.logins, mailbox.taken) == ([], [])


# How sending fails


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ({"AUTH": f"535 5.7.8 {PASSWORD} is wrong"}, "refuses user and password (535)"),
        ({"MAIL": "451 4.7.1 later"}, "refuses the mail (451)"),
        ({"RCPT": f"550 5.1.1 {PASSWORD}"}, "refuses every recipient (550)"),
        ({"DATA": "554 5.7.1 spam"}, "refuses the mail (554)"),
    ],
)
def test_a_refusal_is_a_failure(serve: Serve, certificate: Certificate, answers: dict[str, str], sentence: str) -> None:
    """The sentence says what was refused and with which code, and nothing of the server's own words."""
    mailbox = serve(certificate=certificate.shown, answers=answers)
    way = channel_to(mailbox, security="starttls", user="recon", password=PASSWORD, trust=certificate.trusted)
    with pytest.raises(DeliveryFailed) as failure:
        way.send(ALERT.payload())
    assert str(failure.value) == f"e-mail 'mail': 127.0.0.1:{mailbox.port} {sentence}"
    assert not failure.value.unreachable


@pytest.mark.parametrize("verb", ["EHLO", "DATA"])
def test_a_silent_server_is_unreachable(serve: Serve, verb: str) -> None:
    """Silence is waited out once, not for ever."""
    with pytest.raises(DeliveryFailed, match="gave no answer in time") as failure:
        channel_to(serve(answers={verb: "hang"}), timeout=0.3).send(ALERT.payload())
    assert failure.value.unreachable


def test_a_refused_connection_is_unreachable(serve: Serve) -> None:
    """Where nobody listens, the mail did not arrive."""
    with socketserver.TCPServer(("127.0.0.1", 0), Session) as server:
        unused = server.server_address[1]
    with pytest.raises(DeliveryFailed, match=r"could not be reached \(ConnectionRefusedError\)") as failure:
        channel_to(Mailbox(port=unused)).send(ALERT.payload())
    assert failure.value.unreachable


@pytest.mark.parametrize("goodbye", ["hang", "421 too late"])
def test_a_mail_that_was_taken_is_delivered(serve: Serve, goodbye: str) -> None:
    """However the server says goodbye: to send it again would be a second mail."""
    mailbox = serve(answers={"QUIT": goodbye})
    channel_to(mailbox, timeout=0.3).send(ALERT.payload())
    assert len(mailbox.taken) == 1


def test_one_unknown_recipient_does_not_stop_the_others(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """The others get the mail, once; the log names who did not."""
    mailbox = serve()
    channel_to(mailbox, recipients=("night@example.com", "nobody@example.com")).send(ALERT.payload())
    assert mailbox.taken[0][0] == ["night@example.com"]
    assert caplog.messages == ["e-mail 'mail': the server took an alert, but not for nobody@example.com"]


def test_the_password_shows_nowhere(
    serve: Serve, certificate: Certificate, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither log nor output, neither the error nor repr holds it."""
    mailbox = serve(certificate=certificate.shown, answers={"AUTH": f"535 {PASSWORD}"})
    way = channel_to(mailbox, security="starttls", user="recon", password=PASSWORD, trust=certificate.trusted)
    with caplog.at_level(logging.DEBUG), pytest.raises(DeliveryFailed) as failure:
        way.send(ALERT.payload())
    told = repr(way) + repr(failure.value) + repr(failure.value.__cause__) + repr(failure.value.__context__)
    assert PASSWORD not in told + caplog.text + "".join(capfd.readouterr())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:(mlflow|sqlalchemy).*")
def test_the_alarm_of_a_run_shows_the_batch(serve: Serve, project: Callable[..., Path], tmp_path: Path) -> None:
    """`reconwatch run` sends a mail an alarm, each with the contact sheet of its batch's MLflow run."""
    mailbox = serve()
    section = {"type": "email", "host": "127.0.0.1", "port": mailbox.port, "security": "none"}
    path = project(tmp_path, alerts=[section | {"from": "recon@example.com", "to": "night@example.com"}])
    with pytest.raises(SystemExit, match="0"):
        main(["run", "--config", str(path)])
    workspace, shown = open_workspace(path, {}), list[bytes]()
    for _, content, _ in mailbox.taken:
        message = message_from_bytes(content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        (picture,) = pictures(message)
        shown.append(picture.get_content())
    alarms = [record for record in reversed(workspace.ledger.batches.history("tiles")) if record.alarm]
    assert len(alarms) == 2
    assert shown == [workspace.tracking.picture(record.run_id, "worst.png") for record in alarms]


# From the configuration


@pytest.mark.parametrize(("security", "port"), [("starttls", 587), ("tls", 465), ("none", 25)])
def test_the_port_is_that_of_the_encryption(security: str, port: int) -> None:
    """Where none is written, the usual one is taken."""
    section = {"type": "email", "host": "mail.example.com", "from": "a@b", "to": "c@d", "security": security}
    built = channels([config.EmailChannel.model_validate(section)], lambda *_: b"")["email"]
    assert isinstance(built, EmailChannel)
    assert (built.port, built.recipients, built.user) == (port, ("c@d",), None)


def test_user_and_password_reach_the_channel() -> None:
    """Everything that is written is used."""
    section = {"type": "email", "name": "mail", "host": "h", "port": 2525, "from": "a@b", "to": ["c@d", "e@f"]}
    section |= {"user": "recon", "password": SecretStr(PASSWORD), "security": "tls"}
    built = channels([config.EmailChannel.model_validate(section)])["mail"]
    assert built == EmailChannel("mail", "h", 2525, "tls", "a@b", ("c@d", "e@f"), "recon", PASSWORD)
