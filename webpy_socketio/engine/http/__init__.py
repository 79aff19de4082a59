"""HTTP: strict request parser, request handlers, response framing, servers."""
