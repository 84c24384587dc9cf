"""What stands around a start of the server, and how two starts differ in it."""

from __future__ import annotations

from datetime import datetime

import msgspec

KINDS = ("command", "config", "remedy", "python", "package", "host", "model", "env", "gpu", "neighbour")
"""What is compared, what most often breaks a start first.

``command`` the operator's flags, program and folder; ``config`` the flags of the ``--config`` file; ``remedy``
what remedies laid over the command; ``python`` the server's interpreter; ``package`` what is installed there;
``host`` driver, kernel, C library, CUDA libraries outside of packages; ``model`` the model's files; ``env``
variables; ``gpu`` the cards; ``neighbour`` what other processes hold on them.
"""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as it was.

    Attributes:
        kind: One of `KINDS`.
        before, after: ``None`` where it was, or is, not there. Secrets are fingerprints.
    """

    kind: str
    name: str
    before: str | None
    after: str | None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """How a start's surroundings differ from those of the last healthy one before it.

    Attributes:
        since: When that one began; ``None`` where no healthy start is known.
        changes: Most suspicious first.
        more: How many further changes were left out.
        unseen: Kinds that could not be looked at in one of the two.
    """

    since: datetime | None = None
    changes: tuple[Change, ...] = ()
    more: int = 0
    unseen: tuple[str, ...] = ()
