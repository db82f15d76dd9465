"""From verified original bytes to the text that is stored, step by pinned step."""

import gzip
import io
import zipfile
from pathlib import Path, PurePosixPath

from attnlab.corpora.gutenberg import strip_gutenberg
from attnlab.corpora.pins import PinnedFile
from attnlab.corpora.store import check_sha256
from attnlab.errors import IntegrityError

BROKEN_MANIFEST = "The manifest and this version of attnlab disagree. Install attnlab again."


def stored_bytes(original: bytes, file: PinnedFile) -> bytes:
    """Return what is stored of a file: unpacked, normalised and cut, each result verified."""
    text = normalise(unpack(original, file.unpack), encoding=file.encoding)
    check_sha256(
        text, file.sha256_normalised, what=f"{file.url}, normalised,", next_step=BROKEN_MANIFEST
    )
    result = apply_step(text, file.step)
    check_sha256(result, file.sha256_text, what=f"{file.path}, made,", next_step=BROKEN_MANIFEST)
    return result


def unpack(data: bytes, how: str) -> bytes:
    """Return the bytes inside ``data``: ``-`` as they are, ``gz``, or ``zip:<member>``."""
    if how == "-":
        return data
    if how == "gz":
        return gzip.decompress(data)
    kind, _, member = how.partition(":")
    if kind != "zip":
        raise IntegrityError(f"{how!r} is no way to unpack a file. {BROKEN_MANIFEST}")
    check_inside(member)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if member not in archive.namelist():
            raise IntegrityError(f"The archive has no member {member!r}. {BROKEN_MANIFEST}")
        return archive.read(member)


def normalise(data: bytes, *, encoding: str) -> bytes:
    """Return text as UTF-8 with LF line ends; encoding ``-`` leaves binary data alone."""
    if encoding == "-":
        return data
    return data.decode(encoding).replace("\r\n", "\n").encode()


def apply_step(data: bytes, step: str) -> bytes:
    """Do the last step: ``-`` or one of those that ``attnlab/corpora/pins.py`` lists."""
    name, _, argument = step.partition(":")
    if name == "-":
        return data
    if name == "first_bytes":
        return data[: int(argument)]
    if name == "strip_gutenberg":
        return strip_gutenberg(data.decode(), keep=argument).encode()
    if name == "drop_tag_lines":  # data about a talk stands in lines of tags
        return b"\n".join(line for line in data.split(b"\n") if line[:1] != b"<")
    if name == "end_line":
        return data + b"\n"
    raise IntegrityError(f"{step!r} is no step after unpacking. {BROKEN_MANIFEST}")


def path_inside(folder: Path, relative: str) -> Path:
    """Return ``folder / relative`` if that lies in ``folder``, links followed.

    Raises:
        IntegrityError: The path is absolute, climbs out, or leaves through a link.
    """
    check_inside(relative)
    path = folder / relative
    if not path.resolve().is_relative_to(folder.resolve()):
        raise IntegrityError(_escape(relative))
    return path


def check_inside(relative: str) -> None:
    """Raise an IntegrityError for a path that is absolute or climbs out of its folder."""
    path = PurePosixPath(relative.replace("\\", "/"))
    has_drive = ":" in (path.parts[0] if path.parts else "")
    if path.is_absolute() or has_drive or ".." in path.parts or not path.parts:
        raise IntegrityError(_escape(relative))


def _escape(relative: str) -> str:
    return (
        f"The path {relative!r} would lie outside the data folder. Nothing was written. "
        "The manifest has been changed; install attnlab again."
    )
