"""``python -m webpy_socketio``: the command line."""

from webpy_socketio.cli import start

if __name__ == "__main__":
    start()
