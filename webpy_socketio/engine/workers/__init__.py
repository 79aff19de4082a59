"""Several worker processes on one port: hand-off, relay, load and forked children."""
