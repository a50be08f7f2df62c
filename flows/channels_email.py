"""Alerts by e-mail, over SMTP."""

import logging
import smtplib
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from email.message import EmailMessage
from typing import Any, Literal

from flows.alert_email import email_message, picture_for_email
from flows.alerts import DeliveryFailed
from flows.ledger import utc_now

Security = Literal["starttls", "tls", "none"]
Pictures = Callable[[str, str], bytes | None]

TIMEOUT = 20.0  # seconds for connecting, and for each answer
_LOGGER = logging.getLogger("reconwatch.alerts")


def no_picture(_run_id: str, _name: str) -> None:
    """No picture, where there is no MLflow to ask for it."""
    return


@dataclass(frozen=True)
class EmailChannel:
    """A mail to some people, through one SMTP server.

    Attributes:
        security: `starttls` and `tls` refuse a server whose certificate is not trusted, or not for `host`.
        sender: its address.
        recipients: their addresses.
        pictures: gives the picture of a run by the run's id and the artifact's name, or None.
        trust: makes what says which certificates are trusted.
    """

    name: str
    host: str
    port: int
    security: Security
    sender: str
    recipients: tuple[str, ...]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    pictures: Pictures = field(default=no_picture, repr=False)
    timeout: float = TIMEOUT
    trust: Callable[[], ssl.SSLContext] = field(default=ssl.create_default_context, repr=False)
    clock: Callable[[], datetime] = field(default=utc_now, repr=False)

    def send(self, payload: Mapping[str, Any]) -> None:
        """Sends the mail; raises DeliveryFailed where the server did not take it for anybody.

        Where it took it for some, that is logged and counts as delivered: the others would get it again and again.
        """
        message = email_message(payload, self.sender, self.recipients, self._picture(payload), self.clock())
        try:
            refused = self._handed_over(message)
        except Exception as error:
            failed = self._failure(error)
        else:
            for address in refused:
                _LOGGER.warning("e-mail '%s': the server took an alert, but not for %s", self.name, address)
            return
        raise failed  # outside of `except`: the server's words may hold anything

    def _picture(self, payload: Mapping[str, Any]) -> bytes | None:
        """The contact sheet; a mail without it is better than none."""
        if not payload["run_id"] or not payload["picture"]:
            return None
        try:
            found = self.pictures(payload["run_id"], payload["picture"])
            return picture_for_email(found) if found else None
        except Exception as error:
            _LOGGER.warning("e-mail '%s': an alert goes without its picture (%s)", self.name, type(error).__name__)
            return None

    def _handed_over(self, message: EmailMessage) -> tuple[str, ...]:
        """Sends it; the addresses that the server did not take it for."""
        server = self._connected()
        try:
            if self.security == "starttls":
                server.starttls(context=self.trust())
            if self.user is not None:
                server.login(self.user, self.password or "")
            refused = server.send_message(message)
            with suppress(OSError):  # it was taken: how the server says goodbye changes nothing
                server.quit()
            return tuple(refused)
        finally:
            server.close()

    def _connected(self) -> smtplib.SMTP:
        if self.security == "tls":
            return smtplib.SMTP_SSL(self.host, self.port, timeout=self.timeout, context=self.trust())
        return smtplib.SMTP(self.host, self.port, timeout=self.timeout)

    def _failure(self, error: Exception) -> DeliveryFailed:
        who = f"e-mail '{self.name}': {self.host}:{self.port}"
        if isinstance(error, smtplib.SMTPAuthenticationError):
            return DeliveryFailed(f"{who} refuses user and password ({error.smtp_code})")
        if isinstance(error, smtplib.SMTPRecipientsRefused):
            codes = sorted({code for code, _ in error.recipients.values()})
            return DeliveryFailed(f"{who} refuses every recipient ({', '.join(map(str, codes))})")
        if isinstance(error, smtplib.SMTPResponseException):
            return DeliveryFailed(f"{who} refuses the mail ({error.smtp_code})")
        if isinstance(error, smtplib.SMTPNotSupportedError):
            return DeliveryFailed(f"{who} does not offer {_what_is_missing(error)}")
        if isinstance(error, ssl.SSLCertVerificationError):
            return DeliveryFailed(f"{who} has a certificate that is not trusted ({error.verify_message})")
        if isinstance(error, ssl.SSLError):
            return DeliveryFailed(f"{who} could not agree on encryption ({error.reason}): check port and security")
        if isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError):  # smtplib has its own for it
            return DeliveryFailed(f"{who} gave no answer in time", unreachable=True)
        if isinstance(error, OSError):
            return DeliveryFailed(f"{who} could not be reached ({type(error).__name__})", unreachable=True)
        return DeliveryFailed(f"{who} failed with {type(error).__name__}")


def _what_is_missing(error: smtplib.SMTPNotSupportedError) -> str:
    return "STARTTLS: check port and security" if "STARTTLS" in str(error) else "a way to log in: leave out user"
