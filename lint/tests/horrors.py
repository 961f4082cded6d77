"""A catalogue of files that break parsers: names and bytes, and things that are no files."""

import os
from pathlib import Path

DEEP = 20_000


def files() -> dict[str, bytes]:
    """Name -> content of every horror that is a regular file."""
    found: dict[str, bytes] = {
        "empty": b"",
        "blank": b"\n\n\n",
        "only_bom": b"\xef\xbb\xbf",
        "bom": b"\xef\xbb\xbfx = 1\n",
        "two_boms": b"\xef\xbb\xbf\xef\xbb\xbfx = 1\n",
        "nul": b"x = 1\0\n",
        "only_nuls": b"\0" * 4096,
        "nul_in_string": b"x = '\0'\n",
        "bad_cookie": b"# -*- coding: klingon -*-\nx = 1\n",
        "cookie_not_text": b"# coding: hex\nx = 1\n",
        "cookie_rot13": b"# coding: rot13\nk = 1\n",
        "cookie_latin1": b"# coding: latin-1\nx = '\xe9'\n",
        "cookie_utf7": b"# coding: utf-7\nx = 1\n",
        "cookie_lies": b"# coding: ascii\nx = '\xc3\xa9'\n",
        "cookie_idna": b"# coding: idna\nx = 1\n",
        "cookie_undefined": b"# coding: undefined\nx = 1\n",
        "bom_and_other_cookie": b"\xef\xbb\xbf# coding: latin-1\nx = 1\n",
        "utf16_le": "x = 1\n".encode("utf-16"),
        "utf16_be": b"\xfe\xff" + "x = 1\n".encode("utf-16-be"),
        "utf32": "x = 1\n".encode("utf-32"),
        "bad_utf8": b"x = '\xff\xfe\xfa'\n",
        "cut_utf8": b"x = '\xe2\x82",
        "lone_surrogate": b"x = '\xed\xa0\x80'\n",
        "surrogate_escape": b"x = '\\ud800'\n",
        "astral": "x = '\U0001f600' * 3\n".encode(),
        "python2_print": b"print 'hello'\n",
        "python2_except": b"try:\n    pass\nexcept E, e:\n    pass\n",
        "python2_exec": b"exec 'x' in d\n",
        "python2_backticks": b"x = `1`\n",
        "python2_octal": b"x = 0777\n",
        "merge_conflict": b"<<<<<<< HEAD\nx = 1\n=======\nx = 2\n>>>>>>> b\n",
        "unclosed_paren": b"f(\n",
        "unclosed_string": b"x = '''abc\n",
        "unclosed_fstring": b"x = f'{a'\n",
        "mixed_tabs": b"if x:\n\ty = 1\n        z = 2\n",
        "bad_dedent": b"if x:\n    y = 1\n  z = 2\n",
        "cr_only": b"x = 1\ry = 2\r",
        "mixed_newlines": b"x = 1\r\ny = 2\nz = 3\r",
        "form_feeds": b"\x0cx = 1\n\x0c\ny = 2\n",
        "no_final_newline": b"x = 1",
        "backslash_at_end": b"x = 1 \\",
        "line_separators": "x = 'a\u2028b\u2029c\x85d'\n".encode(),
        "shebang": b"#!/usr/bin/env python\nx = 1\n",
        "binary": bytes(range(256)) * 64,
        "elf": b"\x7fELF\x02\x01\x01" + b"\0" * 512,
        "zip": b"PK\x03\x04" + b"\x11" * 512,
        "long_line": b"x = '" + b"a" * 1_000_000 + b"'\n",
        "long_comment": b"#" * 1_000_000 + b"\n",
        "long_name": b"x" * 500_000 + b" = 1\n",
        "long_number": b"x = " + b"9" * 200_000 + b"\n",
        "huge_exponent": b"x = 1e999999\n",
        "many_lines": b"x = 1\n" * 50_000,
        "many_functions": b"def f():\n    return 1\n" * 5_000,
        "many_arguments": b"f(" + b"a, " * 30_000 + b")\n",
        "many_elements": b"x = [" + b"1, " * 60_000 + b"]\n",
        "many_semicolons": b"x = 1; " * 20_000 + b"y = 2\n",
        "many_decorators": b"@d\n" * 5_000 + b"def f(): pass\n",
        "match_statement": b"match x:\n    case {'a': [1, *_]} if y:\n        pass\n",
        "walrus_everywhere": b"[y := 1, (z := y)]\n" * 200,
        "type_comments": b"x = []  # type: [\n",
        "only_comment": b"# nothing",
        "tab_indent": b"if x:\n\tif y:\n\t\tz = 1\n",
        "star_expressions": b"print(*[1], *[2])\na, *b = c\n",
        "async_everything": b"async def f():\n    async with a as b:\n        async for c in d:\n            await c\n",
        "suppression_in_string": b"x = '# hecate: allow CS-47 -- no comment'\n",
        "suppression_garbage": b"x = 1  # hecate: \xe2\x98\x83\n",
    }
    return found | _deep()


