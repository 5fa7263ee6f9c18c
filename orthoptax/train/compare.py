# SPDX-License-Identifier: Apache-2.0
"""`compare`: one model, several optimizers, each over a grid of learning rates."""

import dataclasses
from typing import Any

from rich.console import Console

from orthoptax.train import (
    config,
    data,
    meshes,
    models,
    names,
    plots,
    processes,
    report,
    results,
    sweep,
    tasks,
)


def compare(settings: config.Compare) -> None:
    """Trains every run that the folder lacks, then writes and prints the results.

    Raises: UsageError if the settings, the data or the folder do not fit.
    """
    config.check(settings)
    with processes.together(settings):
        _compare(settings)


def _compare(settings: config.Compare) -> None:
    shape = models.shape(settings.model)
    rates = settings.learning_rates or shape.learning_rates
    constructors = names.constructors(settings.optimizers)
    corpus = data.read(settings.data)
    data.check_length(corpus, shape.length)

    task = tasks.text(shape, corpus)
    plan = sweep.Plan(rates, settings.seeds, settings.steps, settings.evaluate_every)
    plan = sweep.priced(task, constructors, plan._replace(gradients=settings.gradients))
    if settings.mesh is not None:
        task, constructors = meshes.onto(settings.mesh, task, constructors)
    manifest = sweep.manifest(task, constructors, plan) | {
        "model": {"name": settings.model}
        | dataclasses.asdict(dataclasses.replace(shape, learning_rates=rates))
        | {"parameters": models.parameter_count(shape)},
        "data": text_manifest(settings.data is None, corpus),
    }
    results.begin(settings.out, manifest, settings.resume)
    console = Console(stderr=True, quiet=not processes.is_first())
    console.print(report.corpus_line(manifest), highlight=False, soft_wrap=True)
    with sweep.progress(console) as progress:
        sweep.train(task, constructors, plan, settings.out, progress)

    if not processes.is_first():
        return
    summary = report.summarize(settings.out, manifest)
    results.write(settings.out / "table.txt", report.text(summary, timed=False))
    results.write(settings.out / "curves.png", plots.curves(summary))
    results.write(settings.out / "gradients.png", plots.gradients(summary))
    results.write(settings.out / "learning_rates.png", plots.learning_rates(summary))
    results.finish(settings.out)
    print(report.text(summary, timed=True))
    console.print(f"Results in {settings.out}", highlight=False, soft_wrap=True)


def text_manifest(default: bool, corpus: data.Corpus) -> dict[str, Any]:
    """Which text a model was trained on; no path."""
    return {
        "source": "standard library" if default else "folder",
        "sha256": corpus.sha256,
        "files": corpus.files,
        "train_bytes": corpus.train.size,
        "validation_bytes": corpus.validation.size,
        "zlib_bits_per_byte": data.zlib_bits(corpus.validation),
    }
