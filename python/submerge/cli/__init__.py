"""The command line: data on standard output, everything else on standard error.

Commands live in modules of their own, imported when used; those import what they need inside the
command, so `submerge --help` costs little more than click.
"""

from __future__ import annotations

import gc
import importlib
import io
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from submerge.cli.terminal import say, spoken

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from submerge.errors import SubmergeError

__all__ = ["app", "main"]

OK, FAILED, USAGE, BAD_INPUT, NOT_PASSED, INTERRUPTED = 0, 1, 2, 3, 4, 130

_EPILOG = """\b
Exit codes:
  0    done
  1    failed while reading or writing
  2    wrong usage, or the recipe is wrong
  3    an input is damaged, or not a model that can be merged, or an adapter does not fit its model
  4    a check did not pass (`verify`), the models differ (`diff --exit-code`), or the images do
       (`reproduce`)
  130  interrupted; nothing is left behind
"""

# Command -> the module it is defined in.
_COMMANDS = {
    "analyze": "analysis",
    "completion": "desk",
    "convert": "write",
    "demo": "tools",
    "diff": "inspect",
    "doctor": "tools",
    "export": "write",
    "generate": "paint",
    "grid": "grid",
    "inspect": "inspect",
    "lora": "lora",
    "measure": "measure",
    "merge": "write",
    "methods": "tools",
    "open": "desk",
    "plan": "write",
    "recipe": "recipe",
    "report": "page",
    "studio": "desk",
    "reproduce": "measure",
    "test": "test",
    "suggest": "analysis",
    "verify": "inspect",
}


class _Commands(click.Group):
    """Imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(f"submerge.cli.{_COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from submerge.run import __version__

        click.echo(f"submerge {__version__}")
        ctx.exit()


@click.group(
    cls=_Commands,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_version,
    help="Print the version.",
)
def app() -> None:
    """Merge FLUX checkpoints block by block, in constant memory.

    Every ratio (`--alpha`) is the share of the second model.
    """


class _Stopped(BaseException):
    """A signal other than Ctrl-C asked the process to end; unwinding removes what it began."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with one of the documented codes."""
    # A command makes little garbage and ends: walking the heap while importing is all cost.
    gc.disable()
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _stop)
    sys.exit(_run(arguments))


def _stop(number: int, _: FrameType | None) -> None:
    raise _Stopped(number)


def _run(arguments: Sequence[str] | None) -> int:
    from submerge.errors import Cancelled, SubmergeError

    try:
        result: Any = app.main(args=arguments, prog_name="submerge", standalone_mode=False)
    except click.ClickException as error:
        with io.StringIO() as shown:
            error.show(shown)
            say(shown.getvalue(), err=True, nl=False)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt, Cancelled):
        click.echo("cancelled: nothing was written", err=True)
        return INTERRUPTED
    except _Stopped as stop:
        click.echo("stopped: nothing was written", err=True)
        return 128 + stop.number
    except (SubmergeError, OSError) as error:
        return _failed(error, _command(sys.argv[1:] if arguments is None else arguments))
    return result if isinstance(result, int) else OK


def _command(arguments: Sequence[str]) -> click.Command | None:
    """Return the command that arguments name."""
    context = click.Context(app)
    command: click.Command | None = app
    for word in arguments:
        if not isinstance(command, click.Group):
            break
        if not word.startswith("-"):
            command = command.get_command(context, word)
    return command


def _failed(error: SubmergeError | OSError, command: click.Command | None) -> int:
    """Say what went wrong, without a traceback, and return the exit code for it."""
    from submerge.errors import AdapterError, CheckpointError, LayoutError, RecipeError

    if isinstance(error, BrokenPipeError):
        # Whoever read our output has gone: say nothing, and let the exit not flush into the void.
        sys.stdout = None
        return FAILED
    say(f"error: {_in_words(error, command)}", err=True)
    if isinstance(error, RecipeError):
        return USAGE
    bad = isinstance(error, AdapterError | CheckpointError | LayoutError)
    return BAD_INPUT if bad else FAILED


def _in_words(error: SubmergeError | OSError, command: click.Command | None) -> str:
    if not isinstance(error, OSError):
        # A recipe's fields are called in hints as they are written there.
        of_recipe = error.message.startswith("recipe")
        hint = error.hint if of_recipe or error.hint is None else spoken(error.hint, command)
        return error.message if hint is None else f"{error.message}\nhint: {hint}"
    what = error.strerror or str(error)
    text = f"{error.filename}: {what}" if error.filename is not None else what
    return "\n".join([text, *(spoken(note, command) for note in getattr(error, "__notes__", []))])
