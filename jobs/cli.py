"""The ``zimage`` command line: its commands, error messages and exit codes."""

import gc
import logging
import signal
import sys
from types import FrameType

import typer
from pydantic import ValidationError  # which typer needs too

from deployments.errors import RayNotStarted
from jobs import cluster, estimate, generate, models, published, serve
from pipelines.exit_codes import ExitCode
from pipelines.storage import StorageError
from zimage_models.errors import InvalidRequest
from zimage_models.request_fields import in_outer_names

app = typer.Typer(
    name="zimage",
    help="Z-Image on Ray: bulk image generation from prompt tables, and an online endpoint.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("generate")(generate.command)
app.command("estimate")(estimate.command)
app.command("serve")(serve.command)
app.command("status")(published.status)
app.command("retry")(published.retry)
app.command("verify")(published.verify)
app.command("export")(published.export)
app.command("models")(models.list_models)
app.command("convert")(models.convert)
app.command("calibrate")(models.calibrate)
app.add_typer(cluster.app, name="cluster")


def main() -> None:
    """Run the command line and exit; SIGTERM ends a command like Ctrl-C."""
    signal.signal(signal.SIGTERM, _interrupt)
    gc.freeze()  # imported objects stay, so planning a long table need not scan them again and again
    code = run(sys.argv[1:])
    # Ray prints delayed warnings when the process ends; standard output may be read as JSON lines.
    sys.stdout = sys.stderr
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command line, without the program's name.

    Returns:
        The exit code; errors are printed on standard error.
    """
    logging.basicConfig(format="zimage: %(message)s", level=logging.WARNING)
    try:
        code = int(app(arguments, prog_name="zimage", standalone_mode=False) or ExitCode.OK)
        if code == ExitCode.INTERRUPTED:  # what typer returns for a KeyboardInterrupt
            print("zimage: interrupted; run the same command again to continue", file=sys.stderr)
        return code
    except ValidationError as error:
        problems = error.errors()
        for problem in problems:
            # pydantic does not count bad items: a list of nothing else is also too short for it.
            is_within = [other["loc"][: len(problem["loc"])] == problem["loc"] for other in problems]
            if problem["type"] == "too_short" and sum(is_within) > 1:
                continue
            place = ".".join(str(item) for item in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ")
            _print_error(f"{place}: {message} (given: {problem['input']!r})")
        return ExitCode.BAD_USAGE
    except RayNotStarted as error:
        _print_error(str(error))
        return ExitCode.NO_RAY
    except (InvalidRequest, StorageError) as error:
        _print_error(in_outer_names(str(error)))
        return ExitCode.BAD_USAGE
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        pointer = f" (see {context.command_path} --help)" if context else ""
        _print_error(error.format_message().replace("Value error, ", "") + pointer)
        return ExitCode.BAD_USAGE


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _print_error(message: str) -> None:
    print(f"zimage: error: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
