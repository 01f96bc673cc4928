"""`kshot demo`: a real model on a real task in a few minutes, told as somebody sees kshot for the first time."""

import shlex
from typing import Annotated

import typer

from kshot.cli.output import print_paragraph, resumable, stdout
from kshot.core.types import Task

TASK, LIMIT, SHOTS, BUDGET = "builtin:bbc-headlines-100", 40, 8, "5m"
# Cheap ones first, so that the table is full early; two settings of those that train race, not six
PLACES = {
    "without a language model": ("majority", "tfidf-lr", "embedding-lr"),
    "nowhere": ("zero-shot",),
    "in the prompt": ("random", "bm25", "dense"),
    "in the activations": ("icv",),
    "in the weights": ("fine-tune:lr=3e-4/1e-3,steps=1", "icl+ft:lr=3e-4/1e-3,steps=1"),
}


@resumable
def demo(out: Annotated[str, typer.Option(help="Run folder.")] = "kshot-runs/demo") -> None:
    """Adapt the packaged Gemma-3-270M to real BBC headlines.

    It then answers unseen ones; all takes less than 5 minutes.
    """
    from kshot.cli.live import RaceProgress, print_run
    from kshot.verbs.adapt import adapt

    task = Task.load(TASK)
    _introduce(task)
    recipes = [name for names in PLACES.values() for name in names]
    with RaceProgress(task.metrics[0]) as progress:
        run = adapt(TASK, "demo", recipes=recipes, shots=SHOTS, limit=LIMIT, budget=BUDGET, out=out, progress=progress)
    stdout.print()
    print_run(run, task.metrics[0])
    unseen = task.test[:6]
    stdout.print("\nheadlines that it has never seen:")
    for example, prediction in zip(unseen, run.best.predictions(unseen), strict=True):
        mark = "right" if prediction.answer == example.output else f"wrong, it is {example.output}"
        stdout.print(f"  {example.input}\n    {prediction.answer} ({max(prediction.probs):.0%}; {mark})")
    stdout.print(f"\nrun folder: {run.folder.resolve()}\n\nnext:")
    folder = shlex.quote(str(run.folder))
    for command in (
        f"echo 'Oil price falls again' | kshot predict {folder}",
        f"kshot evaluate {folder} builtin:bbc-headlines --limit 100",
        "kshot adapt YOUR.jsonl --model demo --budget 10m   # rows with input and output",
    ):
        stdout.print(f"  {command}")


def _introduce(task: Task) -> None:
    """Say what will be done, before anything is computed."""
    first = task.train[0]
    second = next(e for e in task.train if e.output != first.output)
    shown = "".join(f"    {e.input}  ->  {e.output}\n" for e in (first, second))
    places = "".join(
        f"    {place + ':':26} {', '.join(name.partition(':')[0] for name in names)}\n"
        for place, names in PLACES.items()
    )
    n_recipes = sum(map(len, PLACES.values()))
    print_paragraph(
        f"""kshot finds out where labelled examples serve a language model best: in the prompt, in the weights or in \
the activations.

The task: which of {len(task.labels)} topics does a BBC headline belong to? {len(task.train)} have labels, such as
{shown}
{n_recipes} recipes race with Gemma-3-270M. The examples go
{places}
The headlines come one after another, and {LIMIT} of them are predicted, each before its label is learnt. Recipes that \
fall clearly behind are dropped. The one of which most is expected once it knows all {len(task.train)} is chosen, \
fitted and saved.

This takes 2 to 5 minutes on two cores; the first time one more, to convert the model.
"""
    )
