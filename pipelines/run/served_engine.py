"""Engines of a running endpoint that work for a batch job, at BATCH priority."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayActorError

from deployments.engine_actor import Outcome
from zimage_models.config import EngineConfig
from zimage_models.engine.request_handle import PreviewEvent
from zimage_models.errors import EngineDead, InvalidRequest
from zimage_models.requests import ImageRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One model of a running endpoint."""

    app_name: str
    model_id: str


def find_served_model(app_name: str, wanted: EngineConfig, weights_sha256: str) -> ServedModel:
    """Find which model of an endpoint runs a job's checkpoint at its precision. Ray must be initialised.

    Args:
        app_name: the Serve application's name.
        wanted: the job's engine; its checkpoint as the endpoint's configuration names it.
        weights_sha256: hash that identifies the weights that the job was planned for.

    Raises:
        InvalidRequest: no such application, or none of its models runs the checkpoint, at that precision and
            with those weights.
    """
    from ray import serve  # takes a second to import

    from deployments.access.front_desk import FrontDesk

    if app_name not in serve.status().applications:
        raise InvalidRequest(
            f"serve_app: no Serve application {app_name!r} is running here", field="serve_app"
        )
    desk: Any = serve.get_deployment_handle(FrontDesk.__name__, app_name)
    engines: dict[str, EngineConfig] = desk.engines.remote().result()
    model = wanted.model
    precisions = {model_id: engine.precision for model_id, engine in engines.items() if engine.model == model}
    if not precisions:
        served = ", ".join(engine.model for engine in engines.values())
        raise InvalidRequest(
            f"model: {app_name!r} does not serve {model!r}; it serves {served}", field="model"
        )
    # Images of another precision would be published under IDs that say this one.
    if wanted.precision not in precisions.values():
        served = ", ".join(sorted({*precisions.values()}))
        raise InvalidRequest(
            f"precision: {app_name!r} serves {model!r} with precision {served}, not {wanted.precision}",
            field="precision",
        )
    for model_id, precision in precisions.items():
        candidate = ServedModel(app_name=app_name, model_id=model_id)
        if precision != wanted.precision:
            continue
        if _handle(candidate).weights_sha256.remote().result() == weights_sha256:
            return candidate
    raise InvalidRequest(
        f"model: {app_name!r} serves {model!r} with weights other than this job's, {weights_sha256[:12]}",
        field="model",
    )


def _handle(served: ServedModel) -> Any:
    from ray import serve

    return serve.get_deployment_handle(served.model_id, served.app_name)


class ServedEngine:
    """Generates like a job's own engine; the endpoint's replicas share the work."""

    def __init__(self, served: ServedModel) -> None:
        from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

        self._handle = _handle(served).options(stream=True)
        self._unavailable = (BackPressureError, DeploymentUnavailableError)

    async def generate(self, requests: Sequence[ImageRequest]) -> AsyncIterator[tuple[int, Outcome]]:
        """Generate many images at once, yielding each as it finishes.

        Raises:
            EngineDead: the replica that had the requests is gone; another one may be tried.
        """
        responses = self._handle.generate.remote(list(requests), wait=True)
        try:
            async for event in responses:
                if isinstance(event, tuple) and not isinstance(event[1], PreviewEvent):
                    yield event
        except (RayActorError, *self._unavailable) as error:
            raise EngineDead(f"the endpoint's replica is gone ({type(error).__name__})") from error
        finally:
            responses.cancel()
