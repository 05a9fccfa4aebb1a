"""A tiny model with histories to learn from, for the tests of fine-tuning."""

from __future__ import annotations

import numpy as np

from llmrec.data.histories import Histories, History
from llmrec.decoding.trie import CompiledTrie
from llmrec.finetune.examples import training_examples, training_windows
from llmrec.finetune.lora import add_lora
from llmrec.finetune.new_tokens import NewTokens, mean_of_items, title_rows
from llmrec.finetune.objective import NextItemLoss
from llmrec.identifiers.base import with_new_tokens
from llmrec.identifiers.schemes import Material, build_identifiers
from llmrec.models import load_model, load_tokenizer
from llmrec.new_rows import make_room
from llmrec.prompts.template import load_template
from llmrec.prompts.verbalize import Verbalizer
from llmrec.recommenders.llm import LLMRecommender
from llmrec.recommenders.llm_training import alternatives_of
from llmrec.settings import Finetune

DAY = 86_400


def some_histories(n_items: int, n: int = 6) -> Histories:
    # One item leads to the next, so that there is something to learn.
    return Histories.from_list(
        [
            History(str(u), ((3 * u + np.arange(4 + u)) % n_items).astype(np.int32), DAY * np.arange(4 + u))
            for u in range(n)
        ]
    )


class Case:
    """Everything that a training of one scheme needs."""

    def __init__(self, tiny_lm, catalog, settings: Finetune, template=None, max_events=20, **identifiers):
        from llmrec.settings import Identifiers

        self.settings, self.catalog = settings, catalog
        tokenizer = load_tokenizer(tiny_lm)
        self.histories = some_histories(len(catalog))
        vectors = np.random.default_rng(1).standard_normal((len(catalog), 8)).astype(np.float32)
        self.identifiers = build_identifiers(
            Material(
                catalog,
                tokenizer,
                Identifiers(**identifiers),
                self.histories,
                lambda: vectors,
                lambda: vectors,
            )
        )
        self.tokenizer = with_new_tokens(tokenizer, self.identifiers.new_tokens)
        self.verbalizer = Verbalizer(
            template or load_template("films"),
            self.tokenizer,
            catalog,
            self.identifiers.token_ids,
            max_events=max_events,
        )
        self.trie = CompiledTrie.from_sequences(self.identifiers.token_ids)
        self.alternatives = alternatives_of(self.trie) if settings.loss == "catalogue" else None
        self.tiny_lm, self.vectors, self.max_events = tiny_lm, vectors, max_events
        self.dtype = "float32"

    def base(self):
        model = load_model(self.tiny_lm, dtype=self.dtype)
        n = len(self.identifiers.new_tokens)
        return make_room(model, len(self.tokenizer)) if n else model

    def recommender(self, decoding, checkpoints=None):
        """The base model as a recommender; ``fit`` fine-tunes it."""
        return LLMRecommender(
            self.base(),
            self.verbalizer,
            self.trie,
            finetune=self.settings,
            decoding=decoding,
            checkpoints=checkpoints,
        )

    def objective(self, seed=3, soft_targets=None, candidates=None):
        n = len(self.identifiers.new_tokens)
        first = len(self.tokenizer) - n
        base = self.base()
        new = None
        if n:
            titles = self.tokenizer(list(self.catalog.titles), add_special_tokens=False)["input_ids"]
            rows = title_rows(base.get_input_embeddings().weight[:first], titles)
            ids = self.identifiers.token_ids
            start = self.settings.new_tokens.start
            vectors = mean_of_items(self.vectors, ids, first, n) if start == "collaborative" else None
            model = add_lora(base, self.settings, seed, range(first, first + n))
            new = NewTokens(
                model,
                mean_of_items(rows, ids, first, n),
                vectors,
                temperature=self.settings.new_tokens.temperature,
                dropout=self.settings.new_tokens.dropout,
                seed=seed,
            )
        else:
            model = add_lora(base, self.settings, seed)
        return NextItemLoss(
            model,
            self.alternatives,
            new,
            label_smoothing=self.settings.label_smoothing,
            candidates=candidates,
            soft_targets=soft_targets,
            teacher_weight=self.settings.distillation.weight,
        ).eval()

    def examples(self, epoch=0):
        rng = np.random.default_rng(epoch) if epoch else None
        windows = training_windows(self.histories, self.max_events, rng=rng)
        return training_examples(self.verbalizer, self.histories, windows, self.alternatives)
