"""Documents of every format become sections that point at their words, or one clear line says why not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory import cli, documents
from factory.documents import Document, read_document
from factory.errors import RecipeError
from factory.init import write_template
from factory.load import load
from factory.parts import Span, split
from factory.recipe import SourcesSpec
from factory.sources import read_sources
from factory.store import schema
from factory.store.rows import source_row
from factory.store.store import Store
from factory.types import Source, digest

ROOT = Path(__file__).parents[1]


def pdf(pages: list[list[str]], trailer: str = "", scripted: bool = False) -> bytes:
    """A PDF with a line of text for each string, written by hand."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    action = "/OpenAction << /S /JavaScript /JS (app.alert\\(1\\)) >>" if scripted else ""
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R {action} >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, lines in enumerate(pages):
        shown = " ".join(f"({line}) Tj 0 -20 Td" for line in lines)
        stream = f"BT /F1 12 Tf 72 720 Td {shown} ET"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    out, offsets = "%PDF-1.4\n", []
    for number, text in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{text}\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    end = f"trailer\n<< /Size {size} /Root 1 0 R {trailer} >>\nstartxref\n{len(out)}\n%%EOF\n"
    return (out + f"xref\n0 {size}\n0000000000 65535 f \n{table}" + end).encode("latin-1")


LOCKED = (
    f"/ID [<{'00' * 16}> <{'00' * 16}>] "
    f"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <{'11' * 32}> /U <{'22' * 32}> >>"
)


def sources_of(folder: Path, name: str, text: str | bytes, **spec: int) -> tuple[Source, ...]:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = read_sources(SourcesSpec(paths=[name], **spec), folder)
    document = read_document(path)
    for source in found:
        assert document.text[source.start_char : source.end_char] == source.text
        assert source.page == document.page_at(source.start_char or 0)
    return found


def document_of(folder: Path, pages: list[list[str]]) -> None:
    (folder / "a.pdf").write_bytes(pdf(pages))


# Sections and their places


def test_a_markdown_section_points_at_its_words(tmp_path: Path) -> None:
    text = (
        "\ufeff# T\r\n\r\n## S\r\n\r\n### § 1 A\r\n\r\nWithin 30 días.\r\n\r\n### § 2 B\r\nx\r\n\r\n## U\r\n"
    )
    first, second = sources_of(tmp_path, "a.md", text)
    assert (first.text, second.text, first.page) == ("Within 30 días.", "x", None)
    assert (first.start_char, first.end_char) == (22, 37)


def test_the_handbook_keeps_its_ids_and_its_keys() -> None:
    """Samples of every stored run descend from these very identities."""
    sources = load(ROOT / "recipes" / "georgia_workers_comp", "tiny").sources
    assert digest([source.id for source in sources]) == "bdf3e0bc4261a954f0f6"
    assert digest([source.key for source in sources]) == "f072e00630fcfc1aca83"


def test_a_place_is_no_part_of_a_run(tmp_path: Path) -> None:
    write_template(tmp_path)
    domain = load(tmp_path)
    moved = replace(domain, sources=tuple(replace(each, start_char=7, page=3) for each in domain.sources))
    changed = replace(domain, sources=tuple(replace(each, text="x") for each in domain.sources))
    assert moved.run_digest() == domain.run_digest() != changed.run_digest()


def test_a_long_section_becomes_parts_of_which_the_first_keeps_the_key(tmp_path: Path) -> None:
    body = "\n\n".join(f"Paragraph {n}. " + "Words follow here. " * 8 for n in range(9))
    parts = sources_of(tmp_path, "a.md", f"## S\n### § 7 Long\n{body}\n### Short\nx", section_chars=400)
    assert [part.key for part in parts[:3]] == ["7-long", "7-long-part-2", "7-long-part-3"]
    assert [part.title for part in parts[:2]] == ["Long", "Long (part 2)"]
    assert {part.citation for part in parts[:-1]} == {"§ 7"} and parts[-1].key == "short"
    assert all(part.text.startswith("Paragraph") and part.text.endswith(".") for part in parts[:-1])


