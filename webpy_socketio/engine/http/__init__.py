"""HTTP: request parser, request handlers, response framing and servers."""
