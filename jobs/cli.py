"""The ``zimage`` command: one module a command, errors worded once, exit codes as documented."""

import logging
import signal
import sys
from types import FrameType

import typer
from pydantic import ValidationError

from jobs import convert, export, generate, models, retry, status, verify
from pipelines.generate import ExitCode
from pipelines.storage import StorageError
from zimage_models.errors import InvalidRequest

app = typer.Typer(
    name="zimage",
    help="Z-Image on Ray: bulk image generation from prompt tables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("generate")(generate.command)
app.command("status")(status.command)
app.command("retry")(retry.command)
app.command("verify")(verify.command)
app.command("export")(export.command)
app.command("models")(models.command)
app.command("convert")(convert.command)


def main() -> None:
    """Run the command line; see each command's help for its options."""
    logging.basicConfig(format="zimage: %(message)s", level=logging.WARNING)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(standalone_mode=False)
    except typer.Exit as error:
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("zimage: interrupted; the same command continues where it stopped", file=sys.stderr)
        code = ExitCode.INTERRUPTED
    except ValidationError as error:
        for problem in error.errors():
            place = ".".join(str(item) for item in problem["loc"])
            _say_error(f"{place}: {problem['msg']} (given: {problem['input']!r})")
        code = ExitCode.BAD_USAGE
    except (InvalidRequest, StorageError, ValueError) as error:
        _say_error(str(error))
        code = ExitCode.BAD_USAGE
    except typer._click.exceptions.ClickException as error:
        error.show()
        code = error.exit_code
    sys.exit(int(code or 0))


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say_error(message: str) -> None:
    print(f"zimage: error: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
