"""Errors as OpenAI's clients expect them: the error object, the status, and whether to retry."""

import math
from collections.abc import Mapping
from http import HTTPStatus

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from deployments.errors import (
    IdempotencyKeyReused,
    ImageGone,
    NoReplica,
    RateLimited,
    ShuttingDown,
    Unauthorized,
    UnknownImage,
    UnknownModel,
)
from deployments.http.client_fields import unknown_field
from deployments.http.openai_types import ErrorBody, ErrorDetail
from zimage_models.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineOverloaded,
    InvalidRequest,
    ZImageError,
)
from zimage_models.request_fields import in_outer_names

# openai-python 3.54 _base_client.py: clients retry a 5xx twice unless this header forbids it, and each retry
# would cost the engine a whole image. They also retry a 409.
NO_RETRY = {"x-should-retry": "false"}
_CODES = {400: "invalid_body", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
_OVERLOADED = {NoReplica: "no_replica", ShuttingDown: "shutting_down"}
_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    409: "conflict_error",
    410: "not_found_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """An error answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        default_type = "server_error" if status >= 500 else "invalid_request_error"
        self.detail = ErrorDetail(
            message=message, type=_TYPES.get(status, default_type), param=param, code=code
        )

    def body(self) -> ErrorBody:
        """Return the body of the answer."""
        return ErrorBody(error=self.detail)

    def response(self) -> JSONResponse:
        """Return the answer."""
        return JSONResponse(self.body().model_dump(), status_code=self.status, headers=self.headers)


def retry_after(seconds: float) -> dict[str, str]:
    """Return the headers that say after how many seconds to try again.

    OpenAI's clients read the milliseconds first; ``Retry-After`` is a whole number of at least 1.
    """
    return {
        "Retry-After": str(max(1, math.ceil(seconds))),
        "retry-after-ms": str(max(1, math.ceil(1000 * seconds))),
    }


def api_error(error: ZImageError) -> ApiError:
    """Translate an error of this project; only this function maps errors to HTTP status codes."""
    if isinstance(error, UnknownModel):
        return ApiError(404, str(error), param=error.field, code="model_not_found")
    if isinstance(error, UnknownImage):
        return ApiError(404, str(error), code="image_not_found")
    if isinstance(error, ImageGone):
        return ApiError(410, str(error), code="image_gone")
    if isinstance(error, IdempotencyKeyReused):
        return ApiError(409, str(error), param=error.field, code="idempotency_key_reused", headers=NO_RETRY)
    if isinstance(error, InvalidRequest):
        # The HTTP API may name the engine's field differently.
        field = error.field and in_outer_names(error.field)
        return ApiError(400, in_outer_names(str(error)), param=field, code="invalid_value")
    if isinstance(error, Unauthorized):
        headers = {"WWW-Authenticate": "Bearer"}
        return ApiError(401, str(error), code="invalid_api_key", headers=headers)
    if isinstance(error, RateLimited):
        headers = retry_after(error.retry_after_s)
        return ApiError(429, str(error), code="rate_limit_exceeded", headers=headers)
    if isinstance(error, EngineOverloaded):
        # No work was done, so clients may retry.
        code = _OVERLOADED.get(type(error), "engine_overloaded")
        return ApiError(503, str(error), code=code, headers=retry_after(error.retry_after_s))
    if isinstance(error, DeadlineExceeded):
        return ApiError(504, str(error), code="deadline_exceeded", headers=NO_RETRY)
    if isinstance(error, Cancelled):
        return ApiError(503, str(error), code="cancelled", headers=retry_after(1))
    return failed(str(error), code=error.error_class)


def failed(message: str, *, code: str) -> ApiError:
    """Return an internal failure that clients must not retry automatically, as that would repeat the work."""
    return ApiError(500, message, code=code, headers=NO_RETRY)


def validation_error(error: RequestValidationError) -> ApiError:
    """Translate FastAPI's validation error: report its first problem with field, value and limit."""
    problem = error.errors()[0]
    if isinstance(problem["input"], bytes):  # FastAPI does not parse a body that is not declared as JSON
        return unsupported_media_type("is not application/json")
    # The first item is where it was found: body, path or header.
    field = ".".join(_name(item) for item in problem["loc"][1:]) or None
    if problem["type"] == "extra_forbidden":
        message, code = unknown_field(str(field)), "unknown_parameter"
    elif problem["type"] == "missing":
        message, code = f"{field or 'body'}: missing", "missing_required_parameter"
    elif problem["type"] == "json_invalid":
        message, code, field = "body: not valid JSON", "invalid_json", None
    else:
        message, code = (
            f"{field or 'body'}: {problem['msg']} (given: {_shown(problem['input'])})",
            "invalid_value",
        )
    return ApiError(400, message, param=field, code=code)


def _name(item: str | int) -> str:
    # A client's field name may be long and may not be valid Unicode.
    return str(item)[:64].encode("utf-8", "replace").decode()


def _shown(value: object) -> str:
    # Long and nested values are not repeated, so that prompts stay out of logs and consoles.
    text = repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
    return text if len(text) <= 60 else f"{type(value).__name__} of {len(text)} characters"


def unsupported_media_type(problem: str) -> ApiError:
    """Return the error for a body's media type."""
    return ApiError(415, f"Content-Type: {problem}", param="Content-Type", code="unsupported_media_type")


def http_error(status: int, detail: str | None, headers: Mapping[str, str] | None = None) -> ApiError:
    """Return a plain HTTP error, such as that of an unknown route."""
    message = detail or HTTPStatus(status).phrase
    if status == 405 and headers:
        message = f"{message}: use {headers['Allow']}"
    if status == 400:  # from a framework that could not read the body
        message = f"body: {message}"
    return ApiError(status, message, code=_CODES.get(status), headers=headers)
