"""``attnlab data``: which corpora there are, fetching and checking them."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from attnlab.cli.speak import say, say_table
from attnlab.errors import AttnlabError


def add_commands(commands: Any) -> None:
    """Add ``data`` with ``list``, ``fetch`` and ``verify``."""
    data = commands.add_parser("data", help="list, fetch and verify the text corpora")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="every corpus, its licence and size")
    listing.set_defaults(run=_list)
    fetch = actions.add_parser(
        "fetch", help="download a corpus: pinned, resumed, verified, never executed"
    )
    fetch.add_argument("name", help="a corpus, see: attnlab data list")
    fetch.add_argument("--to", help="data folder to fill; default the cache")
    fetch.add_argument("--yes", action="store_true", help="accept the licence without asking")
    fetch.set_defaults(run=_fetch)
    verify = actions.add_parser("verify", help="check every file against its pinned checksum")
    verify.add_argument("name", nargs="?", help="a corpus; default all that are here")
    verify.set_defaults(run=_verify)


def _list(options: argparse.Namespace) -> None:
    from attnlab.corpora import describe_corpus, list_corpora

    rows = []
    for name in list_corpora():
        entry = describe_corpus(name)
        size = f"{entry.n_download_bytes / 1e6:.1f} MB" if entry.folder else "no file needed"
        rows.append((name, size, entry.licence))
    say_table(rows)


def _fetch(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from attnlab.corpora import FetchProgress, describe_corpus, fetch_corpus

    entry = describe_corpus(options.name)
    if entry.folder is None:
        say(f"{options.name} needs no file: it comes with Python.")
        return
    say(f"{options.name}: {entry.about}")
    say(f"Licence: {entry.licence}")
    if not options.yes and not _agrees():
        raise AttnlabError("Nothing was downloaded. Add --yes to accept the licence.")
    with tqdm(total=entry.n_download_bytes, unit="B", unit_scale=True) as bar:

        def show(progress: FetchProgress) -> None:
            bar.total = progress.n_bytes
            bar.update(progress.n_bytes_done - bar.n)
            bar.set_postfix_str(progress.path, refresh=False)

        folder = fetch_corpus(options.name, to=options.to, progress=show)
    say(f"Done: {folder}")


def _agrees() -> bool:
    if not sys.stdin.isatty():
        return False
    sys.stdout.write("Download? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _verify(options: argparse.Namespace) -> int:
    from attnlab.corpora import list_corpora, verify_corpus
    from attnlab.errors import CorpusNotFoundError

    n_failed = 0
    for name in [options.name] if options.name else list_corpora():
        try:
            n_files = verify_corpus(name)
            say(f"{name}: {n_files} files verified" if n_files else f"{name}: no file needed")
        except CorpusNotFoundError as error:
            if options.name:
                raise
            say(f"{name}: not here ({str(error).splitlines()[0][:90]})")
        except AttnlabError as error:
            say(f"{name}: NOT OK: {error}")
            n_failed += 1
    return 1 if n_failed else 0
