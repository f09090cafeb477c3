"""Errors that every part of the library raises for a mistake of its user, and text from outside for their messages."""

import reprlib


class UsageError(ValueError):
    """A mistake of the user: on the command line, in a YAML file, in a file that was given. Its text says it all."""


class CheckpointError(UsageError):
    """A checkpoint cannot be used; the message names the value, the rule and the remedy."""


def for_terminal(text: str) -> str:
    """A message without the characters that a terminal would obey; the ends of its lines stay."""
    return "".join(sign if sign.isprintable() or sign == "\n" else ascii(sign)[1:-1] for sign in text)


def printable(value: object, limit: int = 200) -> str:
    """Text from a foreign file for a message: no control characters that a terminal would obey, not endless."""
    # reprlib, because a small pickle can hold a structure whose full text fills the memory.
    text = value if isinstance(value, str) else reprlib.repr(value)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= limit else text[:limit] + "..."
