"""Downloads against a server on loopback that behaves in every bad way at once."""

import gzip
import hashlib
import io
import logging
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from attnlab.corpora import describe_corpus, fetch_corpus
from attnlab.corpora.download import DownloadError, download
from attnlab.corpora.fetch import fetch_files, missing_files
from attnlab.corpora.pins import CorpusEntry, PinnedFile
from attnlab.corpora.store import read_texts
from attnlab.corpora.unpack import unpack
from attnlab.errors import IntegrityError

CONTENT = bytes(range(251)) * 1009  # about 250 kB, odd sizes, several chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()
TEXT = "First line\r\nsecond line, é\r\n"
HALF = len(CONTENT) // 2


class Handler(BaseHTTPRequestHandler):
    """Serve ``CONTENT`` in the manner that the path names."""

    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("Range")))
        manner = self.path.strip("/").replace("-", "_")
        answer = getattr(self, f"answer_{manner}", None)
        if answer is None:
            self.send_error(404)
        else:
            answer()

    def send(self, body, *, status=200, length=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def start(self):
        asked = self.headers.get("Range", "bytes=0-")
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def answer_good(self, *, upto=None):
        start = self.start()
        if start == 0:
            return self.send(CONTENT[:upto], length=len(CONTENT))
        span = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        return self.send(CONTENT[start:], status=206, Content_Range=span)

    def answer_breaks_once(self):
        self.answer_good(upto=HALF if len(self.server.seen) == 1 else None)

    def answer_truncated(self):
        self.send(CONTENT[:HALF], length=len(CONTENT))

    def answer_ignores_range(self):
        self.send(CONTENT)

    def answer_wrong(self):
        self.send(CONTENT[:-1] + b"!")

    def answer_unsatisfied(self):
        if self.headers.get("Range"):
            return self.send(b"", status=416)
        return self.send(CONTENT)

    def answer_too_much(self):
        self.send_response(200)  # no length: the client cannot know when it ends
        self.end_headers()
        self.wfile.write(CONTENT + CONTENT)

    def answer_elsewhere(self):
        self.send(b"", status=302, Location="http://localhost:9/good")

    def answer_moved(self):
        self.send(b"", status=302, Location="/good")

    def answer_text(self):
        self.send(TEXT.encode("latin-1"))

    def answer_other_text(self):
        self.send(b"other")

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.seen = []
        server.handle_error = lambda *_: None  # a client that hangs up is what is tested
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def origin(server):
    return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def get(origin, tmp_path):
    """Download one path to ``tmp_path / "file"``."""

    def get(manner, **changes):
        options = {"size_bytes": len(CONTENT), "sha256": SHA256, "allowed_origins": [origin]}
        download(f"{origin}/{manner}", tmp_path / "file", **{**options, **changes})
        return (tmp_path / "file").read_bytes()

    return get


def partial_file(tmp_path):
    return tmp_path / f"file.{SHA256[:12]}.part"


def names(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir())


def test_a_good_file_arrives_whole_under_its_name_alone(get, tmp_path):
    assert get("good") == CONTENT
    assert names(tmp_path) == ["file"]


def test_progress_counts_bytes_up_to_the_size(get):
    counts = []
    get("good", on_bytes=counts.append)
    assert counts == sorted(counts)
    assert counts[-1] == len(CONTENT)


def test_a_transfer_that_breaks_goes_on_where_it_stopped(get, server):
    assert get("breaks-once") == CONTENT
    assert server.seen == [("/breaks-once", None), ("/breaks-once", f"bytes={HALF}-")]


def test_a_partial_file_of_an_earlier_run_is_resumed(get, server, tmp_path):
    partial_file(tmp_path).write_bytes(CONTENT[:17])
    assert get("good") == CONTENT
    assert server.seen == [("/good", "bytes=17-")]


def test_a_whole_partial_file_is_not_asked_for_again(get, server, tmp_path):
    partial_file(tmp_path).write_bytes(CONTENT)
    assert get("good") == CONTENT
    assert server.seen == []


def test_a_source_that_ignores_the_range_is_read_from_the_start(get, tmp_path):
    partial_file(tmp_path).write_bytes(b"other beginning")
    assert get("ignores-range") == CONTENT


def test_a_refused_range_starts_again(get, tmp_path):
    partial_file(tmp_path).write_bytes(CONTENT[:17])
    assert get("unsatisfied") == CONTENT


def test_a_truncated_file_is_refused_and_kept_for_resuming(get, tmp_path):
    with pytest.raises(IntegrityError, match=rf"broke off after {HALF:,} of {len(CONTENT):,}"):
        get("truncated")
    assert names(tmp_path) == [partial_file(tmp_path).name]
    assert get("good") == CONTENT


def test_a_wrong_checksum_is_refused_with_both_values(get, tmp_path):
    got = hashlib.sha256(CONTENT[:-1] + b"!").hexdigest()
    with pytest.raises(IntegrityError, match=f"sha256 {got}, expected {SHA256}"):
        get("wrong")
    assert names(tmp_path) == []


def test_a_damaged_partial_file_is_dropped(get, tmp_path):
    partial_file(tmp_path).write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match="Nothing was kept"):
        get("good")
    assert get("good") == CONTENT