@settings(deadline=None)
@given(st.text(st.sampled_from("ab. \n。"), max_size=400), st.integers(4, 60))
def test_parts_cover_all_words_in_order_and_none_is_too_long(text: str, max_chars: int) -> None:
    spans = list(split(text, Span(0, len(text)), max_chars))
    end = 0
    for span in spans:
        part = text[span.start : span.end]
        assert part == part.strip() != "" and len(part) <= max_chars
        assert not text[end : span.start].strip()
        end = span.end
    assert not text[end:].strip()


def test_parts_end_with_paragraphs_else_sentences_else_words() -> None:
    def cut(text: str) -> list[str]:
        return [text[span.start : span.end] for span in split(text, Span(0, len(text)), 40)]

    assert cut("One is here. Two.\n\nThree is there. Four is not here.") == [
        "One is here. Two.",
        "Three is there. Four is not here.",
    ]
    assert cut("One is here and there. Two is not. Three is away.")[0] == "One is here and there."
    assert cut("word " * 12) == ["word word word word word word word", "word word word word word"]
    assert cut("x" * 100) == ["x" * 40, "x" * 40, "x" * 20]
    assert cut(" \n ") == []


# Text


def test_a_long_text_is_cut_and_a_short_one_is_as_before(tmp_path: Path) -> None:
    (short,) = sources_of(tmp_path, "Late fees/on time.txt", "  Alpha.\n")
    assert (short.key, short.slice, short.title, short.text) == ("on-time", "late_fees", "on time", "Alpha.")
    assert (short.start_char, short.end_char) == (2, 8)
    long = sources_of(tmp_path, "Late fees/long.txt", "Alpha beta. " * 100, section_chars=300)
    assert len(long) > 3 and long[1].key == "long-part-2"


# HTML

PAGE = """<!DOCTYPE html><html><head><title>The  Code</title><style>p {color: red}</style>
<script>document.write("<h3>No</h3>")</script></head><body>
<nav><h3>Menu</h3></nav><h1>Code</h1><p>Preface.</p>
<h2>Notice &amp; claims</h2>
<h3>&sect; 34-9-80 <i>Notice</i>
 of injury</h3>
<p>Within <b>30</b>
days of it;<br>not later.<p>To the employer.
<ul><li>orally<li>in <a href="http://127.0.0.1:1/x">writing</a></ul>
<table><tr><th>Rate<th>Weeks<tr><td>1/2<td>300</table>
<h4>Detail</h4><pre>  a
    b</pre><p hidden>secret</p><template>no</template><svg><title>pic</title></svg>
<h3>&#167; 34-9-81 Empty</h3>
<h2>Fees</h2><h3>Overview</h3><p>Five.</p><h3>Overview</h3><div>Six.</div></body></html>"""


def test_html_is_cut_at_its_headings_like_markdown(tmp_path: Path) -> None:
    notice, one, two = sources_of(tmp_path, "law.html", PAGE)
    assert (notice.key, notice.citation, notice.title, notice.slice) == (
        "law-34-9-80-notice-of-injury", "§ 34-9-80", "Notice of injury", "notice_claims"
    )  # fmt: skip
    assert notice.text == (
        "Within 30 days of it;\nnot later.\n\nTo the employer.\n\n- orally\n- in writing\n\n"
        "Rate | Weeks\n1/2 | 300\n\nDetail\n\n  a\n    b"
    )
    assert [(each.key, each.text, each.slice) for each in (one, two)] == [
        ("law-overview", "Five.", "fees"),
        ("law-overview-2", "Six.", "fees"),
    ]


def test_a_page_without_section_headings_is_one_section(tmp_path: Path) -> None:
    text = "<title>How to\n file</title><h1>Filing</h1>Plain<p>words"
    (page,) = sources_of(tmp_path, "Help/filing.HTM", text)
    assert (page.key, page.title, page.slice) == ("filing", "How to file", "help")
    assert page.text == "Filing\n\nPlain\n\nwords"


