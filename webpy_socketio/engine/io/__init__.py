"""I/O building blocks: streams, outboxes, timers, greenlets and encoded packets."""
