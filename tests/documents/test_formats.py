"""Every format: its text and its places."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_files import (
    made_docx,
    made_email,
    made_epub,
    made_notebook,
    made_pdf,
    made_pptx,
    made_xlsx,
    made_zip,
)

from e2llm.documents import Document, LeftOut, read_bytes, read_documents
from e2llm.documents.document import join_parts
from e2llm.errors import E2LLMError, E2LLMWarning


def placed(document):
    """Each place with its text."""
    check(document)
    starts = [start for start, _ in document.places]
    ends = [*starts[1:], len(document.text)]
    return [
        (place, document.text[start:end].strip())
        for (start, place), end in zip(document.places, ends, strict=True)
    ]


def test_a_page_of_a_pdf_is_a_place():
    document = read_bytes(made_pdf(["One boat.", "", "Three boats."]), "report.pdf")
    assert document.name == "report.pdf"
    assert placed(document) == [("page 1", "One boat."), ("page 3", "Three boats.")]
    assert document.place_at(document.text.index("Three")) == "page 3"


def test_a_pdf_that_opens_without_a_password_is_read_though_encrypted():
    assert placed(read_bytes(made_pdf(["One boat."], password=""), "x.pdf")) == [("page 1", "One boat.")]


def test_paragraphs_and_tables_of_word_are_known_by_the_heading_above():
    def add(file):
        file.add_paragraph("Before.")
        file.add_heading("The  boats", 1)
        file.add_paragraph("Seven of them.")
        table = file.add_table(2, 2)
        for cell, text in zip([cell for row in table.rows for cell in row.cells], "abcd", strict=True):
            cell.text = text
        table.cell(0, 0).add_table(1, 1).cell(0, 0).text = "within"

    document = read_bytes(made_docx(add), "a.docx")
    assert document.text.strip() == "Before.\nThe  boats\nSeven of them.\na within | b\nc | d"
    assert document.place_at(0) == "line 1"
    assert document.place_at(document.text.index("Seven")) == "section The boats"


def test_word_text_within_content_controls_and_links_is_read():
    def add(file):
        from docx.oxml import parse_xml
        from docx.oxml.ns import nsdecls

        link = "<w:hyperlink><w:r><w:t>Linked.</w:t></w:r></w:hyperlink>"
        inner = f"<w:p>{link}<w:del><w:r><w:delText>Gone</w:delText></w:r></w:del></w:p>"
        block = f"<w:sdt {nsdecls('w')}><w:sdtContent>{inner}</w:sdtContent></w:sdt>"
        file.element.body.insert(0, parse_xml(block))

    assert read_bytes(made_docx(add), "a.docx").text.strip() == "Linked."


def test_notes_headers_and_footers_of_word_follow_its_text():
    note = '<w:{0} w:id="{1}" {2}><w:p><w:r><w:t>{3}</w:t></w:r></w:p></w:{0}>'
    names = "xmlns:w='http://schemas.openxmlformats.org/wordprocessingml/2006/main'"

    def add(file):
        from docx.opc.constants import CONTENT_TYPE, RELATIONSHIP_TYPE
        from docx.opc.packuri import PackURI
        from docx.opc.part import Part

        file.add_paragraph("One boat.")
        file.sections[0].header.paragraphs[0].text = "Harbour report"
        file.sections[0].footer.paragraphs[0].text = "Confidential"
        file.add_section().header.is_linked_to_previous = False
        file.sections[1].header.paragraphs[0].text = "Harbour report"
        for kind, text in (("footnote", "It is blue."), ("endnote", "Sold in May.")):
            items = note.format(kind, 0, 'w:type="separator"', "") + note.format(kind, 1, "", text)
            blob = f"<w:{kind}s {names}>{items}</w:{kind}s>".encode()
            content_type = getattr(CONTENT_TYPE, f"WML_{kind.upper()}S")
            part = Part(PackURI(f"/word/{kind}s.xml"), content_type, blob, file.part.package)
            file.part.relate_to(part, getattr(RELATIONSHIP_TYPE, f"{kind.upper()}S"))

    document = read_bytes(made_docx(add), "a.docx")
    assert document.text.startswith("One boat.")
    assert placed(document) == [
        ("endnote 1", "Sold in May."),
        ("footer", "Confidential"),
        ("footnote 1", "It is blue."),
        ("header", "Harbour report"),
    ]


def test_a_slide_is_a_place_with_its_notes():
    document = read_bytes(made_pptx([("First", ""), ("Second", "Say it slowly.")]), "talk.pptx")
    assert placed(document) == [("slide 1", "First"), ("slide 2", "Second\nSay it slowly.")]


def test_charts_and_drawings_of_slides_are_read():
    import io

    from pptx import Presentation
    from pptx.chart.data import CategoryChartData
    from pptx.enum.chart import XL_CHART_TYPE
    from pptx.opc.package import Part
    from pptx.opc.packuri import PackURI

    file = Presentation()
    slide = file.slides.add_slide(file.slide_layouts[6])
    data = CategoryChartData()
    data.categories = ["May", "June"]
    data.add_series("Boats", (3, 4.5))
    data.add_series("Oars", (6, None))
    chart = slide.shapes.add_chart(XL_CHART_TYPE.LINE, 0, 0, 9999, 9999, data).chart
    chart.chart_title.text_frame.text = "Fleet"
    names = "xmlns:a='http://schemas.openxmlformats.org/drawingml/2006/main'"
    drawing = f"<d {names}><a:p><a:r><a:t>Harbour</a:t></a:r></a:p></d>".encode()
    part = Part(PackURI("/ppt/diagrams/data1.xml"), "application/xml", slide.part.package, drawing)
    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/diagramData"
    slide.part.relate_to(part, kind)
    stream = io.BytesIO()
    file.save(stream)
    ((place, text),) = placed(read_bytes(stream.getvalue(), "a.pptx"))
    assert place == "slide 1"
    for line in ("Fleet", "Boats", "May | June", "3 | 4.5", "Oars", "6", "Harbour"):
        assert text.split("\n").count(line) == 1


def test_form_fields_and_comments_of_a_pdf_are_read():
    import io

    from pypdf import PdfReader, PdfWriter
    from pypdf.generic import ArrayObject, DictionaryObject, NameObject, TextStringObject

    def note(kind, **values):
        entries = {NameObject(f"/{name}"): value for name, value in values.items()}
        return DictionaryObject({NameObject("/Subtype"): NameObject(f"/{kind}"), **entries})

    text = TextStringObject
    parent = note("Widget", T=text("Harbour"), V=text("Sula"))
    notes = [
        note("Widget", T=text("Name"), V=text("Mira")),
        note("Widget", Parent=parent),
        note("Widget", T=text("Sold"), V=NameObject("/Off")),
        note("Widget", T=text("Paid"), V=NameObject("/Yes")),
        note("Text", Contents=text("Check this.")),
        note("Link", Contents=text("not text")),
    ]
    writer = PdfWriter(PdfReader(io.BytesIO(made_pdf(["One boat."]))))
    writer.pages[0][NameObject("/Annots")] = ArrayObject(notes)
    stream = io.BytesIO()
    writer.write(stream)
    assert read_bytes(stream.getvalue(), "a.pdf").text.strip().split("\n") == [
        "One boat.",
        "Name: Mira",
        "Harbour: Sula",
        "Paid: Yes",
        "Check this.",
    ]


def test_a_row_of_a_sheet_is_a_place():
    sheets = {"Budget": [["boat", "euros"], [None, None], ["Tern", 7]], "Notes": [["Paid."]]}
    document = read_bytes(made_xlsx(sheets), "money.xlsx")
    assert placed(document) == [
        ("sheet Budget, row 1", "boat | euros"),
        ("sheet Budget, row 3", "Tern | 7"),
        ("sheet Notes, row 1", "Paid."),
    ]


def test_a_chapter_of_a_book_is_a_place_and_files_without_text_are_not_counted():
    pages = ["<body><img src='cover.png'/></body>", "<h1>The storm</h1><p>It blew.</p>", "<p>Calm.</p>"]
    document = read_bytes(made_epub(pages), "book.epub")
    assert placed(document) == [("chapter 1", "The storm\n\nIt blew."), ("chapter 2", "Calm.")]


def test_rich_text_becomes_its_text():
    document = read_bytes(rb"{\rtf1\ansi\ansicpg1252 Caf\'e9 \b bold\b0\par Second line}", "a.rtf")
    assert document.text == "Café bold\nSecond line"
    assert document.place_at(document.text.index("Second")) == "line 2"


def test_notes_and_headers_of_rich_text_are_read():
    data = (
        rb"{\rtf1\headery720{\header Report\par}One boat.{\super 1}{\*\footnote It is blue.} Two \\footnote.}"
    )
    text = read_bytes(data, "a.rtf").text
    assert [line.strip() for line in text.split("\n") if line.strip()] == [
        "Report",
        "One boat.1",
        r"It is blue. Two \footnote.",
    ]


PAGE = """<!DOCTYPE html><html><head><title>Boats</title><style>p {}</style>
<script>var a = "<p>no</p>";</script></head><body><p>Intro <b>in</b>
bold.</p><h2>The  <i>key</i></h2><ul><li>Blue</li><li>Red &amp; white</li></ul><pre>a
  b</pre></body></html>"""


def test_blocks_of_a_page_are_lines_and_its_headings_are_places():
    document = read_bytes(PAGE.encode(), "page.html")
    assert document.text.split("\n\n")[:3] == ["Boats", "Intro in bold.", "The key"]
    assert "Blue\nRed & white" in document.text
    assert "a\n  b" in document.text
    assert "no" not in document.text
    assert document.place_at(document.text.index("Intro")) == "line 3"
    assert document.place_at(document.text.index("Red")) == "section The key"


def test_a_long_heading_is_cut():
    document = read_bytes(f"<h1>{'boats ' * 99}</h1><p>One.".encode(), "a.html")
    assert document.places == ((0, "section " + "boats " * 12 + "boats..."),)


def test_a_page_is_in_the_encoding_that_it_states():
    page = '<meta charset="iso-8859-2"><p>Łódź'.encode("iso-8859-2")
    assert read_bytes(page, "p.htm").text.strip() == "Łódź"


@pytest.mark.parametrize("stated", ["utf-16", "UTF-8", "no-such", "hex"])
def test_a_page_that_states_another_encoding_is_read_by_its_bytes(stated):
    page = f'\ufeff<meta charset="{stated}"><p>Łódź'.encode()
    assert read_bytes(page, "p.htm").text.strip() == "Łódź"


SRT = "1\n00:00:01,000 --> 00:00:02,000\n<i>Hello.</i>\n\n2\n00:12:05,500 --> 00:12:07,000\nTwo\nlines\n"
VTT = "WEBVTT\n\nNOTE no\n\n00:01.000 --> 00:02.000 align:start\n<v Mira>Hello.\n\n"
VTT += "id\n01:02:03.000 --> 01:02:04.000\nBye.\n"


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        (SRT, "a.srt", [("00:00:01", "Hello."), ("00:12:05", "Two\nlines")]),
        (VTT, "a.vtt", [("00:00:01", "Mira: Hello."), ("01:02:03", "Bye.")]),
    ],
    ids=["srt", "vtt"],
)
def test_a_cue_of_subtitles_is_known_by_its_time(text, name, expected):
    assert placed(read_bytes(text.encode(), name)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "1\n00:00:01,000 --> 00:00:02,000\nOne\n\ntwo\n\n2\n0:0:5.5 --> 0:0:6.25\nThree",
            ["One\ntwo", "Three"],
        ),
        ("WEBVTT\nKind: a\n\n00:01.000 --> 00:02.000\nOne\n00:02.000 --> 00:03.000\ntwo", ["One", "two"]),
        (
            "WEBVTT\n\n00:01.000 --> 00:02.000\nOne\n\nNOTE not\nthis\n\n00:05.000 --> 00:06.000\nNOTE it",
            ["One", "NOTE it"],
        ),
    ],
    ids=["blank line in a cue", "no blank line between cues", "note"],
)
def test_no_text_of_a_cue_is_lost(text, expected):
    document = read_bytes(text.encode(), "a.vtt" if text.startswith("WEBVTT") else "a.srt")
    assert [text for _, text in placed(document)] == expected


def test_an_old_notebook_and_an_error_are_read():
    cells = [
        {
            "cell_type": "code",
            "input": "1 / 0",
            "outputs": [{"ename": "ZeroDivisionError", "evalue": "by zero"}],
        }
    ]
    data = json.dumps({"nbformat": 3, "worksheets": [{"cells": cells}]}).encode()
    assert placed(read_bytes(data, "a.ipynb")) == [("cell 1", "1 / 0\nZeroDivisionError: by zero")]


def test_characters_that_are_no_text_become_question_marks():
    assert join_parts([("page 1", "e\0ective \ud800")])[0] == "e?ective ?"


def test_a_message_has_its_headers_text_and_the_names_of_attachments():
    data = made_email("The key", "It is under the stone.\n", "<p>not this</p>", {"map.png": b"\x89PNG\0"})
    assert read_bytes(data, "a.eml").text == (
        "From: mira@boats.org\nTo: jon@boats.org\nSubject: The key\n\nIt is under the stone.\n\n"
        "Attachments: map.png"
    )


def test_attachments_of_a_message_are_documents_and_others_are_left_out():
    files = {
        "report.pdf": made_pdf(["One boat."]),
        "report.PDF": b"\x89PNG\0",
        "../notes": "Два.".encode("koi8-r"),
        "fwd.eml": made_email("Inner", "Three boats.", attachments={"a.csv": b"name\nTern\n"}),
        "data.bin": b"a\0b",
    }
    left_out = []
    documents = read_documents(made_email("Outer", "Hello.", attachments=files), "mail.eml", left_out)
    assert [(item.name, item.text.strip().split("\n")[-1]) for item in documents] == [
        ("mail.eml", "Attachments: report.pdf, report.PDF, notes.txt, fwd.eml, data.bin"),
        ("mail.eml/report.pdf", "One boat."),
        ("mail.eml/notes.txt", "Два."),
        ("mail.eml/fwd.eml", "Attachments: a.csv"),
        ("mail.eml/fwd.eml/a.csv", "Tern"),
    ]
    assert documents[1].place_at(0) == "page 1"
    assert left_out == [LeftOut("mail.eml/report.PDF", "binary"), LeftOut("mail.eml/data.bin", "binary")]


def test_messages_within_messages_end_somewhere():
    data = made_email("0", "Text 0.")
    for number in range(1, 9):
        data = made_email(str(number), f"Text {number}.", attachments={"in.eml": data})
    left_out = []
    assert len(read_documents(data, "a.eml", left_out)) == 4
    assert [item.reason for item in left_out] == ["is a message within 3 others; save it as a file"]


def test_attachments_of_a_mailbox_name_their_message():
    message = made_email("A", "Text.", attachments={"a.txt": b"One boat.", "A.txt": b"x"})
    data = b"".join(b"From x Thu Jan 1 00:00:00 2026\n" + message + b"\n\n" for _ in range(2))
    names = [item.name for item in read_documents(data, "old.mbox", [])]
    assert names[:3] == ["old.mbox", "old.mbox/message 1/a.txt", "old.mbox/message 1/A.txt"]


def test_a_message_in_html_alone_becomes_text():
    assert read_bytes(made_email("S", None, "<p>It is <b>blue</b>.</p>"), "a.eml").text.endswith(
        "It is blue."
    )


def test_a_message_of_a_mailbox_is_a_place():
    data = b"".join(
        b"From x Thu Jan 1 00:00:00 2026\n" + made_email(name, f"Text {name}.") + b"\n\n" for name in "ab"
    )
    document = read_bytes(data, "old.mbox")
    assert [place for place, _ in placed(document)] == ["message 1", "message 2"]
    assert document.place_at(document.text.index("Text b.")) == "message 2"


def test_a_cell_of_a_notebook_is_a_place_with_what_it_printed():
    data = made_notebook(
        [
            {"cell_type": "markdown", "source": ["# Boats\n", "Text."]},
            {
                "cell_type": "code",
                "source": "6 * 7",
                "outputs": [
                    {"output_type": "stream", "text": ["printed\r\n"]},
                    {"output_type": "execute_result", "data": {"text/plain": "42", "image/png": "AAAA"}},
                ],
            },
        ]
    )
    assert placed(read_bytes(data, "a.ipynb")) == [
        ("cell 1", "# Boats\nText."),
        ("cell 2", "6 * 7\nprinted\n42"),
    ]


def test_a_row_of_a_table_is_a_place_and_the_text_stays_as_it_is():
    text = 'name,note\nTern,"two\nlines"\nGull,one\n'
    document = read_bytes(text.encode(), "a.csv")
    assert document.text == text
    assert document.place_at(text.index("Gull")) == "row 3"


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.md", "a.txt", "a.py", "a.unknown", "README"])
def test_other_texts_stay_as_they_are_and_are_known_by_their_lines(name):
    text = json.dumps({"boat": "Tern"}) + "\n# two\n"
    document = read_bytes(text.encode(), name)
    assert (document.text, document.places) == (text, ())
    assert document.place_at(text.index("#")) == "line 2"


@pytest.mark.parametrize(
    ("data", "name", "place"),
    [
        (made_pdf(["One boat."]), "a.txt", "page 1"),
        (made_xlsx({"S": [["One boat."]]}), "a.csv", "sheet S, row 1"),
        (made_epub(["One boat."]), "a.zip", "chapter 1"),
        (rb"{\rtf1 One boat.}", "a.doc", "line 1"),
        (b"<html><h1>Boats</h1><p>One boat.", "a.xls", "section Boats"),
        (b"<!-- saved --><!DOCTYPE html>\n<h1>Boats</h1><p>One boat.", "page", "section Boats"),
        (b"\xef\xbb\xbf<HTML><h1>Boats</h1><p>One boat.", "page.txt", "section Boats"),
        (b"<?xml version='1.0'?><html><h1>Boats</h1>One boat.</html>", "-", "section Boats"),
        (b"<html><h1>Boats</h1><p>One boat.", "a.py", "line 1"),
        (b"WEBVTT\n\n00:01.000 --> 00:02.000\nOne boat.\n", "cues", "00:00:01"),
        (made_pdf(["One boat."]), "report", "page 1"),
        (made_pdf(["One boat."]), "standard input", "page 1"),
        (b"\r\n" + made_pdf(["One boat."]), "a.txt", "page 1"),
        (b"HTTP/1.1 200 OK\r\n" + made_pdf(["One boat."]), "a.pdf", "page 1"),
        (b'HEAD = b"%PDF-"\n# One boat.', "a.py", "line 2"),
    ],
)
def test_the_first_bytes_count_more_than_the_suffix(data, name, place):
    document = read_bytes(data, name)
    assert "One boat." in document.text
    assert document.place_at(document.text.index("One")) == place


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        (b"One boat.", "fake.pdf", "fake.pdf: is text, not a PDF file; it is read as such"),
        (b"<html>One boat.", "a.docx", "a.docx: is a web page, not a Word file; it is read as such"),
    ],
)
def test_a_text_with_the_suffix_of_a_packed_format_is_said_to_be_one(data, name, words):
    with pytest.warns(E2LLMWarning) as warned:
        assert read_bytes(data, name).text.strip() == "One boat."
    assert [str(item.message) for item in warned] == [words]


def test_a_word_file_whose_main_part_has_a_number_is_known():
    data = made_zip({"[Content_Types].xml": "<no", "word/document2.xml": "<no"})
    with pytest.raises(E2LLMError, match="not a Word file"):
        read_bytes(data, "a.zip")


def test_pages_that_are_scans_among_others_are_told(monkeypatch):
    from pypdf import PageObject

    monkeypatch.setattr(PageObject, "images", ["a picture"])
    with pytest.warns(E2LLMWarning, match=r"a\.pdf: 2 of 3 pages have pictures and no text.*\(page 1, 3\)"):
        read_bytes(made_pdf(["", "One boat.", ""]), "a.pdf")


def test_a_reader_from_outside_knows_its_own_format(monkeypatch):
    from e2llm.documents import READERS

    monkeypatch.setitem(READERS, ".boat", lambda data, name: [("mast 1", f"{len(data)} bytes of {name}")])
    document = read_bytes(made_zip({"x": "y"})[:10], "a.boat")
    assert (document.text, document.places) == ("10 bytes of a.boat", ((0, "mast 1"),))


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (["", "", ""], "lines 1-3"),
        (["page 3", "page 4", "page 4"], "pages 3-4"),
        (["page 3", "page 3", "page 3"], "page 3"),
        (["sheet Budget, row 9", "sheet Budget, row 12", "sheet Budget, row 40"], "sheet Budget, rows 9-40"),
        (["sheet A, row 9", "sheet A, row 12", "sheet B, row 1"], "sheet A, row 9 to sheet B, row 1"),
        (["00:00:01", "00:12:05", "01:00:00"], "00:00:01-01:00:00"),
        (["section Part 1", "section Part 2", "section Part 3"], "section Part 1 to section Part 3"),
    ],
)
def test_a_span_over_several_places_is_a_range(places, expected):
    text, starts = join_parts(zip(places, ["  One\n", "Two\n", "Three\n\n"], strict=True))
    document = Document("a", text, places=starts)
    assert document.place_of(0, len(text)) == expected
    assert document.place_of(0, 4) == (places[0] or "line 1")
    assert document.place_of(0, 1) == (places[0] or "line 1")  # space alone
    assert document.place_of(3, 3) == (places[0] or "line 1")


# --- places -----------------------------------------------------------------------------------------------

PARTS = st.lists(
    st.tuples(st.sampled_from(["", "page 1", "page 2"]), st.text(st.characters(exclude_categories=[]))),
    max_size=9,
)


def check(document):
    starts = [start for start, _ in document.places]
    assert starts == sorted(set(starts))
    assert all(0 <= start < len(document.text) for start in starts)


@given(PARTS)
def test_places_are_sorted_and_inside_the_text(parts):
    text, places = join_parts(parts)
    document = Document("x", text, places=places)
    check(document)
    parts = [(place, part.replace("\r\n", "\n").replace("\r", "\n")) for place, part in parts]
    assert len(text) == sum(len(part) for _, part in parts)
    offset = 0
    for place, part in parts:
        if part:
            assert place in (document.place_at(offset), "")
        offset += len(part)


@given(PARTS, st.integers(0, 60), st.integers(0, 60), st.text(max_size=5))
def test_an_edit_moves_the_places_with_their_text(parts, start, length, new):
    text, places = join_parts(parts)
    document = Document("x", text, places=places)
    start = min(start, len(text))
    end = min(start + length, len(text))
    edited = document.edited(start, end, new)
    check(edited)
    assert edited.text == text[:start] + new + text[end:]
    for offset in range(end, len(text)):
        if not (place := document.place_at(offset)).startswith("line"):
            assert edited.place_at(offset - end + start + len(new)) == place
