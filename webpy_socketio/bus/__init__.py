"""The signal bus: ordered signals, filtered receivers and channel patterns."""
