"""The report of a run: what was trained, how it went, which characters are misread, as one HTML file.

`_run` and `_log` read a run's files, `_tallies` counts, `_curves`, `_charts` and `_sheet` draw, `_page` fills
`template.html`, `_write` puts it all in place. Nothing here trains, evaluates or reads shards: the images come from a
function that the caller gives.
"""

from kkanji.report._write import write_report

__all__ = ["write_report"]
