"""Normalization of text that users enter, in any script."""

import re
import unicodedata

# Invisible characters that Unicode does not classify as format characters (Cf).
BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)

# Alphabets that share the shape of many letters.
ALIKE = {"LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "CHEROKEE", "COPTIC"}


def checked(text, what, most, lines=False):
    """Return `text` tidied; ValueError names the problem, with `what` as its subject ("A name")."""
    text = tidy(text, lines)
    if not fold(text):
        raise ValueError(f"{what} needs at least one character.")
    if len(text) > most:
        raise ValueError(f"{what} has at most {most} characters; this one has {len(text)}.")
    return text


def tidy(text, lines=False):
    """Return `text` without control characters, with single spaces; `lines` keeps line breaks.

    Values that are not text (a client may send any JSON) become the empty string.
    """
    if not isinstance(text, str):
        return ""
    text = unicodedata.normalize("NFC", text)
    if not lines:
        text = " ".join(text.split())
    text = "".join(c for c in text if c == "\n" or unicodedata.category(c) != "Cc")
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def fold(text):
    """Return the common form of texts that look alike: `Ann`, `ANN`, with invisible characters."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    return " ".join(BLANK.sub("", text).split())


def mixes_alphabets(text):
    """Return whether letters of several similar alphabets occur: a Cyrillic `А` in `Аnn`."""
    alphabets = {unicodedata.name(c, "").partition(" ")[0] for c in text if c.isalpha()}
    return len(alphabets & ALIKE) > 1


def slugify(text):
    """Return the letters, marks and digits of `text`: `Café für alle!` is `café-für-alle`."""
    kept = (c if unicodedata.category(c)[0] in "LMN" else " " for c in fold(text))
    return "-".join("".join(kept).split())[:60].strip("-") or "room"
