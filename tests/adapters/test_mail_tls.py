"""Mail over TLS to a real SMTP server: from the first byte, after STARTTLS, and not to one that is not who it says."""

from __future__ import annotations

import contextlib
import email
import email.policy
import ssl

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from diagnose import outbox
from diagnose.errors import ConfigError
from diagnose.receivers import make
from tests.adapters.alert_path import alerts, live, trouble
from tests.ports import free_port

USER, PASSWORD = "diagnose", "s3cr3t-w0rd"
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH:UserWarning")  # TLS from the first byte is unseen by it
TITLE = "[critical] gpu-07/default: Out of GPU memory while loading"


class Mails:
    """What came, and by whom it was sent; nothing comes but over TLS."""

    def __init__(self):
        self.got = []

    async def handle_DATA(self, _server, session, envelope):  # noqa: N802 - aiosmtpd's own name
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        self.got.append((mail, session.auth_data))
        return "250 taken"


def who(_server, _session, _envelope, _mechanism, data):
    login = (data.login.decode(), data.password.decode())
    return AuthResult(success=login == (USER, PASSWORD), handled=False, auth_data=login[0])


@contextlib.contextmanager
def smtp(tls, certificate):
    """Serve mail on loopback as a mail host does, with a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    mails, port = Mails(), free_port()
    how = {"ssl_context": context} if tls == "tls" else {}
    if tls == "starttls":
        how = {"tls_context": context, "require_starttls": True}
    server = Controller(
        mails, hostname="127.0.0.1", port=port, authenticator=who, auth_require_tls=tls == "starttls",
        auth_required=True, **how,
    )  # fmt: skip
    server.start()
    try:
        yield mails, port
    finally:
        server.stop()


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def site(tmp_path, authority, monkeypatch):
    """Give the folder where the authority's certificate lies; the password is in the environment."""
    monkeypatch.setenv("MAIL_PASSWORD", PASSWORD)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return tmp_path


def config(site, port, tls, **more):
    mail = {
        "kind": "email", "name": "mail", "server": "127.0.0.1", "port": port, "tls": tls, "user": USER,
        "password": {"env": "MAIL_PASSWORD"}, "sender": "diagnose@example.org", "to": ["oncall@example.org"],
        "ca_file": str(site / "ca.pem"), "timeout": "5s",
    }  # fmt: skip
    return alerts({**mail, **more})


def fate(site, told):
    """Try to tell of one trouble; return how the receiver does once it was tried."""

    async def life(path):
        path.save(trouble("a1b2c3d4"))
        await path.until(lambda: path.alerting.outbox.health["mail"].error or path.alerting.outbox.health["mail"].sent)

    live(site / "state", told, life)
    return outbox.read(site / "state").health["mail"]


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_mail_goes_over_tls_with_a_login(site, authority, tls):
    with smtp(tls, authority.issue_cert("127.0.0.1")) as (mails, port):
        health = fate(site, config(site, port, tls))
    assert (health.sent, health.error) == (1, "")
    ((mail, login),) = mails.got
    assert (str(mail["Subject"]), login) == (TITLE, USER)


@pytest.mark.parametrize("tls", ["starttls", "tls"])
@pytest.mark.parametrize(
    ("name", "trusted", "why"),
    [
        pytest.param("127.0.0.1", False, "unable to get local issuer certificate", id="of nobody we trust"),
        pytest.param("mail.example.org", True, "IP address mismatch", id="of another host"),
    ],
)
def test_a_certificate_that_proves_nothing_is_refused_with_the_cure(site, authority, tls, name, trusted, why):
    issuer = authority if trusted else trustme.CA()
    with smtp(tls, issuer.issue_cert(name)) as (mails, port):
        health = fate(site, config(site, port, tls))
    assert mails.got == []
    assert why in health.error
    assert "Give the certificate of its authority as ca_file" in health.error
    assert PASSWORD not in health.error


@pytest.mark.parametrize(
    ("served", "spoken", "cure"),
    [
        pytest.param("starttls", "tls", "Try tls: starttls (port 587)", id="TLS from the first byte to STARTTLS"),
        pytest.param("none", "starttls", "Try tls: tls (port 465)", id="STARTTLS to a server without"),
    ],
)
def test_the_wrong_kind_of_tls_is_told_with_the_right_one(site, authority, served, spoken, cure):
    with smtp(served, authority.issue_cert("127.0.0.1")) as (mails, port):
        health = fate(site, config(site, port, spoken))
    assert mails.got == []
    assert cure in health.error, "nothing is sent in the clear instead"


def test_a_wrong_password_is_told_and_not_shown(site, authority, monkeypatch):
    monkeypatch.setenv("MAIL_PASSWORD", "wr0ng-w0rd")
    with smtp("starttls", authority.issue_cert("127.0.0.1")) as (mails, port):
        health = fate(site, config(site, port, "starttls"))
    assert mails.got == []
    assert health.error.startswith("SMTP 535")
    assert "wr0ng" not in health.error


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param(None, "No such file or directory", id="not there"),
        pytest.param("no certificate", "Name a file of certificates", id="no certificates"),
    ],
)
def test_authorities_that_cannot_be_read_are_told_at_the_start(site, text, told):
    file = site / "ca.pem"
    file.unlink()
    if text:
        file.write_text(text)
    with pytest.raises(ConfigError, match=told):
        make.senders(config(site, 25, "starttls"))
