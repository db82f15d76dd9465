"""One address, asked with patience: either it sends the file that was meant, or nothing is kept."""

from __future__ import annotations

import logging
import os
import random
import re
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import monotonic, sleep
from urllib.parse import urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from attnlab.errors import DownloadError

LOGGER = logging.getLogger(__name__)

TIMEOUT_S = 30  # without a byte
SLOWEST = 1000  # bytes a second, below which a stream counts as stalled
TRIES = 4  # at one address
WAIT_S = 1.0  # after the first try; each further wait is twice as long, give or take a half
BUSY_WAIT_S = 4.0  # the same where a server answers that it is busy
LONGEST_WAIT_S = 120.0  # a server that asks for more is given up
BUSY = (408, 425, 429, *range(500, 600))  # answers after which it is worth to ask again
CHUNK_BYTES = 1 << 16

OnBytes = Callable[[int], object]


class _Failure(Exception):
    """What one try met, and the wait before another, in seconds; None: asking again is vain."""

    def __init__(self, problem: str, wait_s: float | None = None, *, is_exact: bool = False):
        super().__init__(problem)
        self.wait_s, self.is_exact = wait_s, is_exact  # exact: as the server asked


class _Session(requests.Session):
    """Follow a redirect to any host, since the checksum is the guard, but never off https."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is None:
            return None
        before, after = urlsplit(resp.url).scheme, urlsplit(urljoin(resp.url, target)).scheme
        if after != "https" and not before == after == "http":
            resp.close()
            raise _Failure(
                f"{resp.url} sends on to {target}, which is not under https. It was not followed."
            )
        return target


class Downloads:
    """Downloads that share connections, and remember which hosts failed.

    Nothing is resumed and nothing is kept of a try that failed, so that a foreign page cannot
    become the beginning of a file.
    """

    def __init__(self) -> None:
        self.session, self.failed = _Session(), set()

    def has_failed(self, url: str) -> bool:
        """Return whether the host of an address was given up before: ask it last."""
        return urlsplit(url).netloc in self.failed

    def get(
        self,
        url: str,
        accept: Callable[[bytes], bytes | None],
        *,
        limit: int,
        on_bytes: OnBytes = lambda _: None,
    ) -> bytes:
        """Return what ``accept`` makes of the body behind an address, in ``TRIES`` tries.

        A busy or silent server and a broken stream are asked again, after what ``Retry-After``
        says or after waits that double; what cannot change is not.

        Args:
            accept: From the body to what is wanted of it, or to None where it is another file.
            limit: Most bytes that are read.
            on_bytes: Called with the number of bytes that are here.
        Raises:
            DownloadError: With address and cause, after the last try.
        """
        for n_tries in range(1, TRIES + 1):
            try:
                return self._try(url, accept, limit, on_bytes)
            except _Failure as failure:
                problem, wait_s = str(failure), failure.wait_s
                if wait_s is not None and not failure.is_exact:
                    wait_s *= 2 ** (n_tries - 1) * random.uniform(0.5, 1.5)
            if wait_s is None or n_tries == TRIES:
                break
            if wait_s > LONGEST_WAIT_S:
                problem += f" It asks to be left alone for {wait_s / 60:.0f} minutes."
                break
            LOGGER.warning("%s Asked again in %.0f s, try %d of %d.",
                           problem, wait_s, n_tries + 1, TRIES)  # fmt: skip
            sleep(wait_s)
        self.failed.add(urlsplit(url).netloc)
        raise DownloadError(problem)

    def _try(
        self, url: str, accept: Callable[[bytes], bytes | None], limit: int, on_bytes: OnBytes
    ) -> bytes:
        as_it_is = {"Accept-Encoding": "identity"}
        try:
            with self.session.get(url, headers=as_it_is, stream=True, timeout=TIMEOUT_S) as answer:
                if answer.status_code != 200:
                    raise _answered(url, answer)
                body = _read(url, answer, limit, on_bytes)
        except (OSError, HTTPError, UnicodeError) as error:
            raise _unreachable(url, error) from error
        for form in (body, _decoded(body, answer, limit)):
            if form is not None and (found := accept(form)) is not None:
                return found
        if not {"Content-Length", "Transfer-Encoding"} & answer.headers.keys():  # perhaps not whole
            raise _Failure(f"{url} broke off, or is another file than the pinned one.", WAIT_S)
        raise _another_file(url, body)


def _read(url: str, answer: requests.Response, limit: int, on_bytes: OnBytes) -> bytes:
    body, started = bytearray(), monotonic()
    while chunk := answer.raw.read1(CHUNK_BYTES, decode_content=False):
        body += chunk
        if len(body) > limit:
            raise _another_file(url, body)
        if monotonic() - started > TIMEOUT_S + len(body) / SLOWEST:
            raise _Failure(f"{url} stalls: {len(body):,} bytes in {TIMEOUT_S} s.", WAIT_S)
        on_bytes(len(body))
    return bytes(body)


def _decoded(body: bytes, answer: requests.Response, limit: int) -> bytes | None:
    """Return a body that was packed on the way, against our wish, unpacked."""
    if answer.headers.get("Content-Encoding", "").lower() not in ("gzip", "x-gzip", "deflate"):
        return None
    try:
        return zlib.decompressobj(wbits=47).decompress(body, limit + 1)
    except zlib.error:
        return None


def _another_file(url: str, body: bytes | bytearray) -> _Failure:
    kind = "another file than the pinned one: it is broken or changed"
    if re.search(rb"<(!doctype )?html", bytes(body[:2000]).lower()):
        kind = (
            "a web page, another file than the pinned one: where a network asks you to log in, "
            "open any page in a browser first"
        )
    return _Failure(f"{url} sends {kind}. It was thrown away.")


def _answered(url: str, answer: requests.Response) -> _Failure:
    after = answer.headers.get("Retry-After", "")
    problem = f"{url} answers {answer.status_code} {answer.reason}."
    if re.fullmatch(r"\d{1,9}", after):
        return _Failure(problem, float(after), is_exact=True)
    try:
        wait = parsedate_to_datetime(after) - datetime.now(UTC)
        return _Failure(problem, max(0.0, wait.total_seconds()), is_exact=True)
    except (ValueError, TypeError):  # no date, or none with a time zone
        return _Failure(problem, BUSY_WAIT_S if answer.status_code in BUSY else None)


def _unreachable(url: str, error: Exception) -> _Failure:
    """Return the failure behind an exception of the connection, in words."""
    if isinstance(error, ValueError):  # requests: no or another scheme, no host
        return _Failure(f"{url} is no address to download from: it should start with https://.")
    if isinstance(error, requests.TooManyRedirects):
        return _Failure(f"{url} sends on and on to other addresses.")
    if "CERTIFICATE_VERIFY_FAILED" in str(error) or "CA certificate" in str(error):
        return _Failure(
            f"{url}: its certificate cannot be checked ({_reason(error)}), so nothing was read. "
            "See that the clock of this machine is right; where a firewall or proxy signs pages "
            "itself, set REQUESTS_CA_BUNDLE to the file with its certificate."
        )
    if isinstance(error, requests.exceptions.ProxyError):
        named = [n for n in os.environ if n.lower() in ("http_proxy", "https_proxy", "all_proxy")]
        return _Failure(
            f"{url}: the proxy that {' or '.join(sorted(named))} names does not answer.", WAIT_S
        )
    if isinstance(error, requests.Timeout | ReadTimeoutError | TimeoutError):
        return _Failure(f"{url} sent nothing for {TIMEOUT_S} s.", WAIT_S)
    if isinstance(error, HTTPError):
        return _Failure(f"{url} broke off ({type(error).__name__}).", WAIT_S)
    return _Failure(f"{url} cannot be reached ({_reason(error)}). Is this machine online?", WAIT_S)


def _reason(error: Exception) -> str:
    """Return the cause that stands deepest in nested messages of the connection."""
    causes = re.findall(r"\[?(?:Errno|SSL:?)[^\]]*\]\s*([^(\"']+)", str(error))
    return causes[-1].strip(" .)") if causes else type(error).__name__
