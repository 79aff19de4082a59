"""How proxies describe a client: forwarded headers, trusted proxies, host names."""