@pytest.mark.parametrize(
    "page",
    [
        '<meta charset="windows-1252"><p>Caf\u00e9'.encode("cp1252"),
        '<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-1"><p>Caf\u00e9'.encode(
            "latin-1"
        ),
        "<p>Caf\u00e9".encode(),
        "\ufeff<meta charset=latin-1><p>Caf\u00e9".encode(),
        "\ufeff<p>Caf\u00e9".encode("utf-16-le"),
        '<?xml version="1.0" encoding="iso-8859-1"?><html><body><p>Caf\u00e9</p></body></html>'.encode(
            "latin-1"
        ),
    ],
)
def test_a_page_says_its_encoding(tmp_path: Path, page: bytes) -> None:
    (source,) = sources_of(tmp_path, "a.html", page)
    assert source.text == "Caf\u00e9"


def test_a_piece_may_end_anywhere(tmp_path: Path) -> None:
    """The file is read in pieces of 64 KiB: characters, tags and words go on in the next."""
    text = "<h3>A</h3>" + "".join(f"<p>é{n} w<b>o</b>rd</p>" for n in range(9000))
    parts = sources_of(tmp_path, "a.html", text)
    assert "".join(part.text for part in parts).count("word") == 9000
    assert parts[0].text.startswith("é0 word\n\né1 word")


@pytest.mark.parametrize(
    "text", ["<div>" * 300_000 + "x", "<a " * 200_000 + ">x", "x" + "<!--" * 200_000, "x" + "&a" * 300_000]
)
def test_a_hostile_page_takes_no_time(tmp_path: Path, text: str) -> None:
    sources_of(tmp_path, "a.html", "<p>y</p>" + text)


# PDF


def test_a_pdf_is_cut_with_the_page_of_each_part(tmp_path: Path) -> None:
    pages = [[f"Page {page} line {n} has some words." for n in range(8)] for page in (1, 2, 3)]
    parts = sources_of(
        tmp_path, "Law/code.pdf", pdf([pages[0], [], *pages[1:]], scripted=True), section_chars=200
    )
    assert parts[0].text.startswith("Page 1 line 0 has some words.\nPage 1 line 1")
    assert [part.page for part in parts] == sorted(part.page or 0 for part in parts)
    assert (parts[0].page, parts[-1].page) == (1, 4) and parts[0].slice == "law"
    assert [part.key for part in parts[:2]] == ["code", "code-part-2"]
    document = read_document(tmp_path / "Law/code.pdf")
    assert document.page_at(document.text.index("Page 2")) == 3


def test_a_word_parted_at_a_line_end_is_whole_and_a_number_keeps_its_hyphen(tmp_path: Path) -> None:
    lines = ["It is easy to under-", "stand that sec. 34-9-", "80 and the X-", "Ray - so called - stay."]
    (part,) = sources_of(tmp_path, "a.pdf", pdf([lines]))
    assert part.text == "It is easy to understand that sec. 34-9-80 and the X-Ray - so called - stay."


def test_a_hyphen_at_a_line_end_stays_where_the_document_writes_the_word_with_it(tmp_path: Path) -> None:
    lines = [
        "Claims for long-",
        "term care, well-",
        "being and re-",
        "employment of a Mid-",
        "west-",
        "ern firm,",
    ]
    pages = [lines, ["long-term care; Long-Term", "plans; re-employment and", "reemployment, reemployment."]]
    document_of(tmp_path, pages)
    text = read_document(tmp_path / "a.pdf").text
    assert "for long-term care, wellbeing and reemployment of a Midwestern firm," in text


def test_words_that_a_line_end_parts_are_whole_words_to_the_hyphen(tmp_path: Path) -> None:
    """`re` and `port` stand with a hyphen between others: neither is the word that was parted."""
    document_of(
        tmp_path, [["the re-", "port and the co-", "op"], ["more-portly, are-port, co-opted; a co-op"]]
    )
    assert read_document(tmp_path / "a.pdf").text.startswith("the report and the co-op\n")


