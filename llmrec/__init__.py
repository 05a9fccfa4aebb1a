"""llmrec: recommenders from language models, with an honest yardstick."""

__version__ = "0.1.0"
