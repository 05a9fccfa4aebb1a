"""The model card that goes with an adapter or a merged model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

import llmrec
from llmrec.config import RunConfig
from llmrec.config_file import dump_config
from llmrec.data.protocol import Protocol
from llmrec.pipeline.parts import LanguageParts

__all__ = ["model_card"]

_SCHEMES = {
    "title": "the item's title",
    "index": "a number",
    "semantic": "a path of cluster codes, each a new token",
    "token": "one new token per item",
}


def model_card(
    config: RunConfig,
    protocol: Protocol,
    parts: LanguageParts,
    trained: Mapping[str, Any],
    *,
    merged: bool = False,
    measured: Mapping[str, float] | None = None,
) -> str:
    """Return a card in the form of the Hugging Face hub: YAML front matter and Markdown.

    Parameters
    ----------
    trained
        What the fine-tune stage wrote beside the adapter.
    merged
        Whether the card is for a whole model rather than for an adapter.
    measured
        Metrics on the test targets, where they were measured.
    """
    model = config.model
    front: dict[str, Any] = {
        "base_model": model.name,
        "library_name": "transformers" if merged else "peft",
        "pipeline_tag": "text-generation",
        "tags": ["recommendation", "llmrec", *([] if merged else ["lora"])],
        "datasets": [protocol.dataset],
    }
    identifiers, counts = parts.identifiers, trained.get("counts", {})
    n_new = len(identifiers.new_tokens)
    p = protocol
    ties = f"{p.ties} order ({p.tie_rate_last_two:.0%} of test targets have the time of the event before)"
    seen = "ruled out" if p.exclude_seen else "allowed"
    lines = [
        f"# {config.name}",
        "",
        f"`{model.name}`" + (f", its first {model.keep_layers} layers," if model.keep_layers else "")
        + f" fine-tuned with LoRA to write the next item of a history. Items are written as "
        f"{_SCHEMES.get(identifiers.scheme, identifiers.scheme)}. Generation must be constrained to the identifiers of the "
        "catalogue, or what comes out may be no item.",
        "",
        "## Data and protocol",
        "",
        f"{p.dataset}: {p.all_users:,} users, {p.items:,} items, {p.interactions:,} interactions (SHA-256 of events and "
        f"catalogue {p.dataset_sha256[:16]}). Split: {p.split}, {p.users:,} test users, ties in {ties}. Seen items are {seen}.",
        "",
        "## Training",
        "",
    ]  # fmt: skip
    if counts:
        lines.append(
            f"{counts['targets']:,} next items in {counts['tokens']:,} tokens, {counts['epochs']:.2f} epochs, "
            f"{trained['seconds'] / 60:,.1f} minutes. {trained['trainable_parameters']:,} of "
            f"{trained['parameters']:,} parameters trained"
            + (f", {n_new:,} new tokens' embeddings among them." if n_new else ".")
        )
    metric = config.finetune.validation.metric
    if trained.get("validations"):
        lines += ["", f"| step | epoch | validation {metric} |", "|---|---|---|"]
        lines += [f"| {v['step']} | {v['epoch']:.2f} | {v[metric]:.4f} |" for v in trained["validations"]]
        lines += ["", f"The weights of step {trained['best_step']} were kept."]
    lines += ["", "## Measured", ""]
    if measured:
        lines += ["On the test targets, the whole catalogue ranked:", "", "| metric | value |", "|---|---|"]
        # A list of one item, for instance, has no diversity.
        lines += [f"| {name} | {value:.4f} |" for name, value in measured.items() if value is not None]
    else:
        lines.append(
            "Nothing yet on the test targets; `llmrec run` measures, `llmrec export` writes the figures here."
        )
    lines += ["", "## Use", "", *_use(config, parts, merged)]
    lines += ["", "## Config", "", "```yaml", dump_config(config).strip(), "```", ""]
    lines.append(f"Made with llmrec {llmrec.__version__}.")
    return "---\n" + yaml.safe_dump(front, sort_keys=False) + "---\n\n" + "\n".join(lines) + "\n"


def _use(config: RunConfig, parts: LanguageParts, merged: bool) -> list[str]:
    if merged:
        code = [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")',
            'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")',
        ]
    else:
        options = f", num_hidden_layers={config.model.keep_layers}" if config.model.keep_layers else ""
        code = [
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM",
            "",
            f'model = AutoModelForCausalLM.from_pretrained("BASE_MODEL"{options})  # {config.model.name}',
        ]
        if parts.vocabulary is not None:
            code.append(
                f"model.resize_token_embeddings({parts.vocabulary})  # the adapter brings the new tokens' rows"
            )
            if parts.tied_head:
                code.insert(0, "import torch")
                code += [
                    "# New tokens have two embeddings, so the head gets a matrix of its own.",
                    "head = model.get_input_embeddings().weight.detach().clone()",
                    "model.get_output_embeddings().weight = torch.nn.Parameter(head)",
                    "model.config.tie_word_embeddings = False",
                ]
        code.append('model = PeftModel.from_pretrained(model, "THIS_FOLDER")')
    return ["```python", *code, "```"]
