# SPDX-License-Identifier: Apache-2.0
"""`compare`: one model, several optimizers, each over a grid of learning rates."""

import dataclasses
import importlib.metadata
import itertools
import platform
from typing import Any

import jax
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

import orthoptax
from orthoptax.train import (
    config,
    data,
    loop,
    models,
    names,
    plots,
    report,
    results,
)

PACKAGES = ("jax", "jaxlib", "optax", "flax", "numpy", "orbax-checkpoint")


def compare(settings: config.Compare) -> None:
    """Trains every run that the folder lacks, then writes and prints the results.

    Raises: UsageError if the settings, the data or the folder do not fit.
    """
    config.check(settings)
    shape = models.shape(settings.model)
    rates = settings.learning_rates or shape.learning_rates
    constructors = names.constructors(settings.optimizers)
    corpus = data.read(settings.data)
    data.check_length(corpus, shape.length)

    manifest = _manifest(settings, shape, rates, constructors, corpus)
    results.begin(settings.out, manifest, settings.resume)
    console = Console(stderr=True)
    console.print(report.corpus_line(manifest), highlight=False, soft_wrap=True)
    _train(settings, shape, rates, constructors, corpus, console)

    summary = report.summarize(settings.out, manifest)
    results.write(settings.out / "table.txt", report.text(summary, timed=False))
    results.write(settings.out / "curves.png", plots.curves(summary))
    results.write(settings.out / "learning_rates.png", plots.learning_rates(summary))
    results.finish(settings.out)
    print(report.text(summary, timed=True))
    console.print(f"Results in {settings.out}", highlight=False, soft_wrap=True)


def _train(
    settings: config.Compare,
    shape: models.Shape,
    rates: tuple[float, ...],
    constructors: dict[str, names.Constructor],
    corpus: data.Corpus,
    console: Console,
) -> None:
    """Runs what is not complete; one compilation an optimizer."""
    steps, interval, folder = settings.steps, settings.evaluate_every, settings.out
    interval = min(interval, steps)
    evaluate = loop.evaluator(shape, corpus.validation)
    with _progress(console) as progress:
        total = len(constructors) * len(rates) * len(settings.seeds) * steps
        bar = progress.add_task("", total=total)
        for name, constructor in constructors.items():
            runs = [
                results.Run(name, rate, seed)
                for rate, seed in itertools.product(rates, settings.seeds)
            ]
            rows = results.read(folder / "curves.jsonl")
            left = [r for r in runs if not results.is_complete(r, rows, steps)]
            progress.advance(bar, steps * (len(runs) - len(left)))
            if not left:
                continue
            progress.update(bar, description=f"{name}  compiling")
            trainer, seconds = loop.trainer(
                shape, constructor, steps, interval, evaluate
            )
            results.record_compilation(folder, name, seconds)
            for run in left:
                before = float(progress.tasks[0].completed)

                def show(at: loop.Progress, before: float = before) -> None:
                    text = f"{at.run.optimizer}  rate {at.run.learning_rate:g}"
                    progress.update(
                        bar,
                        completed=before + at.step,
                        description=f"{text}  loss {at.loss:.3f}",
                    )

                loop.train(run, trainer, corpus, folder, steps, interval, show)
                progress.update(bar, completed=before + steps)
                if not console.is_terminal:
                    last = results.of(run, results.read(folder / "curves.jsonl"))[-1]
                    console.print(report.run_line(last), highlight=False)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps, left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def _manifest(
    settings: config.Compare,
    shape: models.Shape,
    rates: tuple[float, ...],
    constructors: dict[str, names.Constructor],
    corpus: data.Corpus,
) -> dict[str, Any]:
    """All that decides the numbers, and no path or time."""
    return {
        "optimizers": list(constructors),
        "learning_rates": list(rates),
        "seeds": list(settings.seeds),
        "steps": settings.steps,
        "evaluate_every": settings.evaluate_every,
        "warmup": loop.WARMUP,
        "model": {"name": settings.model}
        | dataclasses.asdict(dataclasses.replace(shape, learning_rates=rates))
        | {"parameters": models.parameter_count(shape)},
        "data": {
            "source": "folder" if settings.data else "standard library",
            "sha256": corpus.sha256,
            "files": corpus.files,
            "train_bytes": corpus.train.size,
            "validation_bytes": corpus.validation.size,
            "zlib_bits_per_byte": data.zlib_bits(corpus.validation),
        },
        "optimizer_state_bytes": {
            name: state_bytes(shape, constructor)
            for name, constructor in constructors.items()
        },
        "platform": jax.default_backend(),
        "versions": {
            "orthoptax": orthoptax.__version__,
            "python": platform.python_version(),
        }
        | {package: importlib.metadata.version(package) for package in PACKAGES},
    }


def state_bytes(shape: models.Shape, constructor: names.Constructor) -> int:
    """The size of an optimizer's state, without making it."""
    state = jax.eval_shape(lambda: loop.start(shape, constructor, 0).opt_state)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
