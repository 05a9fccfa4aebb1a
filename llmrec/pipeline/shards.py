"""Lists made in shards: a killed job goes on with those that are not there yet, and ends with the same result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories
from llmrec.data.recommendations import Recommendations, read_meta, write_recommendations
from llmrec.errors import ArtefactError
from llmrec.pipeline.artefacts import check_key

__all__ = ["Shard", "shards_of"]


@dataclass(frozen=True, eq=False)
class Shard:
    """Some users of a job, and where their lists belong."""

    path: Path
    key: dict[str, Any]  # what decides the lists
    histories: Histories
    unknown: dict[str, str]  # users with items that the catalogue lacks, and the first such item

    @property
    def _users(self) -> list[Any]:
        ids = self.histories.user_ids
        return [ids[0], ids[-1], len(ids)]

    def noted(self) -> dict[str, Any] | None:
        """Return what was noted when the lists were made, or ``None`` where they are not there.

        Raises
        ------
        ArtefactError
            Another job's lists are there.
        """
        if not self.path.is_file():
            return None
        meta = read_meta(self.path)
        if meta is None:
            raise ArtefactError(
                f"{str(self.path)!r} was made elsewhere. Expected a folder of this job alone."
            )
        check_key(
            self.path,
            {**meta["key"], "users": meta["users"]},
            {**self.key, "users": self._users},
            advice="Give these lists a folder of their own with --output",
        )
        return meta

    def write(self, recs: Recommendations, catalog: Catalog, noted: dict[str, Any]) -> dict[str, Any]:
        """Put the lists there, whole or not at all, and return what was noted."""
        meta = {**noted, "key": self.key, "users": self._users}
        write_recommendations(self.path, recs, catalog, meta)
        return meta


def shards_of(
    folder: Path, key: dict[str, Any], histories: Histories, unknown: dict[str, str], size: int
) -> list[Shard]:
    """Return a job's shards of ``size`` users each: ``part-00000.parquet`` and so on.

    Raises
    ------
    ArtefactError
        The folder has parts of another job behind these, which would be read as part of this one.
    """
    shards = []
    for part, start in enumerate(range(0, len(histories), size)):
        users = histories[start : start + size]
        lost = {user: unknown[user] for user in users.user_ids if user in unknown}
        shards.append(Shard(folder / f"part-{part:05}.parquet", key, users, lost))
    if others := sorted(set(folder.glob("part-*.parquet")) - {shard.path for shard in shards}):
        raise ArtefactError(
            f"{str(folder)!r} has {others[0].name}, and this job of {len(histories):,} users has parts up to {len(shards) - 1}. "
            "Expected a folder of this job alone: give these lists one of their own with --output, or remove what is in it."
        )
    return shards
