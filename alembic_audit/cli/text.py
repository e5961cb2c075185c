"""Text that is safe on a terminal."""

import unicodedata
from collections.abc import Callable

_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# Control, format (which turns the direction of writing), surrogate, and both line separators.
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def escaped(text: str) -> str:
    """Return *text* with control characters shown, so that none reaches a terminal."""
    return replaced(text, _shown)


def replaced(text: str, shown: Callable[[str], str]) -> str:
    """Return *text* with other characters for those that are hidden, quickly if it is long."""
    if not text.isprintable():
        for one in filter(is_hidden, set(text)):
            text = text.replace(one, shown(one))
    return text


def is_hidden(character: str) -> bool:
    """Return whether a character is none to be seen, and may be a command to a terminal."""
    return unicodedata.category(character) in _HIDDEN


def _shown(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


LONGEST = 200
"""How much of a value is shown to people; JSON and CSV hold all of it."""


def value_text(value: object) -> str:
    """Return a value for people: on one line, without control characters, not too long."""
    if value is None:
        return "NULL"
    text = str(value)
    if len(text) > LONGEST:
        return f"{escaped(text[:LONGEST])}... ({len(text):,} characters)"
    return escaped(text)
