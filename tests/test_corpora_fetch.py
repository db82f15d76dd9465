"""Downloads against a server on loopback that behaves in every bad way at once."""

import gzip
import hashlib
import io
import logging
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from attnlab.corpora import DownloadError, download, fetch_corpus
from attnlab.corpora import fetch as fetching
from attnlab.corpora.fetch import CorpusEntry, PinnedFile, fetch_files, read_files
from attnlab.errors import IntegrityError

TEXT = "First line\r\n" + "second line, é\r\n" * 9001  # several chunks
ORIGINAL = TEXT.encode("latin-1")
STORED = b"First line\n"  # what the manifest keeps
MIRRORED = "/set/inner/text.txt.gz"


class Handler(BaseHTTPRequestHandler):
    """Answer in the manner that the path names."""

    def do_GET(self):
        self.server.seen.append(self.path)
        self.server.headers.append(self.headers)
        self.n_seen = len(self.server.seen)
        MANNERS.get(self.path, lambda self: self.send_error(404))(self)

    def send(self, body=ORIGINAL, *, status=200, length=None, **headers):
        headers["Content-Length"] = str(len(body) if length is None else length)
        self.send_response(status)
        for name, value in headers.items():
            if value:  # without a length the client cannot know when it ends
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def send_late(self):
        if self.n_seen == 1:
            self.server.hang.wait(9)
        self.send()

    def stall(self, **headers):
        """Send a beginning, then nothing, and hold the line; the second time send all."""
        if self.n_seen > 1:
            return self.send()
        self.send(ORIGINAL[:999], length=len(ORIGINAL), **headers)
        self.wfile.flush()
        self.server.hang.wait(9)

    def drip(self):
        """Send so slowly that the line is never silent, and the file never there."""
        if self.n_seen > 1:
            return self.send()
        self.send(b"", length=len(ORIGINAL))
        while not self.server.hang.wait(0.05):
            self.wfile.write(b"x")
            self.wfile.flush()

    def send_pieces(self, *, n_pieces=3):
        """Send in chunks; the line breaks before the end where there are fewer than three."""
        self.protocol_version = "HTTP/1.1"
        self.send(b"", length="", Transfer_Encoding="chunked")
        third = -(-len(ORIGINAL) // 3)
        for piece in range(n_pieces):
            part = ORIGINAL[piece * third : (piece + 1) * third]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n" if n_pieces == 3 else b"")
        self.close_connection = True

    def reset(self):
        """Tear the line down before a word is said."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()

    def send_elsewhere(self):
        self.send(b"", status=302, Location=f"http://localhost:{self.server.server_port}/good")

    def log_message(self, *_):
        pass


def at_first(manner, **how):
    """Behave so the first time, and well from then on."""
    return lambda self: manner(self, **how) if self.n_seen == 1 else self.send()


PAGE = b"<!DOCTYPE html><html><title>Log in</title>"
LATER = "Fri, 01 Jan 2100 00:00:00 GMT"
MANNERS = {
    "/good": Handler.send,
    "/pieces": Handler.send_pieces,
    "/elsewhere": Handler.send_elsewhere,
    "/packed-on-the-way": lambda self: self.send(gzip.compress(ORIGINAL), Content_Encoding="gzip"),
    "/said-to-be-packed": lambda self: self.send(Content_Encoding="gzip"),
    "/no-length": lambda self: self.send(length=""),
    # mends itself
    "/busy-twice": lambda self: self.send(b"", status=429) if self.n_seen <= 2 else self.send(),
    "/down-once": at_first(Handler.send, body=b"", status=503),
    "/broken-once": at_first(Handler.send, body=b"", status=500),
    "/forbidden-for-7-s": at_first(Handler.send, body=b"", status=403, Retry_After="7"),
    "/busy-for-9-s": at_first(Handler.send, body=b"", status=429, Retry_After="9"),
    "/busy-until": at_first(Handler.send, body=b"", status=503,
                            Retry_After="Thu, 01 Jan 2026 00:00:00 GMT"),
    "/busy-for-nonsense": at_first(Handler.send, body=b"", status=429, Retry_After="soon"),
    "/breaks-once": at_first(Handler.send, body=ORIGINAL[:99], length=len(ORIGINAL)),
    "/breaks-without-length": at_first(Handler.send, body=ORIGINAL[:99], length=""),
    "/breaks-between-pieces": at_first(Handler.send_pieces, n_pieces=2),
    "/hangs-once": Handler.send_late,
    "/stalls": Handler.stall,
    "/drips": Handler.drip,
    "/resets": at_first(Handler.reset),
    # does not
    "/down": lambda self: self.send(b"", status=503),
    "/busy-for-years": lambda self: self.send(b"", status=429, Retry_After=LATER),
    "/part": lambda self: self.send(ORIGINAL[:99], status=206,
                                    Content_Range=f"bytes 0-98/{len(ORIGINAL)}"),
    "/wrong": lambda self: self.send(ORIGINAL[:-1] + b"!"),
    "/short": lambda self: self.send(ORIGINAL[:-1]),
    "/nothing": lambda self: self.send(b""),
    "/log-in": lambda self: self.send(PAGE, Content_Type="text/html"),
    "/long-page": lambda self: self.send(PAGE + b" " * len(ORIGINAL)),
    "/too-much": lambda self: self.send(ORIGINAL * 20, length=""),
    "/bomb": lambda self: self.send(gzip.compress(bytes(10**7)), Content_Encoding="gzip"),
    "/round": lambda self: self.send(b"", status=302, Location="/round"),
    "/to-a-file": lambda self: self.send(b"", status=302, Location="file:///etc/passwd"),
}  # fmt: skip


@pytest.fixture
def waits(monkeypatch):
    """Let no wait take time; return how long each one was to be, in seconds."""
    waits = []
    monkeypatch.setattr(download, "sleep", waits.append)
    return waits


@pytest.fixture
def server(monkeypatch, waits):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "ATTNLAB_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.seen, server.headers, server.hang = [], [], threading.Event()
        server.handle_error = lambda *_: None  # a client that hangs up is what is tested
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        server.origin = f"http://127.0.0.1:{server.server_port}"
        yield server
        server.hang.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def file(server):
    texts = ORIGINAL, TEXT.replace("\r\n", "\n").encode(), STORED
    kinds = ("sha256_original", "sha256_normalised", "sha256_text")
    sums = {kind: hashlib.sha256(text).hexdigest() for kind, text in zip(kinds, texts, strict=True)}
    sizes = {"size_bytes": len(ORIGINAL), "n_bytes": len(STORED)}
    steps = {"encoding": "latin-1", "newline": "CRLF", "unpack": "-", "note": "-"}
    steps["step"] = f"first_bytes:{len(STORED)}"
    place = {"path": "inner/text.txt.gz", "split": "train", "url": f"{server.origin}/good"}
    return PinnedFile(**place, **sums, **sizes, **steps)


def entry_of(*files):
    return CorpusEntry(name="little", folder="set", licence="free", about="", files=files)


@pytest.fixture
def get(server, file, tmp_path):
    """Fetch the file as the server sends it in these manners; return what lies in its place."""

    def get(*manners, on_bytes=lambda _: None, **changes):
        url = " ".join(f"{server.origin}/{manner}" for manner in manners) or file.url
        pinned = replace(file, **{"url": url, **changes})
        fetch_files(entry_of(pinned), tmp_path, on_bytes)
        return gzip.decompress((tmp_path / "set" / pinned.path).read_bytes())

    return get


def leftovers(tmp_path):
    return {path.name for path in tmp_path.rglob("*") if path.is_file()} - {".lock"}


@pytest.mark.parametrize(
    "asked",
    [
        "good",
        "pieces",
        "elsewhere good",
        "packed-on-the-way",
        "said-to-be-packed",
        "no-length",
        "nowhere log-in good",  # the next address is asked where one fails
        "busy-twice busy-twice busy-twice",
        *(f"{manner} {manner}" for manner in (
            "down-once", "broken-once", "forbidden-for-7-s", "busy-for-9-s", "busy-until",
            "busy-for-nonsense", "breaks-once", "breaks-without-length", "breaks-between-pieces",
            "hangs-once", "stalls", "drips", "resets")),
    ],
)  # fmt: skip
def test_the_pinned_file_arrives_whole_in_the_end(get, server, tmp_path, monkeypatch, asked):
    monkeypatch.setattr(download, "TIMEOUT_S", 0.4)
    manners = dict.fromkeys(asked.split()) if "nowhere" in asked else asked.split()[:1]
    assert get(*manners) == STORED
    assert server.seen == [f"/{manner}" for manner in asked.split()]
    assert not any("Range" in headers for headers in server.headers)  # no try builds on another
    assert leftovers(tmp_path) == {"text.txt.gz"}


@pytest.mark.parametrize(
    ("manner", "lowest", "highest"),
    [
        ("busy-for-9-s", [9], [9]),  # as the server says
        ("busy-until", [0], [0]),
        ("busy-twice", [2, 4], [6, 12]),  # twice as long each time, give or take a half
        ("breaks-once", [0.5], [1.5]),
        ("down", [2, 4, 8], [6, 12, 24]),
        ("busy-for-years", [], []),
    ],
)
def test_the_waits_are_those_that_were_asked_for_or_double(get, waits, manner, lowest, highest):
    with suppress(DownloadError):
        get(manner)
    assert len(waits) == len(lowest)
    assert all(low <= wait <= high for low, wait, high in zip(lowest, waits, highest, strict=True))


def test_no_two_who_were_sent_away_come_back_at_once(get, waits):
    for _ in range(4):
        with suppress(DownloadError):
            get("down")
    assert len(set(waits)) == len(waits) == 12


def test_a_host_that_failed_is_asked_last_for_the_next_file(file, server, tmp_path):
    other = f"http://localhost:{server.server_port}/good"
    pinned = replace(file, url=f"{server.origin}/down {other}")
    more = [replace(pinned, path=f"inner/{number}.gz") for number in range(3)]
    fetch_files(entry_of(pinned, *more), tmp_path, lambda _: None)
    assert server.seen == ["/down"] * download.TRIES + ["/good"] * 4


def test_bytes_are_counted_up_to_the_size(get):
    counts = []
    get("good", on_bytes=counts.append)
    assert counts == sorted(counts)
    assert len(counts) > 2
    assert counts[-1] == len(ORIGINAL)


@pytest.mark.parametrize(
    ("manner", "changes", "message", "n_requests"),
    [
        *((name, {}, f"{name} sends another file.*thrown away", 1) for name in
          ("wrong", "short", "nothing", "too-much", "bomb")),  # asking again brings the same
        *((name, {}, rf"{name} sends a web page.*log in.*thrown away", 1) for name in
          ("log-in", "long-page")),
        ("log-in", {"unpack": "gz"}, "another file", 1),  # not: cannot be unpacked
        ("nowhere", {}, r"/nowhere answers 404.*ATTNLAB_DATA", 1),
        ("part", {}, r"/part answers 206", 1),
        ("down", {}, r"/down answers 503.*ATTNLAB_DATA", 4),  # what is only busy is asked again
        ("busy-for-years", {}, r"answers 429.*alone for \d+ minutes", 1),
        ("round", {}, r"/round sends on and on", 31),
        ("to-a-file", {}, r"sends on to file:///etc/passwd, which is not under https", 1),
        ("good", {"url": "-"}, r"Nobody offers set/inner/text\.txt\.gz", 0),
        ("good", {"url": "here.org/x"}, r"here\.org/x is no address.*start with https://", 0),
        ("good", {"url": "ftp://here.org/x"}, r"ftp://here\.org/x is no address", 0),
        ("good", {"url": "https://"}, r"https:// is no address", 0),
    ],
)  # fmt: skip
def test_what_does_not_arrive_is_thrown_away_and_said_so(
    get, server, tmp_path, manner, changes, message, n_requests
):
    counts = []
    with pytest.raises(DownloadError, match=message):
        get(manner, on_bytes=counts.append, **changes)
    assert len(server.seen) == n_requests
    assert max(counts, default=0) <= len(ORIGINAL)  # what is too long is cut off
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("target", ["http://here.org/file", "file:///file", "//here.org/file"])
def test_a_redirect_off_https_is_not_followed(target):
    answer = requests.Response()
    answer.url, answer.status_code = "https://there.org/file", 302
    answer.headers["Location"], answer.raw = target, io.BytesIO()
    follow = download.Downloads().session.get_redirect_target
    if target.startswith("//"):  # to another host, as secure
        assert follow(answer) == target
    else:
        with pytest.raises(download._Failure, match=f"to {target}, which is not under https"):
            follow(answer)


def test_a_machine_without_network_is_told_so(get, waits):
    with socket.socket() as nobody:  # holds the port and does not listen
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/file"
        with pytest.raises(DownloadError, match=r"cannot be reached.*online"):
            get(url=url)
    assert len(waits) == download.TRIES - 1


UNTRUSTED = (
    "HTTPSConnectionPool(host='here.org', port=443): Max retries exceeded with url: /file (Caused "
    "by SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify "
    "failed: self-signed certificate (_ssl.c:1006)')))"
)


def test_a_certificate_that_cannot_be_checked_is_called_so(get, waits, monkeypatch):
    def refuse(*_, **__):
        raise requests.exceptions.SSLError(UNTRUSTED)

    monkeypatch.setattr(requests.Session, "get", refuse)
    with pytest.raises(DownloadError, match=r"certificate cannot be checked.*self-signed") as told:
        get()
    assert "REQUESTS_CA_BUNDLE" in str(told.value)
    assert "online" not in str(told.value)
    assert not waits  # asking again is vain


def test_a_missing_bundle_of_certificates_is_told(get, monkeypatch, tmp_path):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    with pytest.raises(DownloadError, match=r"certificate cannot be checked"):
        get(url="https://127.0.0.1:9/file")


def test_a_proxy_that_does_not_answer_is_named(get, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(DownloadError, match=r"the proxy that HTTP_PROXY names does not answer"):
        get(url="http://here.org/file")


def test_a_folder_that_cannot_hold_the_file_is_told(file, tmp_path):
    (tmp_path / "set").write_text("a file where the folder should be")
    with pytest.raises(DownloadError, match=r"cannot be stored in .*set.*--to FOLDER"):
        fetch_files(entry_of(file), tmp_path, lambda _: None)


@pytest.mark.parametrize(
    ("served", "changes", "asked"),
    [
        (gzip.compress(STORED, mtime=0), {}, [MIRRORED]),
        (
            gzip.compress(STORED, mtime=0),
            {"url": "-"},
            [MIRRORED],
        ),  # it has what nobody else offers
        (gzip.compress(b"Other line\n", mtime=0), {}, [MIRRORED, "/good"]),
        (b"<!DOCTYPE html>", {}, [MIRRORED, "/good"]),
    ],
)
def test_a_mirror_that_serves_a_data_folder_is_asked_first(
    get, server, monkeypatch, served, changes, asked
):
    monkeypatch.setenv("ATTNLAB_MIRROR", f"{server.origin}/")
    monkeypatch.setitem(MANNERS, MIRRORED, lambda self: self.send(served))
    assert get(**changes) == STORED
    assert server.seen == asked


# a whole corpus


def test_a_fetched_corpus_is_found_and_not_fetched_again(file, server, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNLAB_DATA", str(tmp_path))
    fetch_files(entry_of(file), tmp_path, lambda _: None)
    assert read_files(entry_of(file)) == {"inner/text.txt.gz": STORED}
    counts = []
    fetch_files(entry_of(file), None, counts.append)
    assert len(server.seen) == 1
    assert counts == [file.size_bytes]  # what is here counts as arrived


def test_a_damaged_file_is_fetched_again_as_the_same_bytes(get, file, tmp_path):
    get()
    place = tmp_path / "set" / file.path
    first = place.read_bytes()
    place.write_bytes(first[:-9])
    assert get() == STORED
    assert place.read_bytes() == first


def test_of_two_who_fetch_at_once_one_waits_and_finds_the_files(get, server):
    results = []
    threads = [threading.Thread(target=lambda: results.append(get("hangs-once"))) for _ in "ab"]
    for thread in threads:
        thread.start()
    server.hang.set()
    for thread in threads:
        thread.join()
    assert results == [STORED, STORED]
    assert len(server.seen) == 1


@pytest.mark.parametrize("step", ["sha256_normalised", "sha256_text"])
def test_a_result_that_is_not_the_pinned_one_is_not_stored(get, tmp_path, step):
    with pytest.raises(IntegrityError, match=f"expected {'0' * 64}"):
        get("good", **{step: "0" * 64})
    assert not leftovers(tmp_path)


def test_without_a_counter_the_licence_is_logged(file, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(fetching, "all_entries", lambda: {"little": entry_of(file)})
    with caplog.at_level(logging.WARNING):
        fetch_corpus("little", to=tmp_path)
        assert fetch_corpus("little", to=tmp_path, on_bytes=lambda _: None) == tmp_path / "set"
    assert [record.getMessage() for record in caplog.records] == ["Licence of little: free"]


def test_what_nobody_offers_is_not_fetched_and_what_needs_no_file_is_here(tmp_path, monkeypatch):
    monkeypatch.delenv("ATTNLAB_MIRROR", raising=False)
    with pytest.raises(DownloadError, match=r"train\.tok\.de\.gz.*Set ATTNLAB_DATA"):
        fetch_corpus("ted_iwslt/de-en", to=tmp_path)
    assert not leftovers(tmp_path)
    assert fetch_corpus("python_reference") is None
