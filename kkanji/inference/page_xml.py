"""Predictions as XML of pages: TEI P5, and ALTO 4 of the Library of Congress (https://www.loc.gov/standards/alto/).

Both have each page with its size in pixels, and on it a place for each prediction: its box, or the whole page.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING

from kkanji import __version__
from kkanji.inference.boxes import in_pixels, page_size
from shards.errors import printable

if TYPE_CHECKING:
    from kkanji.inference.predict import Guess, Prediction

PageKey = tuple[Path, int | None]
"""A file, and its page of several."""
NOT_XML = {0xFFFE: "\\ufffe", 0xFFFF: "\\uffff"}
"""What no XML may have, of that which is printable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """How far a file of results is."""

    pages: int = 0
    """Pages that it has, the last one included."""
    last: PageKey | None = None
    """The page of the last prediction; None if there is none."""

    def followed_by(self, pages: Iterable[PageKey]) -> "Written":
        """With predictions on these pages after it."""
        new = [page for page, _ in groupby(chain([self.last], pages))][1:]
        return Written(pages=self.pages + len(new), last=new[-1] if new else self.last)


def file_name(prediction: "Prediction") -> str:
    """Its file; a name need not be text."""
    return str(prediction.file).encode(errors="backslashreplace").decode()


def page_key(prediction: "Prediction") -> PageKey:
    """Its page, which is the same for predictions that belong together."""
    return prediction.file, prediction.page


def _xml(text: str) -> str:
    """Text for an element or an attribute."""
    return escape(printable(text).translate(NOT_XML))


def _numbers(names: Sequence[str], values: Sequence[float]) -> str:
    """Attributes with a number each."""
    return "".join(f' {name}="{value:g}"' for name, value in zip(names, values, strict=True))


def _size(prediction: "Prediction") -> tuple[int, int] | None:
    return page_size(prediction.file, prediction.page or 1)


def _by_page(
    predictions: Sequence["Prediction"],
    before: Written,
    begun: Callable[["Prediction", int], str],
    entry: Callable[["Prediction"], str],
    ended: str,
) -> Iterator[str]:
    """Each entry, between the beginning of its page, which has a number from 1 on, and the end of the page before."""
    for prediction in predictions:
        now = before.followed_by([page_key(prediction)])
        if now.pages > before.pages:
            yield ended if before.pages else ""
            yield begun(prediction, now.pages)
        yield entry(prediction)
        before = now


# ----------------------------------------------------------------------------------------------------------------------
# TEI

TEI_TAIL = "</sourceDoc>\n</TEI>\n"
CORNERS = ("ulx", "uly", "lrx", "lry")


def tei_head() -> str:
    """What comes before the first page."""
    return f"""\
<?xml version="1.0" encoding="UTF-8"?>
<TEI xmlns="http://www.tei-c.org/ns/1.0">
<teiHeader><fileDesc>
<titleStmt><title>Characters read from page images</title></titleStmt>
<publicationStmt><p>Read by kkanji {__version__}, unchecked; @cert is the model's probability.</p></publicationStmt>
<sourceDesc><p>The images that each surface names.</p></sourceDesc>
</fileDesc></teiHeader>
<sourceDoc>
"""


def tei(predictions: Sequence["Prediction"], before: Written, last: bool) -> str:
    """Zones on surfaces (TEI P5, section 12.2.2): a surface for each page, a zone for each box, readings as choices."""
    parts = _by_page(predictions, before, _surface, _zone, "</surface>\n")
    return "".join(parts) + ("</surface>\n" if last else "")


def _surface(prediction: "Prediction", _: int) -> str:
    size, page = _size(prediction), prediction.page
    corners = _numbers(CORNERS, (0, 0, *size)) if size else ""
    number = f' n="{page}"' if page else ""
    return f'<surface{number}{corners}><graphic url="{_xml(file_name(prediction))}"/>\n'


def _zone(prediction: "Prediction") -> str:
    corners = ""
    if prediction.box is not None:
        box = in_pixels(prediction.box)
        corners = _numbers(CORNERS, (box.x, box.y, box.x + box.w, box.y + box.h))
        corners += f' n="{_xml(box.id)}"' if box.id else ""
    if prediction.error:
        return f'<zone{corners}><gap reason="unreadable"/><note>{_xml(prediction.error)}</note></zone>\n'
    readings = (
        f'<unclear cert="{each.probability:.4f}">{_xml(each.character)}</unclear>' for each in prediction.guesses
    )
    doubt = f"<note>{_xml(prediction.doubt)}</note>" if prediction.doubt else ""
    return f"<zone{corners}><choice>{''.join(readings)}</choice>{doubt}</zone>\n"


