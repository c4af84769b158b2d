"""``zimage cluster``: the files that a cluster is started from, and the end of an endpoint on it."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from jobs.option_values import duration_text, parse_duration
from pipelines.exit_codes import ExitCode
from zimage_models.errors import InvalidRequest

app = typer.Typer(
    name="cluster",
    help="Check the files that a cluster is started from; drain an endpoint on it.",
    no_args_is_help=True,
)

SERVE_YAML = Path("deployments/serve.yaml")
KUBERAY = Path("deployments/kuberay")
_SERVICE = KUBERAY / "rayservice.yaml"
_SERVE_CONFIG_KEY = "  serveConfigV2: |\n"


@app.command("check")
def check(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE",
            help="Cluster launcher file, Serve configuration, KubeRay manifests, Dockerfile. Default:"
            " those of the current checkout.",
        ),
    ] = None,
) -> int:
    """Check the files of a cluster, offline.

    Each file is checked against its schema, the launcher file also by Ray's own code. All files must name the
    same image and the same Ray, and the RayService must match serve.yaml. Exit code 2 if anything is wrong.
    """
    paths = files or files_of(Path())
    for path in paths:
        if not path.is_file():
            raise InvalidRequest(f"files: {path} is not a file", field="files")
    # Takes a second to import, which --help does not need.
    from deployments.cluster_check.check import check_files

    problems = check_files(paths)
    for problem in problems:
        print(problem)
    wrong = {problem.file for problem in problems}
    for path in paths:
        if str(path) not in wrong:
            print(f"{path}: ok")
    return 2 if problems else 0


@app.command("sync")
def sync() -> int:
    """Copy deployments/serve.yaml into the RayService of deployments/kuberay/rayservice.yaml."""
    for path in (SERVE_YAML, _SERVICE):
        if not path.is_file():
            raise InvalidRequest(f"files: {path} does not exist; run this in a checkout", field="files")
    service = _SERVICE.read_text(encoding="utf-8")
    head, key, rest = service.partition(_SERVE_CONFIG_KEY)
    if not key:
        raise InvalidRequest(f"{_SERVICE}: spec has no `serveConfigV2: |`", field="files")
    lines = rest.splitlines(keepends=True)
    # The block ends at the first line that is not indented more than its key.
    end = next((n for n, line in enumerate(lines) if line.strip() and not line.startswith("   ")), len(lines))
    block = "".join(
        f"    {line}" if line.strip() else line
        for line in SERVE_YAML.read_text(encoding="utf-8").splitlines(keepends=True)
    )
    _SERVICE.write_text(head + key + block + "".join(lines[end:]), encoding="utf-8")
    print(f"{_SERVICE}: now matches {SERVE_YAML}")
    return 0


@app.command("drain")
def drain(
    serve_app: Annotated[str, typer.Option(help="The endpoint: name of its Serve application.")] = "default",
    drain_timeout: Annotated[
        str, typer.Option(metavar="DURATION", help="How long to wait for the accepted requests.")
    ] = "60s",
    undo: Annotated[bool, typer.Option("--undo", help="Let the endpoint take requests again.")] = False,
) -> int:
    """Make an endpoint refuse requests, and wait until it has answered those that it has accepted.

    Run this on the cluster, or with RAY_ADDRESS, before `serve shutdown` or the cluster's end, which would
    cut them. A `serve deploy` of the same settings changes nothing of this; --undo does. Exit code 4 if some
    requests are still open.
    """
    timeout_s = parse_duration(drain_timeout, field="drain_timeout")
    import ray

    from deployments.app_lifecycle import accept
    from deployments.app_lifecycle import drain as counts
    from jobs.ray_session import join_ray

    if not ray.is_initialized():
        join_ray(verbose=False)
    if undo:
        accept(serve_app)
        return ExitCode.OK
    deadline_s = time.monotonic() + timeout_s
    for num_open in counts(serve_app):
        if num_open and time.monotonic() > deadline_s:
            print(f"{duration_text(timeout_s)} are over; requests still open: {num_open}", file=sys.stderr)
            return ExitCode.STOPPED
    return ExitCode.OK


def files_of(checkout: Path) -> list[Path]:
    """Return the files of a checkout that a cluster is started from.

    Raises:
        InvalidRequest: there are none.
    """
    paths = [checkout / name for name in ("cluster.yaml", "Dockerfile", SERVE_YAML)]
    paths = [*(path for path in paths if path.is_file()), *sorted((checkout / KUBERAY).glob("*.yaml"))]
    if not paths:
        raise InvalidRequest("files: none found; run this in a checkout or name some", field="files")
    return paths
