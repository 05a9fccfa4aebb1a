"""Lists made in shards: a killed job goes on behind the last whole one, and ends with the same result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories
from llmrec.data.recommendations import Recommendations, read_meta, write_recommendations
from llmrec.errors import ArtefactError
from llmrec.pipeline.artefacts import check_key

__all__ = ["in_shards"]

Make = Callable[[Histories], tuple[Recommendations, dict[str, Any]]]
"""Lists for some users, and what to note about them."""


def in_shards(
    folder: Path, key: dict[str, Any], catalog: Catalog, histories: Histories, size: int, make: Make
) -> Iterator[dict[str, Any]]:
    """Make the lists of ``size`` users at a time, or find them; yield what was noted of each when it is on the disk.

    Parameters
    ----------
    folder
        Gets ``part-00000.parquet`` and so on, each whole or absent.
    key
        What decides the lists.

    Raises
    ------
    ArtefactError
        The folder holds lists of another job.
    """
    n = len(histories)
    for part, start in enumerate(range(0, n, size)):
        rows = slice(start, min(start + size, n))
        path = folder / f"part-{part:05}.parquet"
        users = [histories.user_ids[rows.start], histories.user_ids[rows.stop - 1], rows.stop - rows.start]
        if path.is_file():
            meta = read_meta(path)
            if meta is None:
                raise ArtefactError(f"{str(path)!r} was made elsewhere. Expected a folder of this job alone.")
            check_key(path, {**meta["key"], "users": meta["users"]}, {**key, "users": users})
        else:
            found, noted = make(histories[rows])
            meta = {**noted, "key": key, "users": users}
            write_recommendations(path, found, catalog, meta)
        yield meta