def _deep() -> dict[str, bytes]:
    plus = b"x = " + b" + ".join([b"1"] * 50_000) + b"\n"
    return {
        "deep_parens": b"x = " + b"(" * DEEP + b")" * DEEP + b"\n",
        "parens_1500": b"x = " + b"(" * 1_500 + b"1" + b")" * 1_500 + b"\n",
        "parens_150": b"x = " + b"(" * 150 + b"1" + b")" * 150 + b"\n",
        "deep_brackets": b"x = " + b"[" * DEEP + b"]" * DEEP + b"\n",
        "deep_braces": b"x = " + b"{" * DEEP + b"}" * DEEP + b"\n",
        "open_brackets": b"[" * DEEP,
        "deep_calls": b"f(" * DEEP + b")" * DEEP + b"\n",
        "deep_subscripts": b"x" + b"[0]" * DEEP + b"\n",
        "deep_attributes": b"x" + b".a" * DEEP + b"\n",
        "deep_unary": b"x = " + b"-" * DEEP + b"1\n",
        "deep_not": b"x = " + b"not " * DEEP + b"y\n",
        "deep_lambda": b"x = " + b"lambda: " * DEEP + b"1\n",
        "deep_ternary": b"x = " + b"a if b else " * DEEP + b"c\n",
        "deep_power": b"x = " + b"2 ** " * DEEP + b"1\n",
        "deep_await": b"async def f():\n    " + b"await " * DEEP + b"x\n",
        "deep_indent": b"".join(b" " * n + b"if x:\n" for n in range(99)) + b" " * 99 + b"pass\n",
        "too_deep_indent": b"".join(b" " * n + b"if x:\n" for n in range(300)) + b" " * 300 + b"pass\n",
        "deep_elif": b"if x:\n    pass\n" + b"elif y:\n    pass\n" * 5_000,
        "deep_functions": b"".join(b" " * n + b"def f():\n" for n in range(95)) + b" " * 95 + b"pass\n",
        "deep_fstring": b"x = " + b"f'{" * 40 + b"1" + b"}'" * 40 + b"\n",
        "sum_50000": plus,
        "sum_900": b"x = " + b" + ".join([b"y"] * 900) + b"\nm.gradient_checkpointing_enable()\n",
        "and_50000": b"x = " + b" and ".join([b"y"] * 50_000) + b"\n",
        "compare_50000": b"x = " + b" < ".join([b"y"] * 50_000) + b"\n",
        "chain_900": b"def f(state):\n    state" + b".mul_(2)" * 900 + b"\n    return state\n",
        "strings_50000": b"x = (" + b"'a' " * 50_000 + b")\n",
    }


def make(folder: Path) -> list[str]:
    """Write every horror below a folder; the names of those that can exist here."""
    names = []
    for name, content in files().items():
        (folder / f"{name}.py").write_bytes(content)
        names.append(f"{name}.py")
    os.mkfifo(folder / "pipe.py")
    (folder / "loop.py").symlink_to(folder / "loop.py")
    (folder / "dangling.py").symlink_to(folder / "nowhere.py")
    (folder / "round").symlink_to(folder)
    (folder / "device.py").symlink_to("/dev/zero")
    (folder / "folder.py").mkdir()
    (folder / "name with space.py").write_bytes(b"x = 1\n")
    (folder / "new\nline.py").write_bytes(b"x = (\n")
    with open(os.fsencode(folder) + b"/bad\xff.py", "wb") as stream:
        stream.write(b"x = (\n")
    return names
