"""The report of a run: what was trained, how it went, which characters are misread, as one HTML file.

`_run` and `_log` read a run's files, `_curves`, `_charts` and `_sheet` draw, `_page` fills `template.html`, `_write`
puts it all in place. Nothing here trains, evaluates or reads shards: images come from a function that the caller gives.
"""

from kkanji.report._cards import ImagesOf
from kkanji.report._write import misread_sheet, write_report

__all__ = ["ImagesOf", "misread_sheet", "write_report"]
