"""The frozen corpus, one's own file, and the baselines."""

import gzip
import hashlib
import math
import os
import re
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hecate_core.corpus import Corpus, fit_baselines, open_corpus, text_file, topics
from hecate_core.corpus import text as text_module
from hecate_core.corpus.passages import WINDOW, passages, unseen
from hecate_core.errors import DataError


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return topics()


def windows(text: bytes) -> set[bytes]:
    return {text[i : i + WINDOW] for i in range(len(text) - WINDOW + 1)}


def test_at_least_forty_kilobytes_are_held_out_and_no_window_leaks(corpus: Corpus) -> None:
    assert sum(map(len, corpus.heldout)) >= 40_000
    seen = windows(corpus.train)  # exact, not by hash
    assert not [passage for passage in corpus.heldout if windows(passage) & seen]
    assert not [passage for passage in corpus.heldout if len(passage) < WINDOW and passage in corpus.train]


def test_a_leak_would_be_seen_by_the_test_above(corpus: Corpus) -> None:
    planted = corpus.heldout[-1][:WINDOW]
    assert len(planted) == WINDOW
    assert windows(corpus.heldout[-1]) & windows(corpus.train + planted)


def test_the_corpus_is_the_frozen_text_and_the_same_each_time(corpus: Corpus) -> None:
    assert corpus == topics() == open_corpus()
    assert corpus.sha256 == text_module.FROZEN_SHA256
    assert hashlib.sha256(corpus.train).hexdigest()[:12] == "6b467028ae7d"
    assert hashlib.sha256(b"\n\n".join(corpus.heldout)).hexdigest()[:12] == "ee2e5d5d48a8"
    assert (len(corpus.train), len(corpus.documents), len(corpus.heldout)) == (382274, 64, 214)


def test_documents_begin_with_their_titles(corpus: Corpus) -> None:
    assert corpus.documents[0] == 0
    for start in corpus.documents:
        title, underline = corpus.train[start:].split(b"\n", 2)[:2]
        assert set(underline) == {ord("*")}, title


def test_held_out_passages_hold_no_blank_line(corpus: Corpus) -> None:
    assert all(not re.search(rb"\n[ \t]*\n", passage) and passage.strip() for passage in corpus.heldout)


def test_the_notice_travels_with_the_text() -> None:
    folder = resources.files("hecate_core.corpus")
    assert text_module.FROZEN_SHA256 in folder.joinpath("NOTICE.md").read_text()
    assert "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2" in folder.joinpath("PSF_LICENSE.txt").read_text()


