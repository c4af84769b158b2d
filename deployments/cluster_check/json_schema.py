"""Documents against JSON schemas."""

from collections.abc import Iterator
from typing import Any

from jsonschema import Draft7Validator  # type: ignore[import-untyped]
from jsonschema.exceptions import ValidationError, best_match  # type: ignore[import-untyped]

from deployments.cluster_check.documents import Document, Place, Problem


def schema_problems(document: Document, schema: dict[str, Any]) -> list[Problem]:
    """Return every place where a document is not what the schema asks for."""
    errors = sorted(
        Draft7Validator(schema).iter_errors(document.data), key=lambda error: list(map(str, error.path))
    )
    return [document.problem(place, message) for error in errors for place, message in _messages(error)]


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a pydantic model with unknown fields as errors."""

    def close(part: Any) -> Any:
        if isinstance(part, list):
            return [close(item) for item in part]
        if not isinstance(part, dict):
            return part
        part = {key: close(value) for key, value in part.items()}
        if part.get("type") == "object" and "properties" in part:
            part.setdefault("additionalProperties", False)
        return part

    result: dict[str, Any] = close(schema)
    return result


def _messages(error: ValidationError) -> Iterator[tuple[Place, str]]:
    place = tuple(error.absolute_path)
    if error.validator in ("anyOf", "oneOf") and error.context:
        yield from _messages(best_match(error.context))
    elif error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = sorted(error.schema.get("properties", {}))
        for name in error.instance.keys() - set(known):
            yield (*place, name), f"unknown field; known are {', '.join(known)}"
    elif "propertyNames" in error.absolute_schema_path:
        yield (*place, error.instance), f"unknown field; known are {', '.join(error.validator_value)}"
    elif error.validator == "required":
        for name in error.validator_value:
            if name not in error.instance:
                yield (*place, name), "is missing"
    else:
        yield place, error.message
