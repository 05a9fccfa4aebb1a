"""Content-based recommendation: items whose texts are like those of the history.

Shapes: U users, N items of the catalogue, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize
from sklearn.random_projection import GaussianRandomProjection

from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories
from llmrec.data.split import Split
from llmrec.errors import ConfigError, nearest
from llmrec.progress import say_once
from llmrec.recommenders.base import ScoringRecommender
from llmrec.recommenders.matrices import decay_problems, recency_matrix

__all__ = ["Content"]

Vectors = Literal["tfidf", "lm"]

COMPONENTS = 256  # principal axes of a language model's states that are kept, where there are as many; features of item vectors


class Content(ScoringRecommender):
    r"""Scores an item by the cosine of its text's vector and the profile of the history.

    The profile is the mean of the unit vectors of the history's items, weighted by :math:`\text{decay}^{\,\text{age}}`,
    where the newest event has age 0, the one before age 1, and so on (Lops et al. 2011, "Content-based Recommender
    Systems: State of the Art and Trends"). Nothing is learned from anybody's events, so cold items are no harder than
    others; whatever a system gains over this one comes from behaviour, not from titles.

    Parameters
    ----------
    catalog
        The items; given by the run.
    vectors
        tfidf: words, weighted by their rarity in the catalogue. lm: the mean of a pretrained language model's last
        hidden states over the text, whitened.
    attributes
        Attributes of the catalogue that are appended to each title, for example ``[genres]``; all of them if left out,
        ``[]`` for titles alone.
    model
        lm: a built-in name, a local directory, or the id of a repository on the Hugging Face hub. It is used as it is,
        never fine-tuned, on the GPU where there is one.
    decay
        Weight of an event relative to the next newer one, above 0 and at most 1. 1 ignores the order of the history.
    name
        The name under which its recommendations are stored.

    Attributes
    ----------
    vectors_
        The items' vectors, of length 1; of length 0 for a text without a word [N, D].
    """

    knows_cold_items = True

    # Defaults: the best validation NDCG@10 on ml-100k of no, some and all attributes x decay 0.6-1. Whitening was chosen
    # there too: it beat centring alone, and the projection that semantic identifiers use, by half and more.
    def __init__(
        self,
        *,
        catalog: Catalog | None = None,
        vectors: Vectors = "tfidf",
        attributes: Sequence[str] | None = None,
        model: str = "smollm2-135m",
        decay: float = 0.8,
        name: str = "content",
    ) -> None:
        problems = []
        if vectors not in get_args(Vectors):
            problems.append(f"vectors={vectors!r}; expected {' or '.join(get_args(Vectors))}")
        problems += decay_problems(decay)
        if catalog is not None:
            known = list(catalog.attributes)
            problems += [
                f"attributes with {a!r}{nearest(a, known)}; expected some of {', '.join(known) or 'none: there are none'}"
                for a in attributes or ()
                if a not in known
            ]
        if problems:
            raise ConfigError("Content got " + ", and ".join(problems) + ".")
        self.name = name
        self.catalog = catalog
        self.kind: Vectors = vectors
        self.attributes = attributes
        self.model = model
        self.pretrained = (model,) if vectors == "lm" else ()
        self.decay = decay
        self.vectors_: Any = np.empty((0, 0))  # dense or sparse

    def fit(self, split: Split) -> None:
        """Read the texts of all items; of the split only the size is looked at.

        Raises
        ------
        ConfigError
            There is no catalogue, or one of another size than the split's.
        """
        if self.catalog is None or len(self.catalog) != split.n_items:
            got = "no catalogue" if self.catalog is None else f"a catalogue of {len(self.catalog):,} items"
            raise ConfigError(
                f"{self.name} got {got} for a split of {split.n_items:,} items. Expected the catalogue that the split "
                "was made with: pass it as catalog."
            )
        told = self.catalog.attributes if self.attributes is None else self.attributes
        columns = [self.catalog.titles, *(self.catalog.attributes[a] for a in told)]
        texts = [", ".join(filter(None, parts)) for parts in zip(*columns, strict=True)]
        self.vectors_ = normalize(_tfidf(texts) if self.kind == "tfidf" else _lm(texts, self.model))

    def score(self, histories: Histories) -> NDArray[np.float64]:
        """Return the cosine of profile and item [U, N]; 0 where either has no words."""
        profile = recency_matrix(histories, self.vectors_.shape[0], self.decay) @ self.vectors_  # [U, D]
        scores = normalize(profile) @ self.vectors_.T
        return np.asarray(scores.toarray() if sparse.issparse(scores) else scores, dtype=np.float64)

    def item_vectors(self) -> NDArray[np.float32]:
        """Return the texts' vectors in at most 256 dense features, centred, of length 1 [N, D]; 0 for a text without a word.

        More words than that are projected at random, which keeps all cosines about as they are (Johnson & Lindenstrauss 1984).
        Principal axes would keep the common words and lose the rare ones, brands among them: as profiles they find
        .14 of the cold items of Amazon Beauty in the first 10, the projection .17, the words themselves .18.
        """
        vectors = self.vectors_
        if sparse.issparse(vectors):
            if vectors.shape[1] > COMPONENTS:
                vectors = GaussianRandomProjection(COMPONENTS, random_state=0).fit_transform(vectors)
            else:
                vectors = vectors.toarray()
        worded = np.linalg.norm(vectors, axis=1, keepdims=True) > 0
        centred = np.where(worded, vectors - vectors.mean(axis=0, where=worded), 0.0)
        return np.asarray(normalize(centred), dtype=np.float32)


def _tfidf(texts: list[str]) -> sparse.csr_array:
    """Return word weights [N, D]; a word of one letter or digit is a word too (``Alien 3``)."""
    vectorizer = TfidfVectorizer(token_pattern=r"\w+")
    return sparse.csr_array(vectorizer.fit_transform(texts))


def _lm(texts: list[str], model: str) -> NDArray[np.float64]:
    """Return a language model's view of the texts, whitened [N, D].

    Raw states share a few huge directions, in which all texts look alike. After whitening, each of the principal axes
    that are kept counts the same (Zhang et al. 2024, "Are ID Embeddings Necessary? Whitening Pre-trained Text Embeddings
    for Effective Sequential Recommendation").
    """
    import torch

    from llmrec.identifiers.vectors import title_vectors
    from llmrec.models import load_model, load_tokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    read = load_model(model, device=device, notify=say_once)
    states = title_vectors(read, load_tokenizer(model, say_once), texts).astype(np.float64)
    white, size, _ = np.linalg.svd(states - states.mean(axis=0), full_matrices=False)
    kept = (size > size[0] * 1e-6) & (np.arange(len(size)) < COMPONENTS)
    return np.asarray(white[:, kept], dtype=np.float64)