@pytest.mark.parametrize("damage", ["cut", "flip", "other"])
def test_a_damaged_package_is_one_line(damage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    packed = resources.files("hecate_core.corpus").joinpath(text_module.FROZEN).read_bytes()
    broken = {
        "cut": packed[:-40],
        "flip": packed[:5000] + bytes([packed[5000] ^ 8]) + packed[5001:],
        "other": gzip.compress(b"{}"),
    }[damage]
    (tmp_path / text_module.FROZEN).write_bytes(broken)
    monkeypatch.setattr(resources, "files", lambda _: tmp_path)
    with pytest.raises(DataError, match="install") as caught:
        topics()
    assert "\n" not in str(caught.value)


def test_passages_are_what_stands_between_blank_lines() -> None:
    assert passages(b"\n\na\nb\n \n\t\nc\n\n\n") == [b"a\nb", b"c"]
    assert passages(b" \n") == []
    assert passages(b"x" * 99) == [b"x" * 99]


@given(
    seen=st.text("ab\n", min_size=0, max_size=400).map(str.encode),
    candidates=st.lists(st.text("ab", min_size=1, max_size=150).map(str.encode), max_size=4),
    copied=st.integers(0, 300),
)
def test_unseen_agrees_with_sets_of_windows(seen: bytes, candidates: list[bytes], copied: int) -> None:
    candidates = [*candidates, b"x" + seen[copied : copied + 70].replace(b"\n", b"a") + b"y"]
    expected = [
        one for one in candidates if (one not in seen if len(one) < WINDOW else not (windows(one) & windows(seen)))
    ]
    assert unseen(candidates, seen) == expected


@pytest.mark.parametrize("shift", [0, 1, WINDOW - 1, WINDOW])
def test_a_window_across_two_hashed_blocks_is_seen(shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hecate_core.corpus.passages._BLOCK", 256)
    seen = bytes((7 * i * i + i // 3) % 251 + 1 for i in range(1000))
    start = 256 - WINDOW + shift
    assert unseen([seen[start : start + WINDOW]], seen) == []
    assert unseen([seen[start : start + WINDOW - 1] + b"\0"], seen) != []


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_ones_own_file_is_divided_without_a_leak(tmp_path: Path) -> None:
    text = b"\n\n".join(b"%d: " % i + hashlib.sha256(b"%d" % i).hexdigest().encode() * 2 for i in range(400))
    own = open_corpus(write(tmp_path / "own.txt", text))
    assert text.startswith(own.train)
    assert 0.07 * len(text) < sum(map(len, own.heldout)) < 0.11 * len(text)
    assert not windows(own.train) & {w for passage in own.heldout for w in windows(passage)}
    assert own.sha256 == hashlib.sha256(text).hexdigest()


def test_a_file_that_repeats_itself_has_nothing_to_hold_out(tmp_path: Path) -> None:
    own = text_file(write(tmp_path / "own.txt", (b"the same sentence, over and over; " * 3 + b"\n\n") * 99))
    assert own.heldout == ()


def test_a_line_of_ten_megabytes_and_any_encoding_are_read(tmp_path: Path) -> None:
    line = b"\xff\xfe no utf-8 " + b"0123456789abcdef" * (10 * 65536)
    own = text_file(write(tmp_path / "long.txt", line))
    assert own.train == line[: len(own.train)]
    assert len(line) - len(own.train) == text_module.OWN_HELDOUT_BYTES


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        text_file(path)
    message = str(caught.value)
    assert message.startswith("data.path = ")
    assert "\n" not in message
    assert "expected" in message
    return message


def test_wrong_files_are_one_line_each(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "missing.txt")
    assert "a directory" in refused(tmp_path)
    assert "empty" in refused(write(tmp_path / "empty.txt", b""))
    assert "NUL byte at offset 3" in refused(write(tmp_path / "nul.txt", b"abc\0def"))
    assert "null" in refused(tmp_path / "a\0b").lower()
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in refused(tmp_path / "pipe")
    assert "no regular file" in refused(Path("/dev/zero"))


def test_an_unreadable_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path / "own.txt", b"text")
    monkeypatch.setattr(os, "open", deny)  # the tests may run as root, whom no mode bit stops
    assert "permission denied" in refused(path)


@pytest.mark.parametrize("change", [-3, 5])
def test_a_file_that_changes_while_it_is_read_is_refused(
    change: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = write(tmp_path / "own.txt", b"some text here"), os.fstat

    def late(handle: int) -> os.stat_result:
        facts = real(handle)
        if facts.st_size == 14:
            os.truncate(path, facts.st_size + change)
        return facts

    monkeypatch.setattr(os, "fstat", late)
    assert "changed while it was read" in refused(path)


def test_a_file_above_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "DATA_BYTES", 10)
    assert "expected at most 10" in refused(write(tmp_path / "own.txt", b"eleven bytes"))


def test_baselines_of_the_frozen_corpus(corpus: Corpus) -> None:
    found = fit_baselines(corpus.train, corpus.heldout)
    assert found.uniform == 8.0
    assert found.unigram == pytest.approx(4.8215, abs=1e-4)
    assert found.bigram == pytest.approx(3.5621, abs=1e-4)
    assert found.counted == sum(len(passage) - 1 for passage in corpus.heldout)


def test_baselines_are_what_theory_says_of_a_source_without_memory_and_of_a_cycle() -> None:
    cycle = b"abcd" * 4000
    found = fit_baselines(cycle, [b"cdabcd"])
    assert found.unigram == pytest.approx(2.0, abs=0.03)
    assert found.bigram == pytest.approx(0.0, abs=0.01)
    fair = hashlib.shake_128(b"coin").digest(20_000).translate(bytes(97 + (i & 1) for i in range(256)))
    found = fit_baselines(fair[:18_000], [fair[18_000:]])
    assert found.unigram == pytest.approx(1.0, abs=0.03)
    assert found.bigram == pytest.approx(1.0, abs=0.03)


def test_an_unseen_byte_costs_much_but_not_everything() -> None:
    found = fit_baselines(b"abab" * 50, [b"az"])
    assert math.isfinite(found.bigram)
    assert found.bigram > 5


def test_texts_without_a_pair_are_refused() -> None:
    with pytest.raises(DataError, match="baselines"):
        fit_baselines(b"abc", [b"a", b""])
    with pytest.raises(DataError, match="baselines"):
        fit_baselines(b"", [b"abc"])
