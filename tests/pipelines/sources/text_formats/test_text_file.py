import codecs
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sources.text_formats.text_file import MAX_LINE_BYTES, TextFile
from tests.pipelines.sources.text_formats.written_files import PACKERS, Packer, written
from zimage_models.errors import InvalidRequest

ENDS = ("\n", "\r\n", "\r")


def read(folder: Path, content: str | bytes, encoding: str | None = None) -> list[str]:
    lines = list(TextFile(written(folder, content), encoding).lines())
    assert [line.number for line in lines] == list(range(1, len(lines) + 1))
    assert not any(line.error for line in lines)
    return [line.text for line in lines]


class TestCompression:
    @pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
    def test_is_told_by_content_and_may_have_several_members(self, tmp_path: Path, pack: Packer) -> None:
        assert read(tmp_path, pack(b"cat\n") + pack(b"dog\n")) == ["cat\n", "dog\n"]
        assert read(tmp_path, pack(b"")) == []

    @pytest.mark.parametrize("name", [name for name in PACKERS if name != "plain"])
    def test_damaged_archive_is_refused_in_one_line(self, tmp_path: Path, name: str) -> None:
        whole = PACKERS[name](b"".join(b"%d cats\n" % n for n in range(30_000)))
        for content in (whole[:-20], whole[:12], whole[:100] + b"\xff" * 10_000):
            with pytest.raises(InvalidRequest, match="cannot be read: ") as caught:
                list(TextFile(written(tmp_path, content)).lines())
            assert "\n" not in str(caught.value)

    def test_text_that_starts_like_an_archive_is_text(self, tmp_path: Path) -> None:
        assert read(tmp_path, "BZh9 is a name\n(/\n") == ["BZh9 is a name\n", "(/\n"]

    @pytest.mark.parametrize(
        ("start", "named"),
        [(b"PK\x03\x04", "Excel workbook"), (b"\xd0\xcf\x11\xe0", "Excel"), (b"PAR1\x15\x04", "Parquet")],
    )
    @pytest.mark.parametrize("encoding", [None, "cp1252"])
    def test_what_is_no_text_is_named(
        self, tmp_path: Path, start: bytes, named: str, encoding: str | None
    ) -> None:
        with pytest.raises(InvalidRequest, match=named):
            TextFile(written(tmp_path, start + bytes(100)), encoding)


