"""The files below a folder of data, through links as well."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

# folders of Synology, QNAP, macOS, Windows and Linux: thumbnails, what archives carry along, waste bins
HIDDEN = {
    "@eadir", "#recycle", "#snapshot", "@recycle", "__macosx", "$recycle.bin", "system volume information",
    "lost+found",
}  # fmt: skip


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or made by a system rather than by a person."""
    return name[0] == "." or name.lower() in HIDDEN


def files_below(folder: Path, onerror: Callable[[OSError], None] | None = None) -> Iterator[str]:
    """Yield the files below a folder, relative to it, with slashes, in every system's order.

    Hidden files and folders do not count, nor do the folders that a system makes (`@eaDir`, `__MACOSX`). Folders that
    are links are followed, but not back to one above them.

    Args:
        folder: the folder
        onerror: called with the error of each folder that cannot be read; None to pass over those
    """
    for parent, folders, names in os.walk(folder, onerror=onerror, followlinks=True):  # does not ask about every file
        here = Path(parent)
        folders[:] = sorted(name for name in folders if not is_hidden(name) and not _leads_back(here / name, folder))
        within = here.relative_to(folder).as_posix() + "/"
        within = "" if within == "./" else within
        yield from (within + name for name in sorted(names) if name[0] != ".")


def _leads_back(path: Path, top: Path) -> bool:
    """Return whether a folder below `top` is a link to one that it is in itself: a walk there would come here again."""
    if not os.path.islink(path):  # noqa: PTH114  which says no where one may not look
        return False
    place = os.path.realpath(path)
    within = path.parent.relative_to(top)
    above = [os.path.realpath(top / each) for each in (within, *within.parents)]  # itself behind links, perhaps
    return any(Path(each).is_relative_to(place) for each in above)
