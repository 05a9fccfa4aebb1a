"""Small logs, and all ways to split them."""

from __future__ import annotations

import polars as pl

from llmrec.data.catalog import Catalog
from llmrec.data.interactions import Interactions
from llmrec.data.split import hold_out_users, leave_one_out, temporal

STRATEGIES = {
    "leave-one-out": lambda log, catalog, **kw: leave_one_out(
        log, catalog, **{"dataset": "x", "short_histories": "train", **kw}
    ),
    "temporal": lambda log, catalog, **kw: temporal(
        log, catalog, **{"dataset": "x", "valid_quantile": 0.5, "test_quantile": 0.75, **kw}
    ),
    "users": lambda log, catalog, **kw: hold_out_users(
        log, catalog, **{"dataset": "x", "valid_users": 0.3, "test_users": 0.3, **kw}
    ),
}


def log_of(rows):
    return Interactions.from_frame(
        pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    )


def catalog_of(n):
    names = tuple(f"i{k}" for k in range(n))
    return Catalog(names, names)
