"""Downloads against a server on loopback that behaves in every bad way at once."""

import gzip
import hashlib
import logging
import socket
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from attnlab.corpora import DownloadError, fetch_corpus
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
        self.n_seen = len(self.server.seen)
        MANNERS.get(self.path, lambda self: self.send_error(404))(self)

    def send(self, body=ORIGINAL, *, status=200, length=None, **headers):
        headers["Content-Length"] = str(len(body) if length is None else length)
        self.send_response(status)
        for name, value in headers.items():
            if value:  # without a length the client cannot know when it ends
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_late(self):
        if self.n_seen == 1:
            self.server.hang.wait(9)
        self.send()

    def send_elsewhere(self):
        self.send(b"", status=302, Location=f"http://localhost:{self.server.server_port}/good")

    def log_message(self, *_):
        pass


MANNERS = {
    "/good": Handler.send,
    "/elsewhere": Handler.send_elsewhere,
    "/busy-twice": lambda self: self.send(b"", status=429) if self.n_seen <= 2 else self.send(),
    "/breaks-once": lambda self: self.send(ORIGINAL[: 99 if self.n_seen == 1 else None],
                                           length=len(ORIGINAL)),
    "/hangs-once": Handler.send_late,
    "/down": lambda self: self.send(b"", status=503),
    "/wrong": lambda self: self.send(ORIGINAL[:-1] + b"!"),
    "/log-in": lambda self: self.send(b"<!DOCTYPE html><title>Log in</title>"),
    "/too-much": lambda self: self.send(ORIGINAL * 20, length=""),
}  # fmt: skip


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "ATTNLAB_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetching, "WAITS_S", (0, 0, 0))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.seen, server.hang = [], threading.Event()
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
        "elsewhere good",
        "busy-twice busy-twice busy-twice",
        "breaks-once breaks-once",
        "hangs-once hangs-once",
        "nowhere log-in good",  # the next address is asked where one fails
    ],
)
def test_the_pinned_file_arrives_whole_in_the_end(get, server, tmp_path, monkeypatch, asked):
    monkeypatch.setattr(fetching, "TIMEOUT_S", 0.5)
    manners = dict.fromkeys(asked.split()) if "nowhere" in asked else asked.split()[:1]
    assert get(*manners) == STORED
    assert server.seen == [f"/{manner}" for manner in asked.split()]
    assert leftovers(tmp_path) == {"text.txt.gz"}


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
          ("wrong", "log-in", "too-much")),  # asking again would bring the same
        ("log-in", {"unpack": "gz"}, "another file", 1),  # not: cannot be unpacked
        ("nowhere", {}, r"/nowhere answers 404.*ATTNLAB_DATA", 1),
        ("down", {}, r"/down answers 503.*ATTNLAB_DATA", 3),  # what is only busy is asked again
        ("good", {"url": "-"}, r"Nobody offers set/inner/text\.txt\.gz", 0),
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


def test_a_machine_without_network_is_told_so(get):
    with socket.socket() as nobody:  # holds the port and does not listen
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/file"
        with pytest.raises(DownloadError, match=r"cannot be reached.*online"):
            get(url=url)


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
