"""The limit of open files: each client needs one."""

from __future__ import annotations

from webpy_socketio.exceptions import ConfigurationError

__all__ = ["raise_open_files_limit"]

#: Open files besides the sockets of clients.
_OTHER_FILES = 100


def raise_open_files_limit(clients: int) -> None:
    """Raise the soft limit of this process so that `clients` sockets can be open.

    Raises:
        ConfigurationError: The hard limit is too low.
    """
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    needed = clients + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigurationError(
            f"{clients:,} clients need {needed:,} open files, and this process may have {hard:,} "
            f"(ulimit -Hn): raise that limit, or start at most {max(0, hard - _OTHER_FILES):,} "
            "clients"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
