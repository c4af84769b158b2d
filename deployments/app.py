"""The online endpoint as one Serve application: ``serve run deployments.app:build_app`` or ``serve.yaml``."""

from dataclasses import replace
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from deployments.access.front_desk import FrontDesk
from deployments.app_args import AppArgs, ModelArgs
from deployments.http.ingress import Ingress
from deployments.model_server import ModelServer

_MAX_ONGOING = 4096
"""Calls in one replica, including batch work; the limit that matters is the engine's own queue."""
_DRAIN_MARGIN_S = 10.0
_SUPERVISION: dict[str, Any] = {
    # Serve's own choice, 10 s, is how long a dead replica may still be sent requests.
    "health_check_period_s": 2.0,
    # How often a replica that stops looks whether its last requests are done, first after as long.
    "graceful_shutdown_wait_loop_s": 0.2,
}


def build_app(args: AppArgs) -> Application:
    """Build the endpoint: one deployment per model, the front desk and the HTTP ingress.

    Serve reads ``args`` from YAML or ``key=value`` pairs and checks them against :class:`AppArgs`.
    """
    # A replica that is stopped has time to finish the requests it has accepted.
    drain_s = args.limits.timeout_s + _DRAIN_MARGIN_S
    front: dict[str, Any] = {"label_selector": args.ingress.node_labels} if args.ingress.node_labels else {}
    desk = serve.deployment(
        ray_actor_options={"num_cpus": 0, **front}, max_ongoing_requests=100_000, **_SUPERVISION
    )(FrontDesk).bind(args, max_run_s=2 * drain_s)
    models = {model.id: _model(model, args, drain_s, desk) for model in args.models}
    ingress = serve.deployment(
        num_replicas=args.ingress.num_replicas,
        ray_actor_options={"num_cpus": args.ingress.num_cpus, **front},
        max_ongoing_requests=args.ingress.max_ongoing_requests,
        graceful_shutdown_timeout_s=drain_s,
        **_SUPERVISION,
    )(serve.ingress()(Ingress))
    return ingress.bind(args, models, desk)


def _model(model: ModelArgs, args: AppArgs, drain_s: float, desk: Application) -> Application:
    scaling = model.scaling
    deployment = serve.deployment(
        name=model.id,
        **_placement(model),
        max_ongoing_requests=_MAX_ONGOING,
        max_queued_requests=args.limits.max_waiting,
        graceful_shutdown_timeout_s=drain_s,
        **_SUPERVISION,
        autoscaling_config=AutoscalingConfig(
            min_replicas=scaling.min_replicas,
            max_replicas=scaling.max_replicas,
            initial_replicas=scaling.min_replicas,
            upscale_delay_s=scaling.upscale_delay_s,
            downscale_delay_s=scaling.downscale_delay_s,
            look_back_period_s=scaling.look_back_s,
            policy=AutoscalingPolicy(  # type: ignore[no-untyped-call]
                policy_function="deployments.queue_seconds_policy:QueueSecondsPolicy",
                policy_kwargs={"target_queue_s": scaling.target_queue_s},
            ),
        ),
    )(ModelServer)
    return deployment.bind(
        model.id,
        model.engine_config(),
        max_queue_s=model.max_queue_s,
        placed_ranks=model.tensor_parallel_placement == "any_nodes",
        desk=desk,
    )


def _placement(model: ModelArgs) -> dict[str, Any]:
    """Return what a replica reserves: resources on one node, or one bundle per rank, its own first."""
    resources = model.resources()
    if model.tensor_parallel_placement == "one_node":
        return {"ray_actor_options": resources.actor_options()}
    rank = replace(resources, num_ranks=1)
    return {
        # The bundles' label selector chooses the nodes.
        "ray_actor_options": replace(rank, node_labels={}).actor_options(),
        "placement_group_bundles": [rank.bundle()] * resources.num_ranks,
        "placement_group_bundle_label_selector": [dict(rank.node_labels)] if rank.node_labels else None,
    }