class TestEncodings:
    @pytest.mark.parametrize("encoding", [None, "utf-8", "cp1252"])
    @pytest.mark.parametrize("marked", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-32-be"])
    def test_byte_order_mark_decides(self, tmp_path: Path, marked: str, encoding: str | None) -> None:
        mark = codecs.BOM_UTF16_BE if marked == "utf-16-be" else codecs.BOM_UTF32_BE
        text = "红 café\r\n𝄞\n".encode(marked)
        assert read(tmp_path, mark + text if marked.endswith("-be") else text, encoding) == [
            "红 café\r\n",
            "𝄞\n",
        ]

    @pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-16-le"])
    def test_no_mark_sticks_to_the_text(self, tmp_path: Path, encoding: str) -> None:
        assert read(tmp_path, "\ufeff\ufeffid\n\ufeff1\n".encode(encoding), encoding) == ["id\n", "\ufeff1\n"]

    def test_mark_against_the_option_is_said(self, tmp_path: Path) -> None:
        file = written(tmp_path, "cat\n".encode("utf-16"))
        assert TextFile(file).notes == ("the text is utf-16-le, as its byte order mark says",)
        assert TextFile(file, "utf-16").notes == TextFile(file).notes
        (note,) = TextFile(file, "cp1252").notes
        assert note == "the byte order mark says utf-16-le, so --encoding cp1252 is not used"
        assert TextFile(written(tmp_path, "cat\n".encode("utf-8-sig"))).notes == ()

    @pytest.mark.parametrize(
        ("encoding", "text"),
        [
            ("cp1252", "café\n"),
            ("gb18030", "红苹果\n"),
            ("shift_jis", "表\n"),  # its second byte is a backslash
            ("iso2022_jp", "表\n"),
            ("utf-16-le", "ਊ\n"),  # both its bytes are line feeds
            ("utf-16-be", "ਊ\n"),
            ("cp500", "cat\n"),  # EBCDIC
            ("utf-7", "café\n"),
        ],
    )
    @pytest.mark.parametrize("end", ENDS)
    def test_option_names_any_encoding(self, tmp_path: Path, encoding: str, text: str, end: str) -> None:
        expected = [text.replace("\n", end)] * 3
        assert read(tmp_path, "".join(expected).encode(encoding), encoding) == expected

    @pytest.mark.parametrize("name", ["nonsense", "rot13", "base64", "", "a\0b", "\ud800"])
    def test_what_is_no_text_encoding_is_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InvalidRequest, match="is not a text encoding") as caught:
            TextFile(written(tmp_path, "cat\n"), name)
        assert repr(name) in str(caught.value)
        assert caught.value.field == "encoding"

    @pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
    def test_utf16_without_mark_is_refused_by_name(self, tmp_path: Path, encoding: str) -> None:
        with pytest.raises(InvalidRequest, match=f"give --encoding {encoding}"):
            TextFile(written(tmp_path, "id,prompt\n1,红苹果\n".encode(encoding)))

    def test_few_bad_lines_are_errors_of_their_own(self, tmp_path: Path) -> None:
        file = written(tmp_path, b"cat\nk\xe4se\n\n\ndog\n")
        _, bad, *_ = TextFile(file).lines()
        assert bad.error == (
            "not UTF-8 text (byte 0xE4); give --encoding, such as cp1252 (Western European), cp1251"
            " (Russian), gb18030 (Chinese) or cp932 (Japanese)"
        )
        assert [line.error is None for line in TextFile(file).lines()] == [True, False, True, True, True]

    @pytest.mark.parametrize(
        ("content", "encoding", "advice"),
        [
            ("käse\ncafé\ncat\n".encode("cp1252"), None, "--encoding, such as cp1252"),
            ("红苹果\n".encode("gb18030"), None, r"gb18030 \(Chinese\)"),
            (b"\x81\n\x81\ncat\n", "cp1252", "is not cp1252 text .* give its --encoding"),
            ("cat\n".encode("utf-16-le")[:-1], "utf-16-le", "is not utf-16-le text .*truncated"),
        ],
    )
    def test_file_in_another_encoding_is_refused(
        self, tmp_path: Path, content: bytes, encoding: str | None, advice: str
    ) -> None:
        with pytest.raises(InvalidRequest, match=advice) as caught:
            list(TextFile(written(tmp_path, content), encoding).lines())
        assert caught.value.field == "encoding"

    def test_half_a_surrogate_pair_in_utf16_is_the_error_of_its_line(self, tmp_path: Path) -> None:
        content = "cat\n".encode("utf-16") + b"\x00\xd8\n\x00" + "dog\n".encode("utf-16-le")
        lines = TextFile(written(tmp_path, content)).lines()
        assert [(line.text, line.error is None) for line in lines if not line.error] == [
            ("cat\n", True),
            ("dog\n", True),
        ]


class TestLines:
    @given(
        st.lists(
            st.tuples(
                st.text(st.characters(exclude_characters="\0\r\n\ufeff", exclude_categories=["Cs"])),
                st.sampled_from(ENDS),
            )
        ),
        st.sampled_from(["utf-8", "utf-16", "gb18030"]),
    )
    def test_every_end_and_only_these_end_a_line(
        self, tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, str]], encoding: str
    ) -> None:
        content = "".join(text + end for text, end in lines)
        found = read(tmp_path_factory.mktemp("lines"), content.encode(encoding), encoding)
        expected = content.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        assert [line.rstrip("\r\n") for line in found] == expected[:-1]

    def test_last_line_needs_no_end(self, tmp_path: Path) -> None:
        assert read(tmp_path, "cat\rdog") == ["cat\r", "dog"]

    @pytest.mark.parametrize("offset", [-1, 0, 1])
    def test_line_ends_at_the_border_of_a_read(self, tmp_path: Path, offset: int) -> None:
        text = "x" * (2**20 - 1 + offset)
        for end in ENDS:
            assert read(tmp_path, f"{text}{end}cat{end}") == [text + end, "cat" + end]

    @pytest.mark.parametrize("end", ENDS)
    def test_line_past_the_limit_is_an_error_and_others_go_on(self, tmp_path: Path, end: str) -> None:
        longest = "é" * (MAX_LINE_BYTES // 2 - 1)
        # The second is cut by a read behind the first byte of its end.
        for too_long in ("x" + "é" * MAX_LINE_BYTES, "x" * (5 * 2**20 + 1 - len(end))):
            content = end.join([longest, too_long, "cat", ""])
            lines = list(TextFile(written(tmp_path, content)).lines())
            assert [line.error for line in lines] == [None, "longer than 4194304 bytes", None]
            assert [lines[0].text, lines[2].text] == [longest + end, "cat" + end]
            assert len(lines[1].text) < 6 * 2**20
