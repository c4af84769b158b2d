"""``serve.yaml``: what Ray Serve is asked to run."""

from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from deployments.app_args import AppArgs, ModelArgs
from deployments.cluster_check.demand import ACCELERATOR_PREFIX, Demand
from deployments.cluster_check.documents import Document, Place, Problem
from deployments.cluster_check.fleet import Fleet
from deployments.cluster_check.json_schema import closed, schema_problems

IMPORT_PATH = "deployments.app:build_app"


def serve_problems(document: Document) -> tuple[list[Problem], dict[Place, AppArgs]]:
    """Check the file against Serve's schema and ours; Serve itself would ignore fields that it does not know.

    Returns:
        The problems, and the arguments of our endpoint by their place.
    """
    problems = schema_problems(document, _serve_schema())
    if not problems:
        problems = _validated(document, ServeDeploySchema, document.data, ())
    if problems:
        return problems, {}
    found: dict[Place, AppArgs] = {}
    for index, application in enumerate(document.data["applications"]):
        place: Place = ("applications", index)
        if application["import_path"] != IMPORT_PATH:
            message = f"{application['import_path']} is not the endpoint's builder, {IMPORT_PATH}"
            problems.append(document.problem((*place, "import_path"), message))
            continue
        args = application.get("args", {})
        wrong = _validated(document, AppArgs, args, (*place, "args"))
        problems += wrong
        if not wrong:
            found[(*place, "args")] = AppArgs.model_validate(args)
    for place, args in found.items():
        problems += _deadlines(document, place, args)
    return problems, found


def placement_problems(document: Document, args: dict[Place, AppArgs], fleet: Fleet) -> Iterator[Problem]:
    """Look for nodes for all replicas at once, each model at its ``max_replicas``."""
    demands = []
    for place, endpoint in args.items():
        for index, model in enumerate(endpoint.models):
            demand = _demand(model)
            misfit = fleet.misfit(demand)
            if misfit:
                field = "accelerator_type" if ACCELERATOR_PREFIX in misfit else "num_gpus"
                yield document.problem((*place, "models", index, field), misfit)
            else:
                demands.append(demand)
        ingress = endpoint.ingress
        demands.append(Demand(what="ingress", count=ingress.num_replicas, num_cpus=ingress.num_cpus))
    left_over = fleet.left_over(demands)
    if left_over:
        which = ", ".join(f"{count} of {name}" for name, count in left_over.items())
        message = f"at most replicas everywhere, {which} would find no room on all nodes of {fleet.name}"
        yield document.problem((*next(iter(args)), "models"), message)


def _demand(model: ModelArgs) -> Demand:
    degree = model.tensor_parallel_size
    # Ranks that may be on any nodes need no room together.
    together, apart = (degree, 1) if model.tensor_parallel_placement == "one_node" else (1, degree)
    return Demand(
        what=model.id,
        count=model.scaling.max_replicas * apart,
        num_cpus=model.num_cpus * together,
        num_gpus=model.num_gpus * together,
        accelerator_type=model.accelerator_type,
    )


@cache
def _serve_schema() -> dict[str, Any]:
    return closed(ServeDeploySchema.model_json_schema())


def _validated(document: Document, model: Any, data: Any, place: Place) -> list[Problem]:
    try:
        model.model_validate(data)
    except ValidationError as error:
        return [document.problem((*place, *problem["loc"]), problem["msg"]) for problem in error.errors()]
    return []


def _deadlines(document: Document, place: Place, args: AppArgs) -> Iterator[Problem]:
    timeout_s = document.get("http_options", "request_timeout_s")
    if timeout_s is not None and timeout_s <= args.limits.timeout_s:
        limit = f"limits.timeout_s, {args.limits.timeout_s:g}"
        message = f"{timeout_s:g} is not above {limit}: Serve would cut requests off first"
        yield document.problem(("http_options", "request_timeout_s"), message)
