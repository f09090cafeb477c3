"""Errors that every part of the library raises for a mistake of its user, and text from outside for their messages."""

import reprlib


class UsageError(ValueError):
    """A mistake of the user: on the command line, in a YAML file, in a file that was given. Its text says it all."""


class CheckpointError(UsageError):
    """A checkpoint cannot be used; the message names the value, the rule and the remedy."""


def printable(value: object, limit: int = 200) -> str:
    """Text from a foreign file for a message: no control characters that a terminal would obey, not endless."""
    # reprlib, because a small pickle can hold a structure whose full text fills the memory.
    text = value if isinstance(value, str) else reprlib.repr(value)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= limit else text[:limit] + "..."
