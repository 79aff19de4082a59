"""I/O building blocks: streams, outboxes, timers, greenlets, encoded packets."""
