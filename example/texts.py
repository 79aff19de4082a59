"""Text that people type, in any script."""

import re
import unicodedata


def checked(text, what, most, lines=False):
    """Return `text` tidied; ValueError says what is wrong with it, calling it `what` ("A name")."""
    text = tidy(text, lines)
    if not fold(text):
        raise ValueError(f"{what} needs at least one character.")
    if len(text) > most:
        raise ValueError(f"{what} has at most {most} characters; this one has {len(text)}.")
    return text


def tidy(text, lines=False):
    """Return `text` without control characters, with single spaces; with `lines`, lines stay lines.

    Whatever is not text (a client may send any JSON) becomes the empty string.
    """
    if not isinstance(text, str):
        return ""
    text = unicodedata.normalize("NFC", text)
    if not lines:
        text = " ".join(text.split())
    text = "".join(c for c in text if c == "\n" or unicodedata.category(c) != "Cc")
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def fold(text):
    """Return what texts that look alike share: `Ann`, `ANN`, one with invisible characters."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in text if unicodedata.category(c) != "Cf")


def slugify(text):
    """Return the letters, marks and digits of `text`: `Café für alle!` is `café-für-alle`."""
    kept = (c if unicodedata.category(c)[0] in "LMN" else " " for c in fold(text))
    return "-".join("".join(kept).split())[:60].strip("-") or "room"
