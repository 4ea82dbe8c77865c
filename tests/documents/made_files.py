"""Small files of every format, made by the libraries' own writers."""

import email
import email.policy
import io
import json
import zipfile
from email.message import EmailMessage


def made_pdf(pages, password=None):
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = PdfWriter()
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    for text in pages:
        page = writer.add_blank_page(300, 300)
        if not text:
            continue
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode())
        page[NameObject("/Contents")] = writer._add_object(stream)
    if password is not None:
        writer.encrypt(password, algorithm="AES-256")
    return _saved(writer.write)


def made_docx(add):
    import docx

    file = docx.Document()
    add(file)
    return _saved(file.save)


def made_pptx(slides):
    from pptx import Presentation

    file = Presentation()
    for title, note in slides:
        slide = file.slides.add_slide(file.slide_layouts[5])
        slide.shapes.title.text = title
        if note:
            slide.notes_slide.notes_text_frame.text = note
    return _saved(file.save)


def made_xlsx(sheets):
    import openpyxl

    file = openpyxl.Workbook()
    file.remove(file.active)
    for title, rows in sheets.items():
        sheet = file.create_sheet(title)
        for row in rows:
            sheet.append(row)
    return _saved(file.save)


def made_zip(members):
    return _saved(lambda stream: _write_zip(stream, members))


def _write_zip(stream, members):
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def made_epub(chapters, more=None):
    files = {f"OEBPS/c{number}.xhtml": text for number, text in enumerate(chapters)}
    items = "".join(f'<item id="i{number}" href="c{number}.xhtml"/>' for number in range(len(chapters)))
    spine = "".join(f'<itemref idref="i{number}"/>' for number in range(len(chapters)))
    package = f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}</manifest><spine>{spine}</spine></package>'
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OEBPS/content.opf"/></rootfiles></container>'
    )
    own = {"mimetype": "application/epub+zip", "META-INF/container.xml": container}
    return made_zip({**own, "OEBPS/content.opf": package, **files, **(more or {})})


def made_notebook(cells):
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}).encode()


def made_email(subject, text, html=None, attachments=None):
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "mira@boats.org", "jon@boats.org", subject
    if text is not None:
        message.set_content(text)
    if html is not None:
        message.set_content(html, subtype="html") if text is None else message.add_alternative(
            html, subtype="html"
        )
    for name, data in (attachments or {}).items():
        if name.endswith(".eml"):
            inner = email.message_from_bytes(data, policy=email.policy.default)
            message.add_attachment(inner, filename=name)
        elif "." in name[2:]:
            message.add_attachment(data, maintype="application", subtype="octet-stream", filename=name)
        else:
            message.add_attachment(data.decode("koi8-r"), charset="koi8-r", filename=name)
    return message.as_bytes()


def _saved(write):
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()
