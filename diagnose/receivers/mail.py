"""Mail. One incident is one thread: its key names the first message, the others answer to it."""

from __future__ import annotations

import email.policy
import hashlib
import smtplib
import ssl
from collections.abc import Sequence
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime

from diagnose.errors import ConfigError
from diagnose.notices.config import Email
from diagnose.notices.cut import cut
from diagnose.notices.message import Writer
from diagnose.notices.pack import Batch
from diagnose.notices.post import Post
from diagnose.receivers.outcome import Outcome
from diagnose.receivers.secrets import hidden, read
from diagnose.receivers.webhook import delivery_id

_MOST_BYTES, _MOST_SUBJECT_BYTES = 50_000, 400
_NOT_TRUSTED = "Give the certificate of its authority as ca_file, and the name that it stands for as server."
_OTHERWISE = {
    "tls": "Try tls: starttls (port 587).",
    "starttls": "Try tls: tls (port 465).",
    "none": "Try tls: starttls (port 587).",
}
"""What may be meant where a server does not speak TLS in the way that is configured; never less than TLS."""


class MailSender:
    """Writes and sends mail; it blocks, so it has a thread of its own.

    Raises:
        ConfigError: Its ``ca_file`` cannot be used.
    """

    def __init__(self, config: Email, writer: Writer) -> None:
        self.config, self.writer = config, writer
        _context(config.ca_file)  # it can be used

    def compose(self, batch: Batch, now: datetime) -> EmailMessage:
        """Write the mail."""
        written = self.writer.write(batch.posts, _MOST_BYTES)
        mail = EmailMessage(policy=email.policy.SMTP)
        mail["From"], mail["To"] = self.config.sender, ", ".join(self.config.to)
        mail["Subject"] = cut(" ".join(written.title.split()), _MOST_SUBJECT_BYTES)
        mail["Date"] = format_datetime(now)
        thread, first = _thread(batch.posts)
        mail["Message-ID"] = thread if first else f"<{delivery_id(batch)}@diagnose.invalid>"
        if not first:
            mail["In-Reply-To"] = mail["References"] = thread
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(written.body + "\n")
        return mail

    def send_now(self, batch: Batch, now: datetime) -> Outcome:
        """Send; that one of several people is not known is noted, since the others have the mail.

        Raises:
            ConfigError: The password is not there.
        """
        password = read(self.config.password) if self.config.password else ""
        try:
            refused = self._send(self.compose(batch, now), password)
        except smtplib.SMTPAuthenticationError as error:
            return Outcome(kind="barred", error=_said(error, password))
        except smtplib.SMTPRecipientsRefused as error:
            worst = max((code for code, _ in error.recipients.values()), default=550)
            return Outcome(kind="barred" if worst >= 500 else "later", error=f"no recipient was taken (SMTP {worst})")
        except smtplib.SMTPResponseException as error:
            return Outcome(kind="later" if error.smtp_code < 500 else "refused", error=_said(error, password))
        except ssl.SSLCertVerificationError as error:
            why = f"the certificate of {self.config.server} is not accepted: {error.verify_message}"
            return Outcome(kind="barred", error=f"{why}. {_NOT_TRUSTED}")
        except (ssl.SSLError, smtplib.SMTPNotSupportedError) as error:
            return Outcome(kind="barred", error=hidden(f"{error}. {_OTHERWISE[self.config.tls]}", [password])[:300])
        except (smtplib.SMTPException, OSError, ValueError) as error:
            return Outcome(kind="later", error=hidden(str(error) or type(error).__name__, [password])[:300])
        note = f"not taken for {', '.join(sorted(refused))}" if refused else ""
        return Outcome(kind="sent", note=note)

    def _send(self, mail: EmailMessage, password: str) -> dict[str, tuple[int, bytes]]:
        config, seconds = self.config, self.config.timeout.total_seconds()
        context = _context(config.ca_file) if config.tls != "none" else None
        server: smtplib.SMTP
        if config.tls == "tls":
            server = smtplib.SMTP_SSL(config.server, config.port, timeout=seconds, context=context)
        else:
            server = smtplib.SMTP(config.server, config.port, timeout=seconds)
        with server:
            if config.tls == "starttls":
                server.starttls(context=context)
            if config.user:
                server.login(config.user, password)
            return server.send_message(mail)


def _context(ca_file: str) -> ssl.SSLContext:
    """Trust the host's authorities, and those of the file.

    Raises:
        ConfigError: The file cannot be used.
    """
    context = ssl.create_default_context()
    if ca_file:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:  # an SSLError is one
            told = error.strerror or "no certificates"
            raise ConfigError(
                f"alerts: {ca_file}: {told}. Name a file of certificates (PEM), or no ca_file."
            ) from error
    return context


def _thread(posts: Sequence[Post]) -> tuple[str, bool]:
    """Name the thread of the gravest incident, and whether this is its first message."""
    lead = max(posts, key=lambda one: (one.rank, -one.at.timestamp()))
    name = hashlib.sha256(lead.key.encode()).hexdigest()[:24]
    first = all(post.id.endswith("/1") for post in posts if post.key == lead.key)
    return f"<{name}@diagnose.invalid>", first


def _said(error: smtplib.SMTPResponseException, password: str) -> str:
    said = error.smtp_error.decode("utf-8", "replace") if isinstance(error.smtp_error, bytes) else str(error.smtp_error)
    return hidden(f"SMTP {error.smtp_code}: {said}", [password])[:300]
