"""Settings and the validators of their values."""
