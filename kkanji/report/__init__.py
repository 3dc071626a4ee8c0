"""The report of a run: what was trained, how it went, which characters are confused, as one HTML file.

`run` and `log` read a run's files; `curves`, `charts` and `sheet` draw; `page` fills `template.html`; `write` puts
everything in place. Nothing here trains, evaluates or reads shards: the caller passes a function that returns images.
"""

from kkanji.report.cards import ImagesOf
from kkanji.report.write import confusion_sheet, write_report

__all__ = ["ImagesOf", "confusion_sheet", "write_report"]
