"""What stands before the API on TCP, where anybody on the host, and any page in a browser there, may knock.

The socket in the state folder needs none of it: its file's mode says who may.

Against DNS rebinding, a page's own name is no name of ours. Against forged requests from pages of other sites, a
change needs a token, JSON by its type (`diagnose.web.api`), and, where the browser tells, a page of ours. Nothing is
ever allowed across origins (no CORS).
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from diagnose.errors import ConfigError
from diagnose.web import api, paths
from diagnose.web.shapes import Refusal

_READS = frozenset({"GET", "HEAD"})

_OWN_SITE = frozenset({"same-origin", "none"})


class Gate:
    """Lets through to ``app`` what may be.

    Args:
        token: Reads it anew each time; ``None`` where there is none, and nothing can be changed.
        names: By which the daemon goes, beside those of the host itself and all addresses.
        open_reads: Whether what changes nothing needs no token: so on loopback.
    """

    def __init__(
        self, app: ASGIApp, *, token: Callable[[], str] | None, names: Iterable[str] = (), open_reads: bool
    ) -> None:
        self.app, self.token, self.open_reads = app, token, open_reads
        self.names = {"localhost", socket.gethostname().lower(), *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            try:
                self._judge(scope)
            except Refusal as refusal:
                await api.refused(refusal)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _judge(self, scope: Scope) -> None:
        """Say whether a request may pass.

        Raises:
            Refusal: It may not.
        """
        headers, method = Headers(scope=scope), scope["method"]
        host = headers.get("host", "")
        if not self._is_ours(host):
            raise Refusal(421, f"this is not {host[:100]!r}", "Use the host's name, or add yours to http: names.")
        reads = method in _READS
        if not reads:
            self._refuse_other_sites(headers, host)
        if not reads or not (self.open_reads or scope["path"] in paths.FOR_ALL):
            self._ask_for_token(headers)

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return "@" not in host and (name in self.names or _is_address(name))

    def _refuse_other_sites(self, headers: Headers, host: str) -> None:
        origin = headers.get("origin")
        strange = headers.get("sec-fetch-site", "none") not in _OWN_SITE
        if strange or (origin is not None and urlsplit(origin).netloc.lower() != host.lower()):
            raise Refusal(403, "asked for by a page of another site", "Ask from the daemon's own page, or from none.")

    def _ask_for_token(self, headers: Headers) -> None:
        cure = "Write one into a file (openssl rand -hex 32), and name it as http: token_file."
        if self.token is None:
            raise Refusal(403, "this daemon has no token, so nothing can be changed over TCP", cure)
        try:
            token = self.token()
        except ConfigError as error:
            raise Refusal(403, f"the daemon's token cannot be used: {error}", cure) from error
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
            given_cure = "Send Authorization: Bearer TOKEN; the token stands in the file that http: token_file names."
            raise Refusal(401, "this needs the token", given_cure, {"WWW-Authenticate": "Bearer"})


def _is_address(name: str) -> bool:
    """Say whether a host is an address: those cannot be led elsewhere by a name server."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