# ----------------------------------------------------------------------------------------------------------------------
# ALTO

ALTO_TAIL = "</Layout>\n</alto>\n"
PLACE = ("HPOS", "VPOS", "WIDTH", "HEIGHT")
_PAGE_END = "</TextBlock></PrintSpace></Page>\n"


def alto_head(only: Path | None) -> str:
    """What comes before the first page. only: the image of all pages; ALTO has no place for the names of several."""
    from kkanji.neighbours.unknown import REASONS  # takes seconds, which --help does not need

    name = str(only).encode(errors="backslashreplace").decode()
    image = f"<sourceImageInformation><fileName>{_xml(name)}</fileName></sourceImageInformation>\n" if only else ""
    tags = "".join(f'<OtherTag ID="{_tag(each)}" TYPE="unknown" LABEL="{_xml(each)}"/>\n' for each in REASONS)
    return f"""\
<?xml version="1.0" encoding="UTF-8"?>
<alto xmlns="http://www.loc.gov/standards/alto/ns-v4#" xmlns:xlink="http://www.w3.org/1999/xlink" SCHEMAVERSION="4.4">
<Description><MeasurementUnit>pixel</MeasurementUnit>
{image}<Processing ID="kkanji"><processingCategory>contentGeneration</processingCategory>
<processingSoftware><softwareName>kkanji</softwareName><softwareVersion>{__version__}</softwareVersion></processingSoftware>
</Processing></Description>
<Tags>
<OtherTag ID="unreadable" TYPE="error" LABEL="unreadable"/>
{tags}</Tags>
<Layout>
"""


def _tag(doubt: str) -> str:
    """The tag of a reason why something is none of the model's characters."""
    return "".join(letter if letter.isalpha() else "-" for letter in doubt)


def alto(predictions: Sequence["Prediction"], before: Written, last: bool) -> str:
    """A Page with a TextBlock for each page, which links to its image; in it a TextLine with a String for each box."""
    return "".join(_by_page(predictions, before, _page, _line, _PAGE_END)) + (_PAGE_END if last else "")


def _page(prediction: "Prediction", number: int) -> str:
    size = _size(prediction)
    sides, place = (_numbers(PLACE[2:], size), _numbers(PLACE, (0, 0, *size))) if size else ("", "")
    image = f'xlink:type="simple" xlink:href="{_xml(file_name(prediction))}"'
    return (
        f'<Page ID="page{number}" PHYSICAL_IMG_NR="{number}"{sides}><PrintSpace{place}>'
        f'<TextBlock ID="block{number}"{place} {image}>\n'
    )


def _line(prediction: "Prediction") -> str:
    """A line of its own: which characters make a line, nobody has said."""
    place = _place(prediction)
    return f"<TextLine{place}>{_string(prediction, place)}</TextLine>\n"


def _place(prediction: "Prediction") -> str:
    if prediction.box is not None:
        box = in_pixels(prediction.box)
        return _numbers(PLACE, (box.x, box.y, box.w, box.h))
    size = _size(prediction)
    return _numbers(PLACE, (0, 0, *size)) if size else ""


def _string(prediction: "Prediction", place: str) -> str:
    if prediction.error:
        return f'<String CONTENT="" TAGREFS="unreadable"{place}/>'
    best, *others = prediction.guesses
    tag = f' TAGREFS="{_tag(prediction.doubt)}"' if prediction.doubt else ""
    forms = (each for each in best.forms if each != best.character)
    alternatives = "".join(f'<ALTERNATIVE PURPOSE="form">{_xml(each)}</ALTERNATIVE>' for each in forms)
    variants = "".join(f'<Variant CONTENT="{_letter(each)}" VC="{each.probability:.4f}"/>' for each in others)
    confidence = f"{best.probability:.4f}"
    glyph = f'<Glyph CONTENT="{_letter(best)}" GC="{confidence}"{place}>{variants}</Glyph>'
    return f'<String CONTENT="{_xml(best.character)}" WC="{confidence}"{tag}{place}>{alternatives}{glyph}</String>'


def _letter(guess: "Guess") -> str:
    """A reading as one character, which is all that a Glyph may have: a class with a name has a code point too."""
    return _xml(chr(int(guess.label.removeprefix("U+"), 16)))
