"""Socket.IO v5: packets, namespaces, connections, inboxes."""
