"""What the mp3 decoder says of a file, kept from the terminal, where it would tear the progress bar.

libmpg123, which libsndfile uses for mp3 files and for mp3 inside wav, writes its notes straight to file descriptor 2.
"""

import fcntl
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_NOTE = re.compile(rb"(?:Note|Warning): ([^\n]*)\n|\n?\[[^\]\n]*libmpg123[^\]\n]*\] ((?:error|warning): [^\n]*)\n")
# One thread at a time, so that a note belongs to its file. A process that is forked meanwhile (a loader's worker) would
# inherit a lock that nobody releases, and the redirection: forking waits.
_LOCK = threading.RLock()
os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


@contextmanager
def decoder_notes() -> Iterator[list[str]]:
    """Catches what the mp3 decoder writes inside the block; the list is filled when the block ends.

    File descriptor 2 belongs to the whole process, so the block is to be short: one call of the decoder. What other
    threads write meanwhile is passed on when it ends. Costs some 10 microseconds. Where the system has no files in
    memory (other than Linux) or standard error is closed, nothing is caught.

    Yields:
        One entry per note, such as ``Illegal Audio-MPEG-Header 0x0acc01cd at offset 3181.``
    """
    notes: list[str] = []
    with _LOCK:
        terminal = _duplicate_of_stderr()
        if terminal is None:
            yield notes
            return
        caught = os.memfd_create("decoder notes")
        fcntl.fcntl(caught, fcntl.F_SETFL, os.O_APPEND)  # or threads that write at once overwrite each other
        os.dup2(caught, 2)
        try:
            yield notes
        finally:
            os.dup2(terminal, 2)
            text = os.pread(caught, os.fstat(caught).st_size, 0)
            notes += [(said or error).decode(errors="replace") for said, error in _NOTE.findall(text)]
            if others := _NOTE.sub(b"", text):
                os.write(terminal, others)
            os.close(caught)
            os.close(terminal)


def _duplicate_of_stderr() -> int | None:
    if not hasattr(os, "memfd_create"):
        return None
    try:
        return os.dup(2)
    except OSError:  # closed
        return None
