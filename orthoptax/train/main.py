# SPDX-License-Identifier: Apache-2.0
"""The command line: subcommands, errors in one line, how to go on after Ctrl-C."""

import shlex
import sys
from collections.abc import Sequence

import tyro

from orthoptax._check import message
from orthoptax.train.ablate import ablate
from orthoptax.train.compare import compare
from orthoptax.train.config import Ablate, Compare, UsageError
from orthoptax.train.plan import PlanSettings, plan

COMMANDS = {
    "compare": (Compare, compare),
    "ablate": (Ablate, ablate),
    "plan": (PlanSettings, plan),
}
USAGE = 2  # exit status of a mistake in the command, as argparse has it
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    settings = tyro.extras.subcommand_cli_from_dict(
        {name: kind for name, (kind, _) in COMMANDS.items()},
        prog="python -m orthoptax",
        args=words,
    )
    run = next(run for kind, run in COMMANDS.values() if type(settings) is kind)
    try:
        run(settings)
    except UsageError as error:
        print(error, file=sys.stderr)
        return USAGE
    except OSError as error:
        expected = "files that can be read and written"
        print(
            message(words[0], str(error), expected, "Check the folders named"),
            file=sys.stderr,
        )
        return USAGE
    except KeyboardInterrupt:
        if not hasattr(settings, "resume"):
            return INTERRUPTED
        again = [word for word in words if word != "--resume"]
        command = shlex.join(["python", "-m", "orthoptax", *again, "--resume"])
        print(f"\nInterrupted. To continue: {command}", file=sys.stderr)
        return INTERRUPTED
    return 0
