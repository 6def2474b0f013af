"""Tables that are generated into Markdown files, between two markers."""

import re
from pathlib import Path

from ..runs import replacing


def write_table(path: Path, name: str, table: str) -> None:
    """Put a table between the markers `<!-- name: … -->` and `<!-- end of name -->` of a file.

    Raises ValueError if they are missing.
    """
    text = path.read_text(encoding="utf-8")
    markers = re.compile(rf"(<!-- {re.escape(name)}: [^\n]*-->\n).*?(\n<!-- end of {re.escape(name)} -->)", re.DOTALL)
    if not markers.search(text):
        raise ValueError(f"{path} lacks the markers <!-- {name}: … --> and <!-- end of {name} -->")
    with replacing(path) as temporary:
        temporary.write_text(markers.sub(lambda found: found[1] + table + found[2], text), encoding="utf-8")
    path.chmod(0o644)
