"""Engine.IO v4: sessions, transports, handshakes, upgrades, heartbeats."""
