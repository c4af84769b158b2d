from prometheus_client.parser import text_string_to_metric_families

from deployments.metrics import merged_metrics

NODE = """\
# HELP python_info Python platform information
# TYPE python_info gauge
python_info{{version="3.11"}} 1.0
# HELP ray_zimage_images_total Images made.{others}
# TYPE ray_zimage_images_total counter
ray_zimage_images_total{{model="a",WorkerId="{node}"}} {num}
ray_zimage_images_total{{model="b",WorkerId="{node}"}} {num}
# HELP ray_serve_deployment_replica_healthy Whether it is.
# TYPE ray_serve_deployment_replica_healthy gauge
ray_serve_deployment_replica_healthy{{replica="{node}"}} 1.0
# HELP ray_zimage_queue_seconds Wait before the first step.
# TYPE ray_zimage_queue_seconds histogram
ray_zimage_queue_seconds_bucket{{le="+Inf",WorkerId="{node}"}} {num}
ray_zimage_queue_seconds_count{{WorkerId="{node}"}} {num}
ray_zimage_queue_seconds_sum{{WorkerId="{node}"}} 0.5
# HELP ray_zimage_{node} Only on this node.
# TYPE ray_zimage_{node} gauge
ray_zimage_{node} {num}
"""


def test_metrics_of_nodes_are_joined_by_name() -> None:
    silent = "# no metrics of the node at 10.0.0.3: TimeoutError\n"
    first, second = (NODE.format(node=node, num=num, others=node) for node, num in (("x", 1.0), ("y", 2.0)))
    text = merged_metrics([first, silent, second])
    assert silent in text
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# HELP")]
    assert len(set(names)) == len(names)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert sorted(families) == [
        "ray_serve_deployment_replica_healthy",
        "ray_zimage_images",
        "ray_zimage_queue_seconds",
        "ray_zimage_x",
        "ray_zimage_y",
    ]
    assert [sample.value for sample in families["ray_zimage_images"].samples] == [1.0, 1.0, 2.0, 2.0]
    assert len(families["ray_zimage_queue_seconds"].samples) == 6


def test_metrics_of_no_node_are_empty() -> None:
    assert merged_metrics([]) == ""
