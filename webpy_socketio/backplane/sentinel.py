"""Connection to the master that Redis Sentinels have elected.

Each connection queries the Sentinels again. A failover ends the connections to the old master,
because Sentinel disconnects the clients of a server whose role changes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from webpy_socketio.backplane import connection
from webpy_socketio.backplane.addresses import Host, RedisAddress
from webpy_socketio.backplane.connection import RedisConnection
from webpy_socketio.exceptions import BackplaneError

__all__ = ["MasterConnection", "open_master"]

#: Most and fewest seconds for a Sentinel to accept a connection, and to reply. All of them together
#: have `CONNECT_TIMEOUT`.
TIMEOUT = 1.0
MIN_TIMEOUT = 0.2


_UNKNOWN = "knows no such master"


class MasterConnection(RedisConnection):
    """Connection to a server that is the master when it is opened, and at each `ping`."""

    def __init__(self, address: RedisAddress, timeout: float) -> None:
        super().__init__(address, timeout)
        self._service = address.service
        self.ping()

    def ping(self) -> None:
        """Check that the server is still the master."""
        (reply,) = self.execute(("ROLE",))
        if isinstance(reply, BackplaneError):
            self.close()
            raise reply
        if reply[0] != b"master":
            self._fail(
                f'{self.address} is a replica and not the master "{self._service}"; a failover is '
                "in progress"
            )


def open_master(address: RedisAddress, timeout: float) -> RedisConnection:
    """Open a connection to the master of a service.

    The Sentinels are queried in turn. If the answer of one is outdated, the next one is queried.

    Args:
        address: Address of the Sentinels.
        timeout: Seconds without a byte after which a pending read or write fails.

    Raises:
        BackplaneError: No Sentinel replied, none knows a master, or the master is unreachable.
    """
    failures: list[str] = []
    hosts: dict[Host, BackplaneError] = {}
    for host in _masters(address, failures):
        if host not in hosts:
            try:
                return MasterConnection(address.server(host), timeout)
            except BackplaneError as error:
                hosts[host] = error
    if hosts:
        raise next(reversed(hosts.values()))
    details = "; ".join(text.rstrip(".") for text in failures)
    if _UNKNOWN in details:
        raise BackplaneError(
            f'no Sentinel names a master "{address.service}" ({details}); check the service name '
            'in SOCKETIO_BACKPLANE, and "sentinel monitor" in the configuration of the Sentinels'
        )
    raise BackplaneError(
        f"no Sentinel is reachable ({details}); check the hosts and the options in "
        "SOCKETIO_BACKPLANE"
    )


def _masters(address: RedisAddress, failures: list[str]) -> Iterator[Host]:
    """Yield the master that each Sentinel names; add the other answers to `failures`."""
    timeout = max(MIN_TIMEOUT, min(TIMEOUT, connection.CONNECT_TIMEOUT / len(address.hosts)))
    for host in address.hosts:
        sentinel = address.sentinel(host)
        try:
            with contextlib.closing(RedisConnection(sentinel, timeout, timeout)) as link:
                (reply,) = link.execute(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service))
        except BackplaneError as error:
            reply = error
        if isinstance(reply, BackplaneError):
            failures.append(str(reply))
        elif reply is None:
            failures.append(f"{sentinel} {_UNKNOWN}")
        else:
            name, port = reply
            yield Host(name.decode(), int(port))
