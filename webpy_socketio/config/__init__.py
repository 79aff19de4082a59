"""Settings, their validation and their sources."""
