"""Fetch one pinned file: from an allowed host, resumed, bounded, verified, then renamed."""

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

from attnlab.errors import AttnlabError, IntegrityError

ALLOWED_ORIGINS = frozenset(
    {
        "https://raw.githubusercontent.com",
        "https://huggingface.co",
        # where the latter sends a reader for large files
        "https://cdn-lfs.huggingface.co",
        "https://cdn-lfs.hf.co",
        "https://cdn-lfs-us-1.hf.co",
        "https://cas-bridge.xethub.hf.co",
    }
)
TIMEOUT_S = 30
N_ATTEMPTS = 3

_CHUNK_BYTES = 1 << 16

OnBytes = Callable[[int], None]


class DownloadError(AttnlabError):
    """A file that the source did not deliver: no network, no such file, another host."""


def download(
    url: str,
    to: Path,
    *,
    size_bytes: int,
    sha256: str,
    allowed_origins: Collection[str] = ALLOWED_ORIGINS,
    on_bytes: OnBytes | None = None,
) -> None:
    """Write the file behind ``url`` to ``to``; it appears there whole and verified or not at all.

    A transfer that stops early leaves a partial file beside ``to`` and goes on from there,
    three times by itself and again at the next call.

    Args:
        url: Pinned address.
        size_bytes: Promised length; reading stops above it.
        sha256: Promised checksum in hex.
        allowed_origins: ``scheme://host[:port]`` that may be asked, redirects included.
        on_bytes: Called with the number of bytes that lie on disk so far.

    Raises:
        DownloadError: The file could not be had.
        IntegrityError: It could, and is not the promised one.
    """
    _check_origin(url, allowed_origins)
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = to.with_name(f"{to.name}.{sha256[:12]}.part")
    for _ in range(N_ATTEMPTS):
        if _size(partial) >= size_bytes:
            break
        _transfer(url, partial, size_bytes, allowed_origins, on_bytes or _ignore)
    _check_partial(partial, url, size_bytes=size_bytes, sha256=sha256)
    partial.replace(to)


def origin(url: str) -> str:
    """Return ``scheme://host[:port]`` of an address."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _transfer(
    url: str, partial: Path, size_bytes: int, allowed_origins: Collection[str], on_bytes: OnBytes
) -> None:
    start = _size(partial)
    try:
        with _open(url, start, allowed_origins) as response:
            start = start if _continues(response, start) else 0
            with partial.open("ab" if start else "wb") as file:
                for chunk in _chunks(response, limit=size_bytes + 1 - start):
                    file.write(chunk)
                    on_bytes(file.tell())
    except urllib.error.HTTPError as problem:
        problem.close()
        if problem.code == 416:  # the partial file is no beginning of what the source has
            partial.unlink(missing_ok=True)
            return
        raise DownloadError(
            f"{url} answers {problem.code} {problem.reason}. The source has moved or removed the "
            "file, or is busy. Try again later, or set ATTNLAB_DATA to a folder with a copy."
        ) from problem
    except ConnectionResetError:
        return  # what arrived is kept; the next attempt goes on from there
    except (OSError, HTTPException) as problem:
        raise DownloadError(
            f"{url} cannot be reached ({problem}). Is this machine online? What has arrived is "
            "kept: the same command goes on from there. Offline, set ATTNLAB_DATA to a copy."
        ) from problem


def _open(url: str, start: int, allowed_origins: Collection[str]) -> HTTPResponse:
    headers = {"User-Agent": "attnlab", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    opener = urllib.request.build_opener(_SameHosts(allowed_origins))
    return opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)


def _continues(response: HTTPResponse, start: int) -> bool:
    content_range = response.headers.get("Content-Range", "")
    return response.status == 206 and content_range.startswith(f"bytes {start}-")


def _chunks(response: HTTPResponse, *, limit: int) -> Iterator[bytes]:
    while limit > 0 and (chunk := response.read(min(_CHUNK_BYTES, limit))):
        limit -= len(chunk)
        yield chunk


def _check_partial(partial: Path, url: str, *, size_bytes: int, sha256: str) -> None:
    got = _size(partial)
    if got < size_bytes:
        raise IntegrityError(
            f"{url} broke off after {got:,} of {size_bytes:,} bytes. What has arrived is kept; "
            "run the same command to go on from there."
        )
    if got > size_bytes:
        partial.unlink()
        raise IntegrityError(
            f"{url} sends more than the pinned {size_bytes:,} bytes, so it is another file. "
            "Nothing was kept. Report it, or set ATTNLAB_DATA to a copy that verifies."
        )
    with partial.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        partial.unlink()
        raise IntegrityError(
            f"{url} has sha256 {found}, expected {sha256}. Nothing was kept. Run the command "
            "again; if it repeats, the source or the way to it has changed the file."
        )


def _check_origin(url: str, allowed_origins: Collection[str]) -> None:
    if origin(url) not in allowed_origins:
        raise DownloadError(
            f"{url} leads to {origin(url)}, which is not an allowed source "
            f"({', '.join(sorted(allowed_origins))}). Nothing was fetched. Set ATTNLAB_DATA to a "
            "folder with a copy, or report the change of the source."
        )


class _SameHosts(urllib.request.HTTPRedirectHandler):
    def __init__(self, allowed_origins: Collection[str]) -> None:
        self._allowed_origins = allowed_origins

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        try:
            _check_origin(newurl, self._allowed_origins)
        except DownloadError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _size(path: Path) -> int:
    return os.path.getsize(path) if path.exists() else 0


def _ignore(_: int) -> None:
    pass
