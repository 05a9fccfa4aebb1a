"""Tables from anywhere: files, databases, endpoints; each a source that yields batches of rows."""

from llmrec.data.sources.base import Batch, BrokenRow, Source
from llmrec.data.sources.opening import open_source

__all__ = ["Batch", "BrokenRow", "Source", "open_source"]
