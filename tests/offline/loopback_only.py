"""No test and no notebook may talk to another machine: sockets reach loopback only."""

import ipaddress
import socket

LOOPBACK_NAMES = {"localhost", "localhost.localdomain", "ip6-localhost", ""}


class NetworkBlockedError(OSError):
    """A connection to another machine was tried."""


def is_loopback(address) -> bool:
    """Say whether a socket address stays on this machine."""
    if not isinstance(address, tuple):  # a Unix socket, or a family with no network behind it
        return True
    host = address[0]
    if host is None or host in LOOPBACK_NAMES or host == socket.gethostname():
        return True
    try:
        return ipaddress.ip_address(str(host).split("%")[0]).is_loopback
    except ValueError:
        return False


def guard(method):
    """Wrap a socket method whose last argument is an address."""

    def guarded(self, *args):
        if not is_loopback(args[-1]):
            raise NetworkBlockedError(
                f"A connection to {args[-1]!r} was tried. Tests and notebooks run offline: "
                "use a local HTTP server or a file that the project ships."
            )
        return method(self, *args)

    return guarded


def block(setattr=setattr) -> None:
    """Let this process connect to loopback only. Pass a patching ``setattr`` to undo it later."""
    for name in ("connect", "connect_ex"):
        setattr(socket.socket, name, guard(getattr(socket.socket, name)))
