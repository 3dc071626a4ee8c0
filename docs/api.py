"""Write the pages of the API, of every public name of `kkanji` and `shards`: `python docs/api.py [FOLDER]`."""

import sys
from pathlib import Path

import pdoc

import kkanji


def write_pages(output: Path) -> None:
    """Write `kkanji.html`, `shards.html` and their index. output: made if it is not there."""
    for name in kkanji.__all__:
        getattr(kkanji, name)  # pdoc lists what is imported by then
    pdoc.render.configure(docformat="google")
    pdoc.pdoc("kkanji", "shards", "!kkanji.", "!shards.", output_directory=output)


if __name__ == "__main__":
    write_pages(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/api"))
