"""The ``attnlab`` command: look around, get data, train, run studies, make figures."""

import argparse
import sys
from collections.abc import Sequence

from attnlab.cli import add_commands
from attnlab.errors import AttnlabError

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130

EPILOG = """\
First steps:
  attnlab doctor                                     is everything here?
  attnlab list                                       mixers, sources, corpora, studies, figures
  attnlab train --mixer she                          watch a small model learn to tell tales
  attnlab study run language-model --scale smoke     every mixer once, in seconds

Exit codes: 0 done, 1 it could not be done (the message says why), 2 wrong usage, 130 interrupted.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="attnlab",
        description="Take attention out of a Transformer, put something else in, and see.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_commands(parser.add_subparsers(dest="command", required=True, metavar="COMMAND"))
    options = parser.parse_args(arguments)
    try:
        return options.run(options) or EXIT_OK
    except AttnlabError as error:
        print(f"attnlab: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("attnlab: interrupted; 'attnlab study resume' goes on.", file=sys.stderr)
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