def test_a_position_before_the_first_page_or_without_pages_has_none() -> None:
    assert Document("abc").page_at(1) is None
    assert [Document("abcd", page_starts=(0, 2, 2)).page_at(n) for n in (0, 1, 2, 3)] == [1, 1, 3, 3]


# What cannot be read


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pdf", pdf([["x"]], LOCKED), ["a.pdf", "password"]),
        ("a.pdf", b"%PDF-1.7\nnothing", ["a.pdf", "broken"]),
        ("a.pdf", b"", ["a.pdf", "broken"]),
        ("a.pdf", b"\x89PNG", ["a.pdf", "broken"]),
        ("a.pdf", pdf([[], []]), ["a.pdf", "no text", "character recognition"]),
        ("a.html", b"", ["a.html", "empty"]),
        ("a.html", b"<script>1</script>", ["a.html", "empty"]),
        ("a.html", b"<h3>A</h3><h3>B</h3>", ["a.html", "no section has text"]),
        ("a.html", b"<p>Caf\xe9", ["a.html", "utf-8"]),
        ("a.html", b"<meta charset=klingon><p>x", ["a.html", "klingon"]),
        ("a.html", b"<meta charset=base64><p>x", ["a.html", "base64"]),
        ("a.docx", b"PK\x03\x04\x00\x00", ["a.docx", "no text", "convert"]),
        ("a.txt", b" \n", ["a.txt", "empty"]),
    ],
)
def test_what_cannot_be_read_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, words: list[str]
) -> None:
    write_template(tmp_path / "domain")
    (tmp_path / "domain" / name).write_bytes(content)
    recipe = tmp_path / "domain" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("sources/*.md", name))
    assert name in recipe.read_text()
    assert cli.main(["check", str(tmp_path / "domain")]) == 2
    printed = capsys.readouterr().err.strip()
    assert [word for word in words if word not in printed] == [] and "\n" not in printed, printed


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", b"x" * 200), ("a.html", b"<p>x" * 200), ("a.pdf", pdf([["x" * 50]] * 4))],
)
def test_too_large_a_document_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    monkeypatch.setattr(documents, "MAX_CHARS", 100)
    with pytest.raises(RecipeError, match=rf"{name}: more than 100 characters"):
        sources_of(tmp_path, name, content)


# The store


def test_a_sample_leads_to_page_and_words_in_sql(tmp_path: Path) -> None:
    sources = sources_of(tmp_path, "a.pdf", pdf([["One."], ["Two."]]), section_chars=200)
    with Store.open(tmp_path) as store:
        store.append("sources", [source_row(source) for source in sources])
        (row,) = store.select("SELECT path, page, start_char, end_char, text FROM sources")
    assert row == {"path": "a.pdf", "page": 1, "start_char": 0, "end_char": 9, "text": "One.\nTwo."}


def test_a_store_of_the_first_version_gets_places(tmp_path: Path) -> None:
    old = Source.create("k", "a.md", "", "T", "x", "s")
    row = {key: value for key, value in source_row(old).items() if value is not None}
    with duckdb.connect(tmp_path / "factory.duckdb") as first:
        first.execute(schema.MIGRATIONS_TABLE)
        schema.create_tables(first)
        first.execute("INSERT INTO migrations VALUES (1, 'create_tables', now())")
        first.execute(
            f"INSERT INTO sources ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", [*row.values()]
        )
    with Store.open(tmp_path) as store:
        store.append(
            "sources", [source_row(replace(old, id="src_2", start_char=2**40, end_char=2**40 + 1, page=9))]
        )
        rows = store.select("SELECT id, start_char, page FROM sources ORDER BY id")
    assert sorted(rows, key=lambda row: row["page"] or 0) == [
        {"id": old.id, "start_char": None, "page": None},
        {"id": "src_2", "start_char": 2**40, "page": 9},
    ]
    with duckdb.connect(tmp_path / "factory.v1.duckdb", read_only=True) as copy:
        assert copy.execute("SELECT count(*) FROM sources").fetchall() == [(1,)]
