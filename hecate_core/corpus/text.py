"""The frozen corpus and one's own file, each divided into training text and held-out passages."""

import errno
import gzip
import hashlib
import json
import os
import stat
import zlib
from importlib import resources
from pathlib import Path

from attrs import frozen

from hecate_core.corpus.passages import passages, unseen
from hecate_core.errors import DataError
from hecate_core.limits import DATA_BYTES

FROZEN = "pydoc_topics_3_11.json.gz"
FROZEN_SHA256 = "4717ccc51e2e7bd1eed2feddb0bcb5a7da19a1a923fd2f258cf81e4285e31683"
HELDOUT_BYTES = 40_000  # of the frozen corpus, at least
OWN_SHARE, OWN_HELDOUT_BYTES = 10, 1 << 18  # of one's own file: a tenth, at most 256 KiB


@frozen
class Corpus:
    """A text of bytes: what a model is built on, and the passages that it never sees.

    `documents` are the offsets in `train` where a document begins, the first one 0. `heldout`
    passages share no window of 64 bytes with `train`; an evaluation must not cross them. `sha256`
    is the digest of the source.
    """

    name: str
    train: bytes
    documents: tuple[int, ...]
    heldout: tuple[bytes, ...]
    sha256: str


def open_corpus(path: str | os.PathLike[str] | None = None) -> Corpus:
    """The file at `path`, or the frozen corpus when there is none: the meaning of `data.path`."""
    return topics() if path is None else text_file(path)


def topics() -> Corpus:
    """The frozen text: the topics of Python 3.11's `pydoc_data`, about 466 KB (PSF-2.0, see NOTICE.md).

    Whole topics are held out, in the order of the SHA-256 of their names, until at least 40 KB of
    passages remain that share no window with the rest. Raises DataError for a damaged package.
    """
    try:
        packed = resources.files("hecate_core.corpus").joinpath(FROZEN).read_bytes()
        raw = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"corpus: {FROZEN} is damaged ({error}); install hecate-core again") from error
    digest = hashlib.sha256(raw).hexdigest()
    if digest != FROZEN_SHA256:
        raise DataError(f"corpus: {FROZEN} has digest {digest[:12]}, expected {FROZEN_SHA256[:12]}; install again")
    texts = {name: text.encode() for name, text in json.loads(raw).items()}
    order = sorted(texts, key=lambda name: hashlib.sha256(name.encode()).digest())
    for count in range(1, len(order)):
        held = set(order[:count])
        if sum(len(texts[name]) for name in held) < HELDOUT_BYTES:
            continue
        train, documents = _joined([text for name, text in texts.items() if name not in held])
        found = unseen([passage for name in order[:count] for passage in passages(texts[name])], train)
        if sum(map(len, found)) >= HELDOUT_BYTES:
            return Corpus("pydoc-topics-3.11", train, documents, tuple(found), digest)
    raise DataError(f"corpus: no {HELDOUT_BYTES} bytes can be held out; install hecate-core again")


def _joined(texts: list[bytes]) -> tuple[bytes, tuple[int, ...]]:
    """The texts with a blank line between them, and where each begins."""
    offsets, whole = [], bytearray()
    for text in texts:
        offsets.append(len(whole))
        whole += text + b"\n"
    return bytes(whole), tuple(offsets)


def text_file(path: str | os.PathLike[str]) -> Corpus:
    """One's own file as bytes, one document; nothing is decoded, so any encoding is fine.

    The last tenth, at most 256 KiB, is held out from the next passage border on; held-out passages
    that share a window with the rest are dropped, so `heldout` may be empty. Lines may be of any
    length. Raises DataError, one line, for a path that is missing, a directory, unreadable, no
    regular file, empty, changed while it was read, larger than 4 GiB, or that holds a NUL byte
    (text has none; it would be a binary file).
    """
    raw = _read(Path(path))
    if not raw:
        raise DataError(f"data.path = {path}: the file is empty; expected text")
    if (at := raw.find(b"\0")) >= 0:
        raise DataError(f"data.path = {path}: NUL byte at offset {at}; expected text, not a binary file")
    border = len(raw) - min(len(raw) // OWN_SHARE, OWN_HELDOUT_BYTES)
    for mark in (b"\n\n", b"\n"):
        if (found := raw.find(mark, border)) >= 0:
            border = found + len(mark)
            break
    train = raw[:border]
    return Corpus(str(path), train, (0,), tuple(unseen(passages(raw[border:]), train)), hashlib.sha256(raw).hexdigest())


def _read(path: Path) -> bytes:
    """The whole file; opened without waiting, so that a pipe cannot hold us."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            facts = os.fstat(handle)
            _refuse_unfit(path, facts)
            with open(handle, "rb", closefd=False) as file:
                raw = file.read(facts.st_size + 1)
        finally:
            os.close(handle)
    except (OSError, ValueError) as error:
        raise DataError(f"data.path = {path}: {_reason(error)}; expected a readable text file") from None
    if len(raw) != facts.st_size:
        raise DataError(
            f"data.path = {path}: changed while it was read ({facts.st_size} bytes, then {len(raw)}); "
            "expected a file that nobody writes"
        )
    return raw


def _refuse_unfit(path: Path, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        kind = "a directory" if stat.S_ISDIR(facts.st_mode) else "no regular file"
        raise DataError(f"data.path = {path}: {kind}; expected a text file")
    if facts.st_size > DATA_BYTES:
        raise DataError(f"data.path = {path}: {facts.st_size} bytes; expected at most {DATA_BYTES}")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        words = {errno.ENOENT: "no such file", errno.EISDIR: "a directory", errno.EACCES: "permission denied"}
        return words.get(error.errno or 0, os.strerror(error.errno or 0).lower())
    return str(error)
