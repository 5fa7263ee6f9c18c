# SPDX-License-Identifier: Apache-2.0
"""`ablate`: which links of a chain earn their keep."""

import json
from typing import Any

from rich.console import Console

from orthoptax.train import (
    config,
    data,
    digits,
    effects,
    models,
    plots,
    results,
    sweep,
    tasks,
    variants,
)
from orthoptax.train.chains import ChainOptimizer
from orthoptax.train.compare import text_manifest

BYTES = models.Shape(width=32, layers=2, heads=2, length=64, batch=8, validation=16)


def ablate(settings: config.Ablate) -> None:
    """Trains every run that the folder lacks, then writes and prints the effects.

    Raises: UsageError if the settings, the chains, the data or the folder do not fit.
    """
    config.check(settings)
    for name in settings.tasks:
        if name not in TASKS:
            raise config.unknown("task", name, TASKS, "--tasks")
    chains = variants.variants(settings.base, settings.replace)
    constructors = {v.chain: ChainOptimizer(v.chain) for v in chains}
    plan = sweep.Plan(
        settings.learning_rates,
        settings.seeds,
        settings.steps,
        settings.evaluate_every,
    )
    made = {name: TASKS[name](settings) for name in settings.tasks}
    manifests = {
        name: sweep.manifest(task, constructors, plan) | about
        for name, (task, about) in made.items()
    }
    whole = {"changes": {v.chain: v.change for v in chains}, "tasks": list(made)}
    results.begin(settings.out, whole, settings.resume)
    console = Console(stderr=True)
    for variant in chains:
        line = f"{variant.change}: {variant.chain}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    with sweep.progress(console) as progress:
        for name, (task, _) in made.items():
            folder = settings.out / name
            results.begin(folder, manifests[name], resume=True)
            sweep.train(task, constructors, plan, folder, progress)
            results.finish(folder)
    _report(settings, manifests, chains)
    console.print(f"Results in {settings.out}", highlight=False, soft_wrap=True)


def _report(
    settings: config.Ablate,
    manifests: dict[str, dict[str, Any]],
    chains: list[variants.Variant],
) -> None:
    """Writes table, plot and JSON lines; prints the table."""
    found = [
        effects.effects(settings.out / name, name, manifest, chains)
        for name, manifest in manifests.items()
    ]
    lines = [json.dumps(e._asdict()) + "\n" for group in found for e in group]
    tables = [
        effects.text(group, manifest)
        for group, manifest in zip(found, manifests.values(), strict=True)
    ]
    results.write(settings.out / "effects.jsonl", "".join(lines))
    results.write(settings.out / "effects.png", plots.effects(found))
    results.write(settings.out / "table.txt", "\n".join(tables))
    results.finish(settings.out)
    print("\n".join(tables))


def _digits(settings: config.Ablate) -> tuple[tasks.Task, dict[str, Any]]:
    """The perceptron on scikit-learn's digits."""
    del settings
    found = digits.read()
    about = {
        "unit": "nats/example",
        "model": {"name": "perceptron", "width": digits.WIDTH, "batch": digits.BATCH},
        "data": {"source": "scikit-learn", "sha256": found.sha256},
    }
    return digits.task(found), about


def _bytes(settings: config.Ablate) -> tuple[tasks.Task, dict[str, Any]]:
    """A transformer of 40 thousand parameters on bytes of text."""
    corpus = data.read(settings.data)
    data.check_length(corpus, BYTES.length)
    about = {
        "unit": "nats/byte",
        "model": {"name": "transformer", "parameters": models.parameter_count(BYTES)},
        "data": text_manifest(settings.data is None, corpus),
    }
    return tasks.text(BYTES, corpus), about


TASKS = {"digits": _digits, "bytes": _bytes}
