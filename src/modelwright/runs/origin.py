"""Where a recipe came from: this user's own runs carry a signature that only this user can make.

A recipe may name classes to import. One that came from elsewhere is therefore run only when the user says so
(``--trust``); :func:`ours` tells the two apart. The secret lies in the user's configuration folder.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path

import yaml

from modelwright.base.events import emit

_LENGTH = 32


def sign(text: str) -> str:
    """The HMAC-SHA256 of ``text`` under this user's secret; ``""`` where no secret can be kept."""
    secret = _secret()
    return _digest(secret, text) if secret else ""


def ours(text: str, signature: str) -> bool:
    """Whether ``signature`` was made by this user for exactly this ``text``."""
    secret = _read(secret_path()) if signature else None
    return secret is not None and hmac.compare_digest(_digest(secret, text).encode(), signature.encode())


def meaning(recipe: str) -> str:
    """A hash of what a recipe says, whatever its comments and layout."""
    try:
        said = json.dumps(yaml.safe_load(recipe), sort_keys=True, default=str)
    except yaml.YAMLError:
        said = recipe
    return hashlib.sha256(said.encode()).hexdigest()


def secret_path() -> Path:
    """Where the secret lies: ``$XDG_CONFIG_HOME/modelwright/origin``, or below ``~/.config``."""
    configured = os.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(configured) if Path(configured).is_absolute() else Path.home() / ".config"
    return folder / "modelwright" / "origin"


def _secret() -> bytes | None:
    path = secret_path()
    try:
        return _read(path) or _make(path)
    except (OSError, RuntimeError) as error:
        emit(
            "origin-not-kept",
            f"no secret can be kept to recognise your own recipes: {error}",
            level="warning",
            path=str(path),
        )
        return None


def _read(path: Path) -> bytes | None:
    try:
        secret, mode = path.read_bytes(), path.stat().st_mode
    except OSError:
        return None
    exposed = os.name == "posix" and mode & 0o077
    return secret if len(secret) == _LENGTH and not exposed else None


def _make(path: Path) -> bytes | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        emit(
            "origin-replaced",
            "the secret was damaged or readable by others; a new one is made",
            level="warning",
        )
        path.unlink()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write(temporary, secrets.token_bytes(_LENGTH))
        os.link(temporary, path)  # unlike a rename, it never replaces what another process has just made
    except FileExistsError:
        pass
    finally:
        temporary.unlink(missing_ok=True)
    return _read(path)


def _write(path: Path, secret: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())


def _digest(secret: bytes, text: str) -> str:
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()
