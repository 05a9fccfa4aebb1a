"""The loss, against brute force over the catalogue and against prompts with one target."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from decoding_cases import brute_force
from finetune_cases import Case

from llmrec.errors import ConfigError
from llmrec.finetune.batches import collate
from llmrec.finetune.examples import one_target_windows, training_examples, training_windows
from llmrec.prompts.template import PromptTemplate, load_template
from llmrec.settings import Finetune, NewTokens

TEMPLATES = [load_template("films"), PromptTemplate("b", "Seen:\n", "[{time}: ]", "")]
SCHEMES = [
    {"scheme": "title"},
    {"scheme": "index"},
    {"scheme": "semantic", "levels": 2, "codes": 5},
    {"scheme": "token"},
]


def settings(loss="catalogue", start="title", **more):
    return Finetune(loss=loss, lora_rank=2, new_tokens=NewTokens(start=start, dropout=0.0), **more)


def noisy(objective):
    """Return the objective with adapters that do something: PEFT starts them at zero."""
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in objective.named_parameters():
            if parameter.requires_grad and "trainable_tokens" not in name:
                parameter.add_(0.02 * torch.randn_like(parameter))
    if objective.new_tokens is not None:
        objective.new_tokens.materialise()
    return objective


@pytest.mark.parametrize("template", TEMPLATES, ids=["films", "time before"])
@pytest.mark.parametrize("loss", ["catalogue", "vocab"])
@pytest.mark.parametrize("identifiers", SCHEMES, ids=lambda s: s["scheme"])
def test_loss_of_each_event_in_a_document_is_that_of_its_own_prompt(
    tiny_lm, catalog, identifiers, loss, template
):
    """The whole point of training on every event: same loss, one forward pass."""
    case = Case(tiny_lm, catalog, settings(loss), template, **identifiers)
    objective = noisy(case.objective())
    whole = training_windows(case.histories, case.max_events)
    single = one_target_windows(whole, case.histories, case.max_events)
    documents, prompts = (
        training_examples(case.verbalizer, case.histories, w, case.alternatives) for w in (whole, single)
    )
    with torch.no_grad():
        in_documents = sum(float(objective.loss(collate([e]))) for e in documents)
        alone = np.array([float(objective.loss(collate([e]))) for e in prompts])
        # Event by event: a document up to an event, less the document before it.
        longest = max(documents, key=lambda e: e.targets)
        user = documents.index(longest)
        owner = case.histories.indptr.searchsorted(single.start, side="right") - 1
        own = alone[owner == user]
        order = np.argsort(single.first_target[owner == user])
        upto = [
            float(objective.loss(collate([_first(longest, case, n)]))) for n in range(longest.targets + 1)
        ]
    assert in_documents == pytest.approx(alone.sum(), rel=1e-5)
    assert np.diff(upto) == pytest.approx(own[order], abs=1e-4)


def _first(example, case, n):
    """Return the example with its first ``n`` targets only; the text stays the same."""
    from dataclasses import replace

    history = case.histories[case.histories.lengths.argmax()]
    per_target = [
        int(case.alternatives.has_choice[case.alternatives.prefixes[i]].sum())
        if case.alternatives is not None
        else len(case.identifiers.token_ids[i])
        for i in history.items[1:]
    ]
    kept = sum(per_target[:n])
    return replace(
        example,
        positions=example.positions[:kept],
        prefixes=example.prefixes[:kept],
        events=example.events[:kept],
        targets=n,
    )


# Over the vocabulary the whole head would have to be computed from the vectors: refused below.
@pytest.mark.parametrize(
    ("loss", "start"), [("catalogue", "title"), ("catalogue", "collaborative"), ("vocab", "title")]
)
@pytest.mark.parametrize("identifiers", SCHEMES, ids=lambda s: s["scheme"])
def test_loss_is_the_log_probability_that_decoding_gives_the_item(tiny_lm, catalog, identifiers, loss, start):
    """Training and decoding agree on what an item's probability is, also through PEFT's own forward pass."""
    case = Case(tiny_lm, catalog, settings(loss, start), **identifiers)
    objective = noisy(case.objective())
    history = case.histories[3]
    cut = training_windows(case.histories, case.max_events)
    single = one_target_windows(cut, case.histories, case.max_events)
    last = int(np.flatnonzero(single.stop == case.histories.indptr[4])[0])
    examples = training_examples(case.verbalizer, case.histories, single, case.alternatives)
    with torch.no_grad():
        loss_of_item = float(objective.loss(collate([examples[last]])))
    past = case.histories[3:4]
    prompt = case.verbalizer.prompt(type(history)("x", past.items[:-1], past.timestamps[:-1]))
    scores = brute_force(objective.model, case.identifiers.token_ids, prompt, normalisation=loss)
    assert loss_of_item == pytest.approx(-scores[int(history.items[-1])], abs=1e-4)


def test_tokens_made_from_vectors_need_the_loss_over_the_catalogue(tiny_lm, catalog):
    case = Case(tiny_lm, catalog, settings("vocab", "collaborative"), scheme="token")
    with pytest.raises(ConfigError, match="Expected loss: catalogue"):
        case.objective()


def test_padding_and_company_change_no_loss(tiny_lm, catalog):
    case = Case(tiny_lm, catalog, settings(), scheme="title")
    objective = noisy(case.objective())
    examples = case.examples()
    with torch.no_grad():
        each = sum(float(objective.loss(collate([e]))) for e in examples)
        assert float(objective.loss(collate(examples))) == pytest.approx(each, rel=1e-5)


@pytest.mark.parametrize("scheme", ["title", "token"])
def test_smoothing_is_spread_over_the_allowed_tokens(tiny_lm, catalog, scheme):
    plain, smooth = (Case(tiny_lm, catalog, settings(label_smoothing=s), scheme=scheme) for s in (0.0, 0.3))
    batch = collate(plain.examples())
    with torch.no_grad():
        base = noisy(plain.objective())
        loss = float(base.loss(batch))
        # By hand: (1 - s) of the target's own loss and s of the mean over what is allowed.
        states = base._states(batch.token_ids).flatten(0, 1)[batch.positions]
        logits = torch.nn.functional.linear(states, *base._head())
        mean = 0.0
        for row, prefix in enumerate(batch.prefixes.tolist()):
            a, b = plain.alternatives.indptr[prefix : prefix + 2]
            allowed = logits[row, torch.as_tensor(plain.alternatives.code[a:b].astype(np.int64))]
            mean -= float(allowed.log_softmax(0).mean())
        assert float(noisy(smooth.objective()).loss(batch)) == pytest.approx(
            0.7 * loss + 0.3 * mean, rel=1e-4
        )


def test_nothing_is_learned_where_nothing_can_be_chosen(tiny_lm, catalog):
    case = Case(tiny_lm, catalog, settings(), scheme="title")
    vocab = Case(tiny_lm, catalog, settings("vocab"), scheme="title")
    few, all_ = (sum(len(e.positions) for e in c.examples()) for c in (case, vocab))
    assert few < all_


def test_cosines_are_learned_and_the_saved_head_ranks_just_so(tiny_lm, catalog):
    """One-token identifiers: a plain head with PEFT's own forward gives the order of the cosines, and nearly their softmax."""
    new = NewTokens(start="collaborative", temperature=0.1, dropout=0.0)
    case = Case(tiny_lm, catalog, Finetune(lora_rank=2, new_tokens=new), scheme="token")
    objective = noisy(case.objective())
    tokens = objective.new_tokens
    examples = case.examples()
    objective.train()
    for example in examples:  # what |P h| is on average is learned on the way
        objective.loss(collate([example]))
    objective.eval()
    tokens.materialise()
    assert float(tokens.length) > 0
    for history in case.histories[:3]:
        prompt = case.verbalizer.prompt(history)
        with torch.no_grad():
            ids = torch.as_tensor(prompt)[None]
            user = tokens.to_score @ objective._states(ids)[0, -1]
            cosine = torch.nn.functional.cosine_similarity(tokens.vectors, user[None])
            logits = objective.model(ids).logits[0, -1, tokens.first :]
        expected = torch.log_softmax(cosine / 0.1, 0)
        assert torch.allclose(logits * float(tokens.length / user.norm()), cosine / 0.1, atol=1e-4)
        assert torch.allclose(torch.log_softmax(logits, 0), expected, atol=0.5)
        # And it is what the loss is.
        pair = type(history)(
            "x", np.append(history.items, 2), np.append(history.timestamps, history.timestamps[-1])
        )
        whole = type(case.histories).from_list([pair])
        windows = one_target_windows(training_windows(whole, case.max_events), whole, case.max_events)
        last = training_examples(case.verbalizer, whole, windows, case.alternatives)[-1]
        with torch.no_grad():
            assert float(objective.loss(collate([last]))) == pytest.approx(-float(expected[2]), abs=1e-4)


def test_cosines_are_for_single_tokens(tiny_lm, catalog):
    new = NewTokens(start="collaborative", temperature=0.1)
    case = Case(tiny_lm, catalog, Finetune(lora_rank=2, new_tokens=new), scheme="semantic", levels=2, codes=5)
    with pytest.raises(ConfigError, match="temperature is set, and identifiers are longer"):
        case.objective()
