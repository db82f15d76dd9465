"""Downloads against a server on loopback that behaves in every bad way at once."""

import gzip
import hashlib
import logging
import socket
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from attnlab.corpora import DownloadError, describe_corpus, fetch_corpus
from attnlab.corpora import fetch as fetching
from attnlab.corpora.fetch import CorpusEntry, PinnedFile, fetch_files, read_files
from attnlab.errors import IntegrityError

TEXT = "First line\r\n" + "second line, é\r\n" * 9001  # several chunks
ORIGINAL = TEXT.encode("latin-1")
STORED = b"First line\n"  # what the manifest keeps


class Handler(BaseHTTPRequestHandler):
    """Serve ``ORIGINAL`` in the manner that the path names."""

    def do_GET(self):
        self.server.seen.append(self.path)
        manner = self.path.strip("/").replace("-", "_")
        getattr(self, f"answer_{manner}", lambda: self.send_error(404))()

    def send(self, body, *, status=200, length=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def answer_good(self):
        self.send(ORIGINAL)

    def answer_busy_twice(self):
        self.send(b"", status=429) if len(self.server.seen) <= 2 else self.send(ORIGINAL)

    def answer_breaks_once(self):
        is_first = len(self.server.seen) == 1
        self.send(ORIGINAL[:99] if is_first else ORIGINAL, length=len(ORIGINAL))

    def answer_hangs_once(self):
        if len(self.server.seen) == 1:
            self.server.hang.wait(9)
        self.send(ORIGINAL)

    def answer_down(self):
        self.send(b"", status=503)

    def answer_wrong(self):
        self.send(ORIGINAL[:-1] + b"!")

    def answer_log_in(self):
        self.send(b"<!DOCTYPE html><title>Log in</title>")

    def answer_too_much(self):
        self.send_response(200)  # no length: the client cannot know when it ends
        self.end_headers()
        self.wfile.write(ORIGINAL * 20)

    def answer_elsewhere(self):
        self.send(b"", status=302, Location=f"http://localhost:{self.server.server_port}/good")

    def log_message(self, *_):
        pass


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
    normalised = TEXT.replace("\r\n", "\n").encode()
    return PinnedFile(
        path="inner/text.txt.gz",
        split="train",
        url=f"{server.origin}/good",
        size_bytes=len(ORIGINAL),
        sha256_original=hashlib.sha256(ORIGINAL).hexdigest(),
        encoding="latin-1",
        newline="CRLF",
        unpack="-",
        sha256_normalised=hashlib.sha256(normalised).hexdigest(),
        step=f"first_bytes:{len(STORED)}",
        n_bytes=len(STORED),
        sha256_text=hashlib.sha256(STORED).hexdigest(),
        note="-",
    )


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
    return sorted(path.name for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("manner", "n_requests"),
    [("good", 1), ("elsewhere", 2), ("busy-twice", 3), ("breaks-once", 2), ("hangs-once", 2)],
)
def test_the_pinned_file_arrives_whole_in_the_end(
    get, server, tmp_path, monkeypatch, manner, n_requests
):
    monkeypatch.setattr(fetching, "TIMEOUT_S", 0.5)
    assert get(manner) == STORED
    assert len(server.seen) == n_requests
    assert set(leftovers(tmp_path)) <= {".lock", "text.txt.gz"}


def test_bytes_are_counted_up_to_the_size(get, file):
    counts = []
    get("good", on_bytes=counts.append)
    assert counts == sorted(counts)
    assert len(counts) > 2
    assert counts[-1] == file.size_bytes


@pytest.mark.parametrize("manner", ["wrong", "log-in", "too-much"])
def test_another_file_is_thrown_away_and_said_so(get, server, tmp_path, manner):
    counts = []
    with pytest.raises(DownloadError, match=f"{manner} sends another file.*thrown away"):
        get(manner, on_bytes=counts.append)
    assert len(server.seen) == 1  # asking again would bring the same
    assert max(counts, default=0) <= len(ORIGINAL)  # what is too long is cut off
    assert set(leftovers(tmp_path)) <= {".lock"}


def test_another_text_behind_the_address_is_not_unpacked(get):
    with pytest.raises(DownloadError, match="another file"):  # not: cannot be unpacked
        get("log-in", unpack="gz")


@pytest.mark.parametrize(("manner", "answer", "n"), [("nowhere", 404, 1), ("down", 503, 3)])
def test_an_address_that_fails_is_named_with_its_answer(get, server, manner, answer, n):
    with pytest.raises(DownloadError, match=rf"/{manner} answers {answer}.*ATTNLAB_DATA"):
        get(manner)
    assert len(server.seen) == n  # what is only busy is asked again


def test_a_machine_without_network_is_told_so(get):
    with socket.socket() as nobody:  # holds the port and does not listen
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/file"
        with pytest.raises(DownloadError, match=r"cannot be reached.*online"):
            get(url=url)


def test_the_next_address_is_asked_where_one_fails(get, server):
    assert get("nowhere", "log-in", "good") == STORED
    assert server.seen == ["/nowhere", "/log-in", "/good"]


@pytest.mark.parametrize(
    ("served", "asked"),
    [
        (gzip.compress(STORED), ["/set/inner/text.txt.gz"]),
        (gzip.compress(b"Other line\n"), ["/set/inner/text.txt.gz", "/good"]),
        (b"<!DOCTYPE html>", ["/set/inner/text.txt.gz", "/good"]),
    ],
)
def test_a_mirror_that_serves_a_data_folder_is_asked_first(get, server, monkeypatch, served, asked):
    monkeypatch.setenv("ATTNLAB_MIRROR", f"{server.origin}/")
    name = "answer_set/inner/text.txt.gz"
    monkeypatch.setattr(Handler, name, lambda self: self.send(served), raising=False)
    assert get() == STORED
    assert server.seen == asked


def test_a_mirror_has_what_nobody_else_offers(get, server, monkeypatch):
    with pytest.raises(DownloadError, match=r"Nobody offers set/inner/text\.txt\.gz"):
        get(url="-")
    monkeypatch.setenv("ATTNLAB_MIRROR", server.origin)
    name = "answer_set/inner/text.txt.gz"
    monkeypatch.setattr(Handler, name, lambda self: self.send(gzip.compress(STORED)), raising=False)
    assert get(url="-") == STORED


# a whole corpus


def test_a_fetched_corpus_is_found_and_not_fetched_again(file, server, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNLAB_DATA", str(tmp_path))
    fetch_files(entry_of(file), tmp_path, lambda _: None)
    assert read_files(entry_of(file)) == {"inner/text.txt.gz": STORED}
    counts = []
    fetch_files(entry_of(file), None, counts.append)
    assert len(server.seen) == 1
    assert counts == [file.size_bytes]  # what is here counts as arrived


def test_fetched_files_are_the_same_bytes_every_time(get, file, tmp_path):
    place = tmp_path / "set" / file.path
    get()
    first = place.read_bytes()
    place.unlink()
    get()
    assert place.read_bytes() == first


def test_a_damaged_file_is_fetched_again(get, file, tmp_path):
    get()
    place = tmp_path / "set" / file.path
    place.write_bytes(place.read_bytes()[:-9])
    assert get() == STORED


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
    assert leftovers(tmp_path) == [".lock"]


def test_without_a_counter_the_licence_is_logged(file, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(fetching, "all_entries", lambda: {"little": entry_of(file)})
    with caplog.at_level(logging.WARNING):
        fetch_corpus("little", to=tmp_path)
    assert [record.getMessage() for record in caplog.records] == ["Licence of little: free"]
    assert fetch_corpus("little", to=tmp_path, on_bytes=lambda _: None) == tmp_path / "set"
    assert len(caplog.records) == 1


def test_text_that_nobody_offers_is_not_fetched(tmp_path, monkeypatch):
    monkeypatch.delenv("ATTNLAB_MIRROR", raising=False)
    with pytest.raises(DownloadError, match=r"train\.tok\.de\.gz.*Set ATTNLAB_DATA"):
        fetch_corpus("ted_iwslt/de-en", to=tmp_path)
    assert leftovers(tmp_path) == [".lock"]


def test_a_corpus_without_files_needs_no_fetch():
    assert fetch_corpus("python_reference") is None


def test_a_real_book_comes_out_of_its_original_bytes(corpus_folder, server, monkeypatch, tmp_path):
    raw = corpus_folder("gutenberg_children") / "raw" / "11.txt.gz"
    if not raw.is_file():
        pytest.skip("corpus not here: raw files of the books")
    original = gzip.decompress(raw.read_bytes()).replace(b"\n", b"\r\n")
    book = next(f for f in describe_corpus("children").files if f.path == "books/11.txt.gz")
    monkeypatch.setattr(Handler, "answer_alice", lambda self: self.send(original), raising=False)
    book = replace(book, url=f"{server.origin}/alice")
    fetch_files(entry_of(book), tmp_path, lambda _: None)
    stored = gzip.decompress((tmp_path / "set" / book.path).read_bytes())
    assert hashlib.sha256(stored).hexdigest() == book.sha256_text
