"""The command line."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from llmrec.errors import LlmrecError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Recommenders from language models, with an honest yardstick.",
)
prompt_app = typer.Typer(no_args_is_help=True, help="Look at prompts.")
app.add_typer(prompt_app, name="prompt")
data_app = typer.Typer(no_args_is_help=True, help="Look at data.")
app.add_typer(data_app, name="data")

ConfigPath = Annotated[Path, typer.Argument(help="The run's YAML file, for example eval/demo.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, for example finetune.steps=50; may be repeated.")
]


@app.command()
def run(
    config: ConfigPath,
    set_: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only estimate time and memory.")] = False,
) -> None:
    """Do all stages to the report; what is done already is not done again."""
    from llmrec.pipeline import run as pipeline

    (pipeline.dry_run if dry_run else pipeline.run)(config, set_ or [])


def _stage(name: str, text: str) -> None:
    def command(config: ConfigPath, set_: Overrides = None) -> None:
        from llmrec.pipeline import run as pipeline

        pipeline.run(config, set_ or [], until=name)

    command.__doc__ = text
    app.command(name)(command)


_stage("prepare", "Read the data, check it and split it.")
_stage("finetune", "Make identifiers and fine-tune the language model; needs 'prepare'.")
_stage("evaluate", "Measure all lists of the run; needs 'recommend'.")


@app.command()
def compare(
    targets: Annotated[
        list[Path],
        typer.Argument(
            metavar="CONFIG | RUN...",
            help="One run's YAML file; or run directories, and .parquet files of other tools beside them.",
        ),
    ],
    set_: Overrides = None,
    lists: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=FILE.parquet: lists made elsewhere under a name of their own; may be repeated."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the report; comparison if left out.")] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="System that all others are tested against; that of the first run if left out."),
    ] = None,
    subject: Annotated[
        str | None, typer.Option(help="System the summary is about; the first language model if left out.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="For example ndcg@10,hr@10; the first decides who wins.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Draws the resampling and the users shown; 0 if left out.")
    ] = None,
    common_users: Annotated[
        bool, typer.Option("--common-users", help="Compare on the users that all systems have lists for.")
    ] = False,
) -> None:
    """Write the report of a run, or of any runs side by side; needs 'recommend'."""
    for_runs = (lists, output, baseline, subject, metrics, seed, common_users or None)
    if len(targets) == 1 and targets[0].suffix != ".parquet" and not targets[0].is_dir():
        from llmrec.pipeline import run as pipeline

        if any(option is not None for option in for_runs):
            raise LlmrecError(
                "Got options for comparing run directories with the config of one run. Expected them with directories: "
                "its report is decided by the section evaluation and by seed; or give its output directory instead."
            )
        pipeline.run(targets[0], set_ or [], until="compare")
        return
    from llmrec.pipeline.compare_runs import compare_runs

    if set_:
        raise LlmrecError("Got --set with run directories. Expected it with the config of one run.")
    named: list[tuple[str | None, Path]] = [(None, path) for path in targets if path.suffix == ".parquet"]
    for text in lists or []:
        name, sign, path = text.partition("=")
        if not name or not sign or not path:
            raise LlmrecError(f"Got --lists {text!r}. Expected NAME=FILE.parquet.")
        named.append((name, Path(path)))
    runs = [path for path in targets if path.suffix != ".parquet"]
    if not runs:
        raise LlmrecError(
            "Got lists and no run directory. Expected one before them: its split says what the lists are to answer."
        )
    from llmrec.progress import say

    page = compare_runs(
        runs,
        named,
        output=output or Path("comparison"),
        baseline=baseline,
        subject=subject,
        metrics=metrics.split(",") if metrics else None,
        seed=seed or 0,
        common_users=common_users,
        command=shlex.join(["llmrec", *sys.argv[1:]]),
    )
    say(f"Report: {page}")


@app.command()
def recommend(
    config: ConfigPath,
    set_: Overrides = None,
    backend: Annotated[str | None, typer.Option(help="What runs the language model: torch or vllm.")] = None,
    histories: Annotated[
        Path | None, typer.Option(help="A log of users to recommend to, instead of the run's test users.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for their lists.")] = None,
    k: Annotated[
        int | None, typer.Option("-k", help="Length of their lists; evaluation.k if left out.")
    ] = None,
    shard_users: Annotated[int, typer.Option(help="Users of a shard: what a kill can cost.")] = 1024,
    replicas: Annotated[
        int | None,
        typer.Option(
            help="Copies of the model under Ray Data, on this machine or the cluster of RAY_ADDRESS."
        ),
    ] = None,
) -> None:
    """Make every system's lists; or the language model's for any users, with --histories. Needs 'finetune'."""
    overrides = [*(set_ or []), *([f"decoding.backend={backend}"] if backend else [])]
    if histories is None:
        from llmrec.pipeline import run as pipeline

        if output is not None or k is not None or replicas is not None:
            raise LlmrecError(
                "Got --output, -k or --replicas without --histories. Expected them with it; for the run's own users set evaluation.k, "
                "and the lists go to OUTPUT/recommendations."
            )
        pipeline.run(config, overrides, until="recommend")
        return
    from llmrec.pipeline.batch import recommend_file

    if output is None:
        raise LlmrecError("Got --histories without --output. Expected the folder for the lists.")
    recommend_file(config, overrides, histories, output, k=k, shard_users=shard_users, replicas=replicas)


@app.command()
def tune(config: ConfigPath, set_: Overrides = None) -> None:
    """Choose every system's settings on the validation users, with the same budget; writes OUTPUT/tuned.yaml."""
    from llmrec.pipeline.tuning import tune as choose

    choose(config, set_ or [])


