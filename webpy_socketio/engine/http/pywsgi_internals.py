"""The methods and attributes of gevent's pywsgi that the HTTP handlers and servers depend on.

Most of them are undocumented and may change with any release of gevent. A test compares these
tables with the installed version, and with the methods that the handlers and servers override.
After a failure, compare the changed method with its override and then update the table.
"""

from __future__ import annotations

__all__ = [
    "HANDLER_ATTRIBUTES",
    "HANDLER_CALLS",
    "HANDLER_METHODS",
    "SERVER_ATTRIBUTES",
    "SERVER_CALLS",
    "SERVER_METHODS",
]

#: Methods of `gevent.pywsgi.WSGIHandler` that are overridden or called, and their parameters.
HANDLER_METHODS = {
    "__init__": "(self, sock, address, server, rfile=None)",
    "_handle_client_error": "(self, ex)",
    "_log_error": "(self, t, v, tb)",
    "_send_error_response_if_possible": "(self, error_code)",
    "_sendall": "(self, data)",
    "_write": "(self, data, _bytearray=<class 'bytearray'>)",
    "_write_with_headers": "(self, data)",
    "finalize_headers": "(self)",
    "format_request": "(self)",
    "get_environ": "(self)",
    "handle": "(self)",
    "handle_error": "(self, t, v, tb)",
    "handle_one_response": "(self)",
    "log_request": "(self)",
    "process_result": "(self)",
    "read_request": "(self, raw_requestline)",
    "read_requestline": "(self)",
    "run_application": "(self)",
    "start_response": "(self, status, headers, exc_info=None)",
    "write": "(self, data)",
}

#: Method of the handler that is not overridden: the names that it must use, in this order.
HANDLER_CALLS = {
    "handle": ("handle_one_request",),
    "handle_one_request": (
        *("rfile", "read_requestline", "requestline", "response_length", "read_request"),
        *("_handle_client_error", "get_environ", "environ", "application"),
        *("handle_one_response", "close_connection"),
    ),
    "handle_error": ("_log_error", "_send_error_response_if_possible"),
}

#: Attributes of the handler that pywsgi initializes, on the class or in ``__init__``.
HANDLER_ATTRIBUTES = {
    *("_orig_status", "application", "client_address", "close_connection", "code", "command"),
    *("connection_upgraded", "content_length", "environ", "headers", "headers_sent", "path"),
    *("request_version", "requestline", "response_headers", "response_length"),
    *("response_use_chunked", "result", "rfile", "server", "socket", "status", "time_finish"),
    *("time_start", "wsgi_input"),
}

#: Methods of `gevent.pywsgi.WSGIServer` and its base classes that are overridden or called.
SERVER_METHODS = {
    "__init__": (
        "(self, listener, application=None, backlog=None, spawn='default', log='default', "
        "error_log='default', handler_class=None, environ=None, **ssl_args)"
    ),
    "_do_read": "(self)",
    "_start_accepting_if_started": "(self, _event=None)",
    "close": "(self)",
    "do_close": "(self, sock, *args)",
    "do_handle": "(self, *args)",
    "do_read": "(self)",
    "get_environ": "(self)",
    "handle": "(self, sock, address)",
    "init_socket": "(self)",
    "start": "(self)",
    "stop": "(self, timeout=None)",
    "stop_accepting": "(self)",
    "wrap_socket_and_handle": "(self, client_socket, address)",
}

#: Method of the server that is not overridden: the names that it must use, in this order.
SERVER_CALLS = {
    "_do_read": ("max_accept", "do_read", "do_handle"),
    "set_max_accept": ("max_accept",),
    "stop_accepting": ("_timer",),
}

#: Attributes of the server that pywsgi initializes, on the class or in ``__init__``.
SERVER_ATTRIBUTES = {
    *("_timer", "application", "backlog", "base_env", "environ", "handler_class", "log", "loop"),
    *("ssl_args", "ssl_enabled", "started", "stop_timeout"),
}
