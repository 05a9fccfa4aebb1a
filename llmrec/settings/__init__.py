"""The sections of a config: every setting, its unit and its consequence.

The same dotted name is the YAML key, the ``--set`` override and the Python keyword.
"""

from llmrec.settings.data import Cleaning, Columns, Data, Privacy, SourceSettings
from llmrec.settings.evaluation import EvaluationSettings, Tuned, Tuning
from llmrec.settings.language import (
    TIME_STYLES,
    Decoding,
    Distillation,
    Finetune,
    Identifiers,
    LanguageModel,
    NewTokens,
    Prompt,
    Selection,
    Validation,
)
from llmrec.settings.section import Section
from llmrec.settings.split import SplitSettings

__all__ = [
    "TIME_STYLES",
    "Cleaning",
    "Columns",
    "Data",
    "Decoding",
    "Distillation",
    "EvaluationSettings",
    "Finetune",
    "Identifiers",
    "LanguageModel",
    "NewTokens",
    "Privacy",
    "Prompt",
    "Section",
    "Selection",
    "SourceSettings",
    "SplitSettings",
    "Tuned",
    "Tuning",
    "Validation",
]