@app.command()
def diagnose(
    config: ConfigPath,
    set_: Overrides = None,
    users: Annotated[int, typer.Option(min=1, help="Test users diagnosed, at most; a random sample.")] = 300,
    titles: Annotated[
        int, typer.Option(min=1, help="Titles that the pretrained model is asked for, at most.")
    ] = 300,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            help="A system to fit again as the yardstick; may be repeated. The baseline if left out."
        ),
    ] = None,
    alone: Annotated[bool, typer.Option("--alone", help="Fit no other system.")] = False,
    record: Annotated[
        str | None,
        typer.Option(
            help="How a line of the data set's file begins, for example '{item_id}|{title} ({year})|'."
        ),
    ] = None,
) -> None:
    """See whether the language model uses order and time, how few events it needs, and what it knew by heart. Needs 'finetune'."""
    from llmrec.pipeline.diagnose_stage import diagnose as see

    if alone and beside:
        raise LlmrecError("Got --alone and --beside. Expected one of them: no other system, or those named.")
    see(config, set_ or [], users=users, titles=titles, beside=[] if alone else beside or None, record=record)


@app.command()
def export(
    config: ConfigPath,
    output: Annotated[Path, typer.Argument(help="Folder to write; must not be there yet.")],
    merge: Annotated[bool, typer.Option("--merge", help="Merge the adapter into the base model.")] = False,
    set_: Overrides = None,
) -> None:
    """Write the fine-tuned model as a whole checkpoint, with tokenizer, identifiers, trie and model card."""
    from llmrec.pipeline.export import export as write

    if not merge:
        raise LlmrecError(
            "Got 'export' without --merge. Expected it: the adapter itself, in PEFT's format, is in OUTPUT/adapter of the "
            "run already."
        )
    write(config, set_ or [], output)


@prompt_app.command("show")
def prompt_show(
    config: ConfigPath,
    user: Annotated[str, typer.Option(help="Id of a user.")],
    set_: Overrides = None,
) -> None:
    """Print the exact prompt of a user, where the targets of training lie, and what it costs in tokens."""
    from llmrec.pipeline.show import show_prompt

    show_prompt(config, set_ or [], user)


@data_app.command("update")
def data_update(config: ConfigPath, set_: Overrides = None) -> None:
    """Add what is new at data.interactions to the folder data.store, which runs then read; everything the first time."""
    from llmrec.config_file import load_config
    from llmrec.data.update import update_store
    from llmrec.progress import say

    data = load_config(config, set_ or []).data
    done = update_store(data, lambda rows: say(f"{rows:,} rows are safe."))
    say(
        f"{done.added:,} rows added to {data.store}, {done.total:,} in all; read up to {done.watermark or 'nothing'}."
    )
    if done.left:
        say(done.left)


@data_app.command("sets")
def data_sets(
    name: Annotated[
        str | None,
        typer.Argument(help="A name, or how names begin, such as amazon-2023; all if left out."),
    ] = None,
) -> None:
    """Print what data sets can be had by name; of a single one its home, terms and citation as well."""
    from llmrec.data.datasets import describe, unknown_dataset
    from llmrec.progress import say

    rows = describe()
    chosen = [row for row in rows if row["name"] == name]
    chosen = chosen or [row for row in rows if row["name"].startswith(name or "")]
    if not chosen:
        raise unknown_dataset(name or "")
    if len(chosen) == 1:
        for what, value in chosen[0].items():
            say(f"{what}: {value}")
        return
    for row in chosen:
        say(f"{row['name']}: {row['about']}")


@data_app.command("check")
def data_check(config: ConfigPath, set_: Overrides = None) -> None:
    """Look at a config's data before anything is trained: what is in it, and what would bite, with the setting that helps."""
    from llmrec.pipeline.data_check import data_check as check

    check(config, set_ or [])


_LESS_MEMORY = (
    "Expected the work to fit. For training lower finetune.micro_batch_tokens, or set finetune.gradient_checkpointing or "
    "model.quantize: 4bit; for lists lower decoding.batch_size or beam_width. The same command goes on from what is done."
)


def main() -> None:
    """Entry point."""
    report_errors(app)


def report_errors(command: Callable[[], object]) -> None:
    """Run a command; a user's mistake prints one paragraph and exits with code 2."""
    # Libraries that announce themselves on every start would bury the lines that matter.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that wait by spinning take the cores from whoever they wait for: beside one other busy process training
    # was seen to slow down tenfold. Must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # kernels that nobody asked for are not found
    try:
        command()
    except LlmrecError as error:
        print(f"llmrec: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except Exception as error:
        # torch's own, which is not imported for a mistake in a config.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        said = str(error).partition(". ")[0]
        print(f"llmrec: {said}. {_LESS_MEMORY}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except KeyboardInterrupt:
        print("llmrec: interrupted; the same command goes on from here.", file=sys.stderr)  # noqa: T201
        sys.exit(130)
