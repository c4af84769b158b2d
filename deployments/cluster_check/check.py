"""Checks the files of a deployment against their schemas and against each other."""

import copy
import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import ray.autoscaler
import yaml
from pydantic import BaseModel, ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

from deployments.app_args import AppArgs
from deployments.cluster_check.documents import Document, Place, Problem, read_documents
from zimage_models.errors import InvalidRequest

_BUILDER = "deployments.app:build_app"
_EMBEDDED: Place = ("spec", "serveConfigV2")
_BASE_IMAGE = re.compile(r"FROM\s.*\brayproject/ray:([^-\s]+)")


def check_files(paths: Sequence[Path]) -> list[Problem]:
    """Check the files of a deployment without a cloud, a cluster or Docker.

    Args:
        paths: cluster launcher files, Serve configurations, KubeRay manifests, a ``Dockerfile``. The image
            must have the version in the ``pyproject.toml`` next to the ``Dockerfile``, if there is one.

    Returns:
        The problems, ordered by file and line.

    Raises:
        InvalidRequest: the ``pyproject.toml`` has no version.
    """
    documents: list[Document] = []
    problems: list[Problem] = []
    version = None
    for path in paths:
        if path.name == "Dockerfile":
            problems += _check_dockerfile(path)
            version = _project_version(path.with_name("pyproject.toml"))
        else:
            read, unreadable = read_documents(path)
            documents += read
            problems += unreadable
    for document in documents:
        problems += _check_document(document, [other for other in documents if _is_serve_config(other)])
    problems += _check_images(documents, version)
    files = [str(path) for path in paths]
    return sorted(problems, key=lambda problem: (files.index(problem.file), problem.line))


def _is_serve_config(document: Document) -> bool:
    return document.get("apiVersion") is None and document.get("applications") is not None


def _check_document(document: Document, serve_configs: Sequence[Document]) -> Iterator[Problem]:
    if document.get("apiVersion") is not None:
        yield from _check_manifest(document, serve_configs)
    elif _is_serve_config(document):
        yield from _check_serve_config(document)
    elif document.get("cluster_name") is not None or document.get("provider") is not None:
        yield from _check_launcher(document)
    else:
        message = "is not a cluster launcher file, a Serve configuration or a Kubernetes manifest"
        yield document.problem((), message)


def _check_launcher(document: Document) -> list[Problem]:
    """Check what ``ray up`` checks before it calls the cloud."""
    schema = Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text(encoding="utf-8")
    try:
        problems = _schema_problems(document, json.loads(schema))
        if not problems:
            validate_config(prepare_config(copy.deepcopy(document.data)))
    except Exception as error:  # Ray documents no class: it asserts, looks up keys and raises click's errors
        return [document.problem((), f"Ray refuses it: {error}")]
    return problems


def _check_manifest(document: Document, serve_configs: Sequence[Document]) -> Iterator[Problem]:
    schemas = _manifest_schemas()
    kinds = [name for name in schemas if name != "$defs"]
    kind = document.get("kind")
    if kind not in kinds:
        yield document.problem(("kind",), f"{kind} cannot be checked; these can: {', '.join(kinds)}")
        return
    problems = _schema_problems(document, {"$defs": schemas["$defs"], **schemas[kind]})
    yield from problems
    for place in document.lines:
        if place[-1:] == ("rayVersion",) and document.get(*place) != ray.__version__:
            message = f"{document.get(*place)}, but the project's Ray is {ray.__version__}"
            yield document.problem(place, message)
    if kind == "RayService" and not problems:
        yield from _check_service(document, serve_configs)


def _check_service(service: Document, serve_configs: Sequence[Document]) -> Iterator[Problem]:
    embedded, problems = service.embedded(*_EMBEDDED)
    yield from problems
    for config in embedded:
        yield from _check_serve_config(config)
        if serve_configs and config.data not in [other.data for other in serve_configs]:
            names = ", ".join(other.file for other in serve_configs)
            yield service.problem(_EMBEDDED, f"differs from {names}; run `zimage cluster sync` to copy it")


def _check_serve_config(document: Document) -> list[Problem]:
    problems = _model_problems(document, ServeDeploySchema, ())
    if problems:
        return problems
    for index, application in enumerate(document.data["applications"]):
        place: Place = ("applications", index)
        if application["import_path"] == _BUILDER:
            problems += _model_problems(document, AppArgs, (*place, "args"))
        else:
            message = f"{application['import_path']} is not the endpoint's builder, {_BUILDER}"
            problems.append(document.problem((*place, "import_path"), message))
    return problems


def _check_images(documents: Sequence[Document], version: str | None) -> Iterator[Problem]:
    """Check that all nodes run the same image, in the project's version."""
    images = [
        (document, place, str(document.get(*place)))
        for document in documents
        for place in document.lines
        if _names_image(place)
    ]
    for document, place, image in images:
        first, first_place, first_image = images[0]
        if image != first_image:
            where = first.problem(first_place, "")
            yield document.problem(place, f"{image}, but {where.file}:{where.line} has {first_image}")
        elif version is not None and image.rpartition(":")[2] != version:
            yield document.problem(place, f"{image}, but the version in pyproject.toml is {version}")


def _names_image(place: Place) -> bool:
    if place[-2:-1] == ("docker",):
        return place[-1] in ("image", "head_image", "worker_image")
    return place[-3:-2] == ("containers",) and place[-1] == "image"


def _check_dockerfile(path: Path) -> Iterator[Problem]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    bases = [(number, match) for number, line in enumerate(lines, 1) if (match := _BASE_IMAGE.match(line))]
    for number, match in bases:
        if match[1] != ray.__version__:
            message = f"Ray {match[1]}, but the project's is {ray.__version__}"
            yield Problem(file=str(path), line=number, place="FROM", message=message)
    if not bases:
        message = f"must be a Ray image, such as rayproject/ray:{ray.__version__}-py311-gpu"
        yield Problem(file=str(path), line=1, place="FROM", message=message)


def _project_version(path: Path) -> str | None:
    if not path.exists():
        return None
    try:
        return str(tomllib.loads(path.read_text(encoding="utf-8"))["project"]["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"files: {path} has no [project] version: {error}", field="files") from error


@cache
def _manifest_schemas() -> dict[str, Any]:
    text = Path(__file__).with_name("kuberay_schema.yaml").read_text(encoding="utf-8")
    schemas: dict[str, Any] = yaml.safe_load(text)
    return schemas


def _schema_problems(document: Document, schema: dict[str, Any]) -> list[Problem]:
    errors = jsonschema.Draft7Validator(schema).iter_errors(document.data)
    return [document.problem(_place_of(error), _message_of(error)) for error in errors]


def _message_of(error: jsonschema.ValidationError) -> str:
    if error.validator == "pattern":  # jsonschema would quote the regular expression
        return f"{error.instance!r} is not {error.schema['description']}"
    return str(error.message)


def _place_of(error: jsonschema.ValidationError) -> Place:
    """Return the place of an error; an unknown field is a place itself."""
    place = tuple(error.absolute_path)
    if error.validator == "additionalProperties":
        return (*place, next(key for key in error.instance if key not in error.schema.get("properties", {})))
    if "propertyNames" in error.absolute_schema_path:
        return (*place, error.instance)
    return place


def _model_problems(document: Document, model: type[BaseModel], place: Place) -> list[Problem]:
    """Check part of a document against a pydantic model, including unknown fields, which Serve ignores."""
    try:
        model.model_validate(document.get(*place) or {}, extra="forbid")
    except ValidationError as error:
        return [document.problem((*place, *problem["loc"]), problem["msg"]) for problem in error.errors()]
    return []