def test_a_source_that_sends_too_much_is_cut_off(get, tmp_path):
    counts = []
    with pytest.raises(IntegrityError, match=f"more than the pinned {len(CONTENT):,} bytes"):
        get("too-much", on_bytes=counts.append)
    assert counts[-1] == len(CONTENT) + 1  # the one byte that shows it
    assert names(tmp_path) == []


def test_an_absent_file_is_named_with_the_answer(get, tmp_path):
    with pytest.raises(DownloadError, match=r"/nowhere answers 404.*ATTNLAB_DATA"):
        get("nowhere")
    assert names(tmp_path) == []


def test_a_redirect_to_another_host_is_not_followed(get, tmp_path):
    with pytest.raises(DownloadError, match="leads to http://localhost:9, which is not an allowed"):
        get("elsewhere")
    assert names(tmp_path) == []


def test_a_redirect_on_the_same_host_is_followed(get):
    assert get("moved") == CONTENT


def test_a_host_that_is_not_allowed_is_never_asked(get, server):
    with pytest.raises(DownloadError, match="not an allowed source"):
        get("good", allowed_origins=["https://raw.githubusercontent.com"])
    assert server.seen == []


def test_a_machine_without_network_is_told_so(tmp_path):
    url = "http://127.0.0.1:9/file"  # the discard port: nobody listens
    with pytest.raises(DownloadError, match=r"cannot be reached.*online"):
        download(
            url, tmp_path / "f", size_bytes=1, sha256="0", allowed_origins=["http://127.0.0.1:9"]
        )


# a whole corpus


@pytest.fixture
def file(origin):
    stored = TEXT.replace("\r\n", "\n").encode()
    return PinnedFile(
        path="inner/text.txt.gz",
        split="train",
        url=f"{origin}/text",
        size_bytes=len(TEXT),  # latin-1: a byte a character
        sha256_original=hashlib.sha256(TEXT.encode("latin-1")).hexdigest(),
        encoding="latin-1",
        newline="CRLF",
        unpack="-",
        sha256_normalised=hashlib.sha256(stored).hexdigest(),
        step="first_bytes:11",
        n_bytes=11,  # "First line\n"
        sha256_text=hashlib.sha256(stored[:11]).hexdigest(),
        note="-",
    )


@pytest.fixture
def fetch(origin, tmp_path):
    def fetch(file, **options):
        entry = CorpusEntry(name="little", folder="set", licence="free", about="", files=(file,))
        return fetch_files(entry, [file], to=tmp_path, allowed_origins=[origin], **options)

    return fetch


def test_a_fetched_corpus_is_normalised_cut_and_readable(fetch, file, tmp_path, monkeypatch):
    fetch(file)
    monkeypatch.setenv("ATTNLAB_DATA", str(tmp_path))
    entry = CorpusEntry(name="little", folder="set", licence="free", about="", files=(file,))
    assert read_texts(entry) == {"inner/text.txt.gz": "First line\n"}
    assert names(tmp_path / "set" / "inner") == ["text.txt.gz"]
    assert missing_files(entry) == ()


def test_fetched_files_are_the_same_bytes_every_time(fetch, file, tmp_path):
    place = tmp_path / "set" / file.path
    fetch(file)
    first = place.read_bytes()
    place.unlink()
    fetch(file)
    assert place.read_bytes() == first


