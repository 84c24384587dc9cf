"""How a server is launched: the operator's wish, and what remedies laid over it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec


class LaunchSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A command as the operating system takes it.

    Attributes:
        argv: Program and arguments, nothing expanded, no shell.
        env: Variables set on top of the daemon's own environment.
        cwd: Absolute working directory; FastDeploy writes ``log/`` below it.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = {}
    cwd: str = "/"


class Overlay(msgspec.Struct, frozen=True, kw_only=True):
    """One change that a remedy laid over the operator's command.

    Attributes:
        flag: As the server spells it, with its dashes: ``--max-num-seqs``.
        before: The effective value before, ``None`` where the flag was not given.
        after: The value now, ``None`` where the flag is taken out. A switch without value has ``""``.
        incident_id: Why it was laid.
    """

    flag: str
    before: str | None
    after: str | None
    incident_id: str
    at: datetime


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """What decides the bytes of a model (``config.json`` of the model, or the shipped table)."""

    name: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    intermediate: int
    vocab: int
    max_positions: int = 131072
    tied_embeddings: bool = False
    experts: int = 0
    experts_active: int = 0
    experts_shared: int = 0
    moe_intermediate: int = 0
    dense_layers: int = 0
    checkpoint_bytes: int | None = None
