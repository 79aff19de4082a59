"""Load tests: many Socket.IO clients against one server (``webpy-socketio load``)."""