def test_a_file_that_verifies_is_not_fetched_again(fetch, file, server):
    fetch(file)
    fetch(file)
    assert len(server.seen) == 1


def test_a_damaged_file_is_fetched_again(fetch, file, tmp_path):
    fetch(file)
    place = tmp_path / "set" / file.path
    place.write_bytes(place.read_bytes()[:-9])
    fetch(file)
    assert gzip.decompress(place.read_bytes()) == b"First line\n"


def test_the_licence_comes_before_the_first_request(fetch, file, server):
    seen = []
    fetch(file, progress=lambda state: seen.append((state, len(server.seen))))
    first, requests_before = seen[0]
    assert (first.licence, first.n_files_done, first.n_files) == ("free", 0, 1)
    assert requests_before == 0
    last = seen[-1][0]
    assert (last.n_files_done, last.n_bytes_done) == (1, file.size_bytes)


def test_a_reader_who_declines_the_licence_fetches_nothing(fetch, file, server, tmp_path):
    def decline(state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(file, progress=decline)
    assert server.seen == []
    assert names(tmp_path) == []


def test_without_a_progress_function_the_licence_is_logged(fetch, file, caplog):
    with caplog.at_level(logging.WARNING):
        fetch(file)
    assert [record.getMessage() for record in caplog.records] == ["Licence of little: free"]


@pytest.mark.parametrize("path", ["../escaped.gz", "/escaped.gz", "inner/../../../escaped.gz"])
def test_a_path_that_escapes_is_refused_before_any_request(fetch, file, server, tmp_path, path):
    with pytest.raises(IntegrityError, match="outside the data folder"):
        fetch(replace(file, path=path))
    assert server.seen == []
    assert names(tmp_path) == []


@pytest.mark.parametrize("step", ["sha256_normalised", "sha256_text"])
def test_a_result_that_is_not_the_pinned_one_is_not_stored(fetch, file, tmp_path, step):
    with pytest.raises(IntegrityError, match=f"expected {'0' * 64}"):
        fetch(replace(file, **{step: "0" * 64}))
    assert not (tmp_path / "set" / file.path).exists()


def test_another_text_behind_the_address_is_not_unpacked(fetch, file, origin, tmp_path):
    other = replace(file, url=f"{origin}/other-text", size_bytes=5, unpack="gz")
    with pytest.raises(IntegrityError, match="has sha256"):  # not: cannot be unpacked
        fetch(other)
    assert names(tmp_path / "set" / "inner") == []


def test_a_corpus_without_files_needs_no_fetch():
    assert fetch_corpus("python_reference") is None


def test_a_real_book_comes_out_of_its_original_bytes(
    corpus_folder, fetch, origin, monkeypatch, tmp_path
):
    raw = corpus_folder("gutenberg_children") / "raw" / "11.txt.gz"
    if not raw.is_file():
        pytest.skip("corpus not here: raw files of the books")
    original = gzip.decompress(raw.read_bytes()).replace(b"\n", b"\r\n")
    book = next(f for f in describe_corpus("children").files if f.path == "books/11.txt.gz")
    monkeypatch.setattr(Handler, "answer_alice", lambda self: self.send(original), raising=False)
    fetch(replace(book, url=f"{origin}/alice"))
    stored = gzip.decompress((tmp_path / "set" / book.path).read_bytes())
    assert hashlib.sha256(stored).hexdigest() == book.sha256_text


# archives


def archive(member):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr(member, b"inside")
    return packed.getvalue()


def test_one_named_member_is_taken_from_an_archive():
    assert unpack(archive("folder/text.txt"), "zip:folder/text.txt") == b"inside"
    assert unpack(gzip.compress(b"inside"), "gz") == b"inside"


@pytest.mark.parametrize("member", ["../../evil", "/evil", "C:\\evil"])
def test_a_member_that_escapes_is_refused(member):
    with pytest.raises(IntegrityError, match="outside the data folder"):
        unpack(archive(member), f"zip:{member}")


def test_an_absent_member_and_an_unknown_packing_are_refused():
    with pytest.raises(IntegrityError, match="no member 'b'"):
        unpack(archive("a"), "zip:b")
    with pytest.raises(IntegrityError, match="'rar' is no way"):
        unpack(b"", "rar")
