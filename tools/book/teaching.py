"""Put the minutes of sections, as the notebooks say them, into the tables of ``teaching.md``.

python tools/book/teaching.py
"""

from __future__ import annotations

import re
from pathlib import Path

from attnlab.paths import write_whole

HERE = Path(__file__).parent
PAGE, NOTEBOOKS = HERE / "teaching.md", HERE.parents[1] / "notebooks"
ROW = re.compile(r"^(\|.*\]\(\.\./\.\./notebooks/(\w+)\.ipynb\) \| )([^|]+)( \| )\d+( \|)$", re.M)
HEADING = re.compile(r"^# ## (\d+) .*\((\d+) min\)", re.M)
TOTAL = re.compile(r"\*\*Minutes:\*\* (\d+)")


def minutes(stem: str, sections: str) -> int:
    """Return the minutes of some sections of a notebook, given as ``all`` or ``1 to 3, 5``."""
    text = (NOTEBOOKS / "src" / f"{stem}.py").read_text(encoding="utf-8")
    if sections == "all":
        return int(TOTAL.findall(text)[0])
    each = {int(number): int(n) for number, n in HEADING.findall(text)}
    ends = [list(map(int, part.split(" to "))) for part in sections.split(", ")]
    return sum(each[n] for first, *last in ends for n in range(first, (last or [first])[0] + 1))


def filled(page: str) -> str:
    """Return the page with the minutes of today's notebooks."""
    return ROW.sub(lambda m: f"{m[1]}{m[3]}{m[4]}{minutes(m[2], m[3])}{m[5]}", page)


if __name__ == "__main__":
    write_whole(PAGE, filled(PAGE.read_text(encoding="utf-8")))
