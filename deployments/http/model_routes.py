"""``/v1/models``, ``/health``, ``/ready`` and ``/metrics``."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from fastapi.responses import JSONResponse, PlainTextResponse

from deployments.access.callers import Callers
from deployments.app_args import AppArgs, LimitArgs
from deployments.capabilities import capabilities
from deployments.http.drain_gate import OpenRequests
from deployments.http.openai_types import Health, Model, ModelList, error_responses
from deployments.image_service import ImageService
from deployments.metrics import gathered_metrics
from zimage_models.image_files.image_codec import MIME_TYPES
from zimage_models.image_files.image_inputs import ImageLimits
from zimage_models.model_spec import ModelSpec
from zimage_models.step_schedules import SCHEDULED_MODES


def model_router(
    args: AppArgs, service: ImageService, callers: Callers, open_requests: OpenRequests
) -> APIRouter:
    """Return the routes that list models and report health and metrics."""
    router = APIRouter()
    of_all = _of_all_models(args.limits)
    needs_key = [Depends(callers.identify)]

    async def describe(name: str) -> Model:
        model_id = service.choose(name)
        spec = await service.known_spec(model_id)
        alias_of = None if name == model_id else model_id
        return Model(id=name, alias_of=alias_of, **of_all, **(_limits(spec) if spec else {}))

    @router.get("/v1/models", dependencies=needs_key, responses=error_responses(401))
    async def list_models() -> ModelList:
        """List the models and their aliases; a model's limits are known once it has run."""
        return ModelList(data=[await describe(name) for name in service.names])

    @router.get(
        "/v1/models/{model_id:path}", dependencies=needs_key, responses=error_responses(400, 401, 404)
    )
    async def retrieve_model(model_id: Annotated[str, Path(max_length=256)]) -> Model:
        """Describe one model."""
        return await describe(model_id)

    @router.get("/health")
    async def health() -> Health:
        """Report that the HTTP server is alive."""
        return Health(status="ok")

    @router.get("/ready", responses={503: {"model": Health, "description": "Starting, or shutting down."}})
    async def ready() -> JSONResponse:
        """Report whether requests are taken, and every model that should be running has a warm replica."""
        num_running = await service.num_running()
        states = {
            model.id: "ready"
            if num_running[model.id]
            else ("starting" if model.scaling.min_replicas else "cold")
            for model in args.models
        }
        status = "starting" if "starting" in states.values() else "ok"
        if open_requests.draining:
            status = "draining"
        body = Health.model_validate({"status": status, "models": states})
        return JSONResponse(body.model_dump(), status_code=200 if status == "ok" else 503)

    # Not of the API that clients see: it is for the operator's Prometheus.
    @router.get("/metrics", dependencies=needs_key, include_in_schema=False)
    async def metrics() -> PlainTextResponse:
        """Return the endpoint's metrics from all nodes."""
        return PlainTextResponse(await gathered_metrics(), media_type="text/plain; version=0.0.4")

    return router


def _of_all_models(limits: LimitArgs) -> dict[str, Any]:
    return {
        "created": int(time.time()),
        "image_types": [MIME_TYPES[name] for name in ImageLimits().formats],
        **limits.model_dump(include={"max_image_bytes", "max_image_pixels", "max_body_bytes"}),
    }


def _limits(spec: ModelSpec) -> dict[str, Any]:
    variant = spec.variant
    return {
        "capabilities": capabilities(spec),
        "max_reference_images": variant.max_reference_images,
        "default_size": f"{spec.default_width}x{spec.default_height}",
        "recommended_sizes": [f"{width}x{height}" for width, height in spec.trained_sizes.best],
        "max_side": spec.max_side,
        "max_pixels": variant.max_pixels,
        "size_multiple": spec.size_multiple,
        "default_num_inference_steps": spec.default_num_inference_steps,
        "default_guidance_scale": spec.default_guidance_scale,
        "max_guidance_scale": variant.max_guidance_scale,
        "quality_modes": {mode: spec.step_schedules.num_steps for mode in SCHEDULED_MODES},
        "max_prompt_tokens": spec.max_prompt_tokens,
    }
