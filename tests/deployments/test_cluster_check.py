"""The files a cluster is started from pass the check, and no planted mistake does."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from deployments.cluster_check.check import check_files
from deployments.cluster_check.documents import Problem, read_documents
from deployments.cluster_check.schedules import schedule_fault
from jobs.cluster import files_of, read_command

ROOT = Path(__file__).resolve().parents[2]
SERVICE = "deployments/kuberay/rayservice.yaml"
CLUSTER = "deployments/kuberay/raycluster.yaml"
JOB = "deployments/kuberay/rayjob.yaml"
CRON = "deployments/kuberay/cronjob.yaml"
SERVE = "deployments/serve.yaml"
LAUNCHER = "cluster.yaml"
IMAGE = "registry.example.com/zimage-ray:0.1.0"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy what the check reads of a checkout."""
    for name in ("cluster.yaml", "Dockerfile", "pyproject.toml", "constraints.txt", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, tmp_path / name)
    for room in ("jobs", "pipelines", "deployments", "zimage_models"):
        (tmp_path / room).mkdir()
    shutil.copy(ROOT / SERVE, tmp_path / SERVE)
    shutil.copytree(ROOT / "deployments/kuberay", tmp_path / "deployments/kuberay")
    return tmp_path


def checked(checkout: Path) -> list[Problem]:
    return check_files(files_of(checkout), read_command)


@dataclass(frozen=True, kw_only=True)
class Mistake:
    file: str
    old: str
    new: str
    at: str
    """Where it has to be reported."""
    says: str
    found_in: str | None = None
    """The file that has to be named, where it is another one."""


MISTAKES = {
    "gpus_that_the_instance_lacks": Mistake(
        file=LAUNCHER,
        old='{CPU: 16, GPU: 1, "accelerator_type:L40S": 1}',
        new='{CPU: 16, GPU: 2, "accelerator_type:L40S": 1}',
        at="available_node_types.l40s.resources.GPU",
        says="2 declared, but g6e.4xlarge has 1",
    ),
    "cpus_that_the_instance_lacks": Mistake(
        file=LAUNCHER,
        old="{CPU: 48, GPU: 4,",
        new="{CPU: 96, GPU: 4,",
        at="available_node_types.l40s_x4.resources.CPU",
        says="96 declared, but g6e.12xlarge has 48",
    ),
    "accelerator_that_the_instance_lacks": Mistake(
        file=LAUNCHER,
        old="      InstanceType: p5.48xlarge",
        new="      InstanceType: p4d.24xlarge",
        at="available_node_types.h100_x8.resources.accelerator_type:H100",
        says="p4d.24xlarge has A100",
        found_in=LAUNCHER,
    ),
    "fractional_gpu": Mistake(
        file=LAUNCHER,
        old="{CPU: 48, GPU: 4,",
        new="{CPU: 48, GPU: 0.5,",
        at="available_node_types.l40s_x4.resources.GPU",
        says="0.5 is not of type 'integer'",
    ),
    "head_node_type_misspelt": Mistake(
        file=LAUNCHER,
        old="head_node_type: head\n",
        new="head_node_type: haed\n",
        at="head_node_type",
        says="haed is no node type; there are: head, l40s, l40s_x4, h100_x8",
    ),
    "region_missing": Mistake(
        file=LAUNCHER,
        old="provider:\n  type: aws\n  region: us-west-2\n",
        new="provider:\n  type: aws\n",
        at="provider.region",
        says="is missing",
    ),
    "zone_of_another_region": Mistake(
        file=LAUNCHER,
        old="us-west-2a,us-west-2b,us-west-2c",
        new="us-west-2a,us-east-1b",
        at="provider.availability_zone",
        says="us-east-1b is not in region us-west-2",
    ),
    "negative_max_workers": Mistake(
        file=LAUNCHER,
        old="max_workers: 10\n",
        new="max_workers: -1\n",
        at="max_workers",
        says="-1 is less than the minimum of 0",
    ),
    "more_min_workers_than_max_workers": Mistake(
        file=LAUNCHER,
        old="    min_workers: 0\n    max_workers: 8\n",
        new="    min_workers: 11\n    max_workers: 11\n",
        at="max_workers",
        says="10 is below the sum of all min_workers, 11",
        found_in=LAUNCHER,
    ),
    "unknown_launcher_field": Mistake(
        file=LAUNCHER,
        old="idle_timeout_minutes: 10",
        new="idle_timeout: 10",
        at="idle_timeout",
        says="unknown field; known are auth, available_node_types",
    ),
    "ami_that_is_none": Mistake(
        file=LAUNCHER,
        old="ImageId: ami-00000000000000000",
        new="ImageId: ubuntu-22.04",
        at="available_node_types.head.node_config.ImageId",
        says="ubuntu-22.04 is no AMI id",
    ),
    "worker_that_looks_for_another_port": Mistake(
        file=LAUNCHER,
        old="worker_start_ray_commands:\n  - ray stop\n  - ray start --address=$RAY_HEAD_IP:6379",
        new="worker_start_ray_commands:\n  - ray stop\n  - ray start --address=$RAY_HEAD_IP:6380",
        at="worker_start_ray_commands",
        says="has no `ray start --address=$RAY_HEAD_IP:6379`",
    ),
    "head_without_autoscaler": Mistake(
        file=LAUNCHER,
        old=" --autoscaling-config=~/ray_bootstrap_config.yaml",
        new="",
        at="head_start_ray_commands",
        says="no --autoscaling-config",
        found_in=LAUNCHER,
    ),
    "label_of_another_accelerator": Mistake(
        file=LAUNCHER,
        old="labels: {ray.io/accelerator-type: H100}",
        new="labels: {ray.io/accelerator-type: H200}",
        at="available_node_types.h100_x8.labels.ray.io/accelerator-type",
        says="H200, but resources have accelerator_type:H100",
    ),
    "docker_image_without_name": Mistake(
        file=LAUNCHER,
        old="  container_name: zimage\n",
        new="  pull_before_run: true\n",
        at=".",
        says="Ray refuses it: Must provide a container & image name",
        found_in=LAUNCHER,
    ),
    "other_image_on_kubernetes": Mistake(
        file=CRON,
        old=f"image: {IMAGE}",
        new="image: registry.example.com/zimage-ray:0.2.0",
        at="spec.jobTemplate.spec.template.spec.containers.0.image",
        says="zimage-ray:0.2.0, but ",
    ),
    "accelerator_that_no_node_has": Mistake(
        file=SERVE,
        old="accelerator_type: L40S",
        new="accelerator_type: B200",
        at="applications.0.args.models.0.accelerator_type",
        says="no node of cluster.yaml has accelerator_type:B200; there are: accelerator_type:L40S",
    ),
    "accelerator_of_nodes_that_may_not_start": Mistake(
        file=SERVE,
        old="accelerator_type: L40S",
        new="accelerator_type: H100",
        at="applications.0.args.models.0.accelerator_type",
        says="of cluster.yaml only h100_x8 has accelerator_type:H100, and may have no workers",
    ),
    "replica_too_big_for_any_node": Mistake(
        file=SERVE,
        old="num_gpus: 1\n          num_cpus: 2\n          # Nodes",
        new="num_gpus: 8\n          num_cpus: 2\n          # Nodes",
        at="applications.0.args.models.0.num_gpus",
        says="z-image-turbo needs 8 GPUs and 2 CPUs on one node; "
        "the largest that cluster.yaml has for it is l40s_x4 with 4",
    ),
    "more_replicas_than_nodes": Mistake(
        file=SERVE,
        old="max_replicas: 8",
        new="max_replicas: 80",
        at="applications.0.args.models",
        says="would find no room on all nodes of cluster.yaml",
        found_in=SERVE,
    ),
    "unknown_argument_of_the_endpoint": Mistake(
        file=SERVE,
        old="            target_queue_s: 3",
        new="            target_queue: 3",
        at="applications.0.args.models.0.scaling.target_queue",
        says="Extra inputs are not permitted",
    ),
    "unknown_field_of_serve": Mistake(
        file=SERVE,
        old="  keep_alive_timeout_s: 120",
        new="  keep_alive_s: 120",
        at="http_options.keep_alive_s",
        says="unknown field; known are host, keep_alive_timeout_s",
    ),
    "other_builder": Mistake(
        file=SERVE,
        old="import_path: deployments.app:build_app",
        new="import_path: deployments.app:app",
        at="applications.0.import_path",
        says="deployments.app:app is not the endpoint's builder, deployments.app:build_app",
    ),
    "serve_cuts_off_before_the_endpoint": Mistake(
        file=SERVE,
        old="  request_timeout_s: 600",
        new="  request_timeout_s: 300",
        at="http_options.request_timeout_s",
        says="300 is not above limits.timeout_s, 300",
    ),
    "service_that_serves_something_else": Mistake(
        file=SERVICE,
        old="max_replicas: 8",
        new="max_replicas: 4",
        at="spec.serveConfigV2.applications.0.args.models.0.scaling.max_replicas",
        says="4, but ",
    ),
    "service_without_the_keys": Mistake(
        file=SERVICE,
        old="                  - {name: api-keys, mountPath: /etc/zimage, readOnly: true}",
        new="                  - {name: api-keys, mountPath: /etc/keys, readOnly: true}",
        at="spec.serveConfigV2.applications.0.args.auth.keys_file",
        says="/etc/zimage/api_keys.yaml is on no volume of spec.rayClusterConfig.workerGroupSpecs.0",
        found_in=SERVICE,
    ),
    "service_with_too_few_gpus": Mistake(
        file=SERVICE,
        old="maxReplicas: 10",
        new="maxReplicas: 6",
        at="spec.serveConfigV2.applications.0.args.models",
        says="would find no room on all nodes of RayService zimage",
        found_in=SERVICE,
    ),
    "other_ray_version": Mistake(
        file=JOB,
        old="rayVersion: 2.60.0",
        new="rayVersion: 2.59.0",
        at="spec.rayClusterSpec.rayVersion",
        says="2.59.0, but the project's Ray is 2.60.0",
    ),
    "unknown_kuberay_field": Mistake(
        file=CLUSTER,
        old="enableInTreeAutoscaling: true",
        new="enableAutoscaling: true",
        at="spec.enableAutoscaling",
        says="unknown field; known are authOptions",
    ),
    "misspelt_pod_field": Mistake(
        file=CLUSTER,
        old="nodeSelector: {node.kubernetes.io/instance-type: g6e.4xlarge}",
        new="nodeSelectors: {node.kubernetes.io/instance-type: g6e.4xlarge}",
        at="spec.workerGroupSpecs.0.template.spec.nodeSelectors",
        says="unknown field; known are activeDeadlineSeconds",
    ),
    "growing_without_autoscaler": Mistake(
        file=CLUSTER,
        old="enableInTreeAutoscaling: true",
        new="enableInTreeAutoscaling: false",
        at="spec.enableInTreeAutoscaling",
        says="must be true: group l40s is to grow to 8",
    ),
    "negative_replicas": Mistake(
        file=CLUSTER,
        old="minReplicas: 0\n      maxReplicas: 8",
        new="minReplicas: -1\n      maxReplicas: 8",
        at="spec.workerGroupSpecs.0.minReplicas",
        says="-1 is less than the minimum of 0",
    ),
    "start_params_missing": Mistake(
        file=CLUSTER,
        old="      rayStartParams: {}\n      template:\n        spec:\n          serviceAccountName: zimage\n"
        "          nodeSelector: {node.kubernetes.io/instance-type: g6e.12xlarge}",
        new="      template:\n        spec:\n          serviceAccountName: zimage\n"
        "          nodeSelector: {node.kubernetes.io/instance-type: g6e.12xlarge}",
        at="spec.workerGroupSpecs.1.rayStartParams",
        says="is missing",
        found_in=CLUSTER,
    ),
    "gpu_limit_that_contradicts": Mistake(
        file=CLUSTER,
        old="limits: {cpu: 44, memory: 320Gi, nvidia.com/gpu: 4}",
        new="limits: {cpu: 44, memory: 320Gi, nvidia.com/gpu: 2}",
        at="spec.workerGroupSpecs.1.resources.GPU",
        says="4, but the pod's limit of nvidia.com/gpu is 2",
        found_in=CLUSTER,
    ),
    "half_a_gpu_on_kubernetes": Mistake(
        file=CLUSTER,
        old="requests: {cpu: 44, memory: 320Gi, nvidia.com/gpu: 4}",
        new="requests: {cpu: 44, memory: 320Gi, nvidia.com/gpu: 0.5}",
        at="spec.workerGroupSpecs.1.template.spec.containers.0.resources.requests.nvidia.com/gpu",
        says="0.5 is not of type",
    ),
    "pod_larger_than_its_node": Mistake(
        file=CLUSTER,
        old="instance-type: g6e.12xlarge",
        new="instance-type: g6e.8xlarge",
        at="spec.workerGroupSpecs.1.template.spec.containers.0.resources.limits.nvidia.com/gpu",
        says="4 asked for, but g6e.8xlarge has 1",
        found_in=CLUSTER,
    ),
    "job_with_an_unknown_option": Mistake(
        file=JOB,
        old="--engines 1:8",
        new="--enginez 1:8",
        at="spec.entrypoint",
        says="zimage does not take it: No such option: --enginez",
        found_in=JOB,
    ),
    "job_with_more_engines_than_gpus": Mistake(
        file=JOB,
        old="--engines 1:8",
        new="--engines 1:9",
        at="spec.entrypoint",
        says="asks for up to 9 engines; RayJob zimage-catalogue has room for 8",
        found_in=JOB,
    ),
    "job_without_a_cluster": Mistake(
        file=JOB,
        old="  rayClusterSpec:\n",
        new="  clusterSelector: {ray.io/cluster: zimage}\n  rayClusterSpec:\n",
        at="spec",
        says="needs either rayClusterSpec or clusterSelector",
        found_in=JOB,
    ),
    "bad_schedule": Mistake(
        file=CRON,
        old='schedule: "0 2 * * *"',
        new='schedule: "0 25 * * *"',
        at="spec.schedule",
        says="'25' is no hour (0..23)",
    ),
    "schedule_for_no_cluster": Mistake(
        file=CRON,
        old="--address=http://zimage-head-svc:8265",
        new="--address=http://zimage-batch-head-svc:8265",
        at="spec.jobTemplate.spec.template.spec.containers.0.command",
        says="is no head of the checked RayClusters: http://zimage-head-svc:8265",
        found_in=CRON,
    ),
    "schedule_with_an_unknown_command": Mistake(
        file=CRON,
        old="                - generate\n",
        new="                - genrate\n",
        at="spec.jobTemplate.spec.template.spec.containers.0.command",
        says="zimage does not take it: genrate is no command",
        found_in=CRON,
    ),
    "schedule_with_another_token": Mistake(
        file=CRON,
        old="{name: zimage-ray-token, key: auth_token}",
        new="{name: zimage-token, key: auth_token}",
        at="spec.jobTemplate.spec.template.spec.containers.0.env",
        says="RAY_AUTH_TOKEN the key auth_token of secret zimage-ray-token",
        found_in=CRON,
    ),
    "image_of_another_python": Mistake(
        file="Dockerfile",
        old="FROM rayproject/ray:2.60.0-py311-gpu",
        new="FROM rayproject/ray:2.60.0-py310-gpu",
        at="FROM",
        says="Python 3.10, but the project is for 3.11, 3.12",
    ),
    "image_of_another_ray": Mistake(
        file="Dockerfile",
        old="FROM rayproject/ray:2.60.0-py311-gpu",
        new="FROM rayproject/ray:2.61.0-py311-gpu",
        at="FROM",
        says="Ray 2.61.0, but the project's is 2.60.0",
    ),
    "room_missing_in_the_image": Mistake(
        file="Dockerfile",
        old="COPY --chown=ray:users pipelines pipelines\n",
        new="",
        at="COPY",
        says="pipelines, a package of pyproject.toml, is not copied",
        found_in="Dockerfile",
    ),
    "source_that_is_not_there": Mistake(
        file="Dockerfile",
        old="constraints.txt LICENSE NOTICE",
        new="constraints.txt LICENCE NOTICE",
        at="COPY",
        says="LICENCE is not in",
    ),
    "key_given_twice": Mistake(
        file=SERVE,
        old="          max_queue_s: 30\n",
        new="          max_queue_s: 30\n          num_gpus: 2\n",
        at="applications.0.args.models.0.num_gpus",
        says="is given twice",
    ),
    "not_yaml": Mistake(
        file=SERVE,
        old="logging_config:\n  encoding: JSON",
        new="logging_config:\n  encoding: [JSON",
        at=".",
        says="is not YAML",
        found_in=SERVE,
    ),
}


def test_our_own_files_pass(checkout: Path) -> None:
    assert [str(problem) for problem in checked(checkout) if not problem.to_fill_in] == []


def test_what_is_left_to_fill_in_is_listed_once(checkout: Path) -> None:
    places = [(Path(problem.file).name, problem.place) for problem in checked(checkout) if problem.to_fill_in]
    assert places == [
        ("cluster.yaml", "docker.image"),
        ("cluster.yaml", "available_node_types.head.node_config.ImageId"),
        ("cronjob.yaml", "spec.jobTemplate.spec.template.spec.containers.0.command"),
        ("rayjob.yaml", "spec.entrypoint"),
    ]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_found(name: str, checkout: Path) -> None:
    mistake = MISTAKES[name]
    path = checkout / mistake.file
    text = path.read_text(encoding="utf-8")
    assert mistake.old in text, "the file no longer holds what this mistake changes"
    path.write_text(text.replace(mistake.old, mistake.new, 1), encoding="utf-8")

    problems = [problem for problem in checked(checkout) if not problem.to_fill_in]

    where = checkout / (mistake.found_in or mistake.file)
    found = [problem for problem in problems if problem.file == str(where) and problem.place == mistake.at]
    assert [problem for problem in found if mistake.says in problem.message.replace(f"{checkout}/", "")], (
        problems
    )
    if mistake.found_in is None:  # then the mistake's own lines are told
        first = text[: text.index(mistake.old)].count("\n") + 1
        assert first <= found[0].line <= first + mistake.new.count("\n")


def test_embedded_yaml_keeps_its_line(checkout: Path) -> None:
    path = checkout / SERVICE
    [service], _ = read_documents(path, SERVICE)
    [config], problems = service.embedded("spec", "serveConfigV2")
    assert problems == []
    line = config.problem(("applications", 0, "args", "models", 1, "id"), "").line
    assert path.read_text(encoding="utf-8").splitlines()[line - 1].strip() == "- id: z-image-base"


@pytest.mark.parametrize("schedule", ["0 2 * * *", "*/15 0-6,18-23 1 jan-mar mon", "@daily", "5 4 * * 1-5/2"])
def test_schedules_that_kubernetes_takes(schedule: str) -> None:
    assert schedule_fault(schedule) is None


@pytest.mark.parametrize(
    "schedule", ["", "0 2 * *", "60 2 * * *", "0 2 * * 5-1", "0 2 0 * *", "*/0 * * * *", "@often"]
)
def test_schedules_that_kubernetes_refuses(schedule: str) -> None:
    assert schedule_fault(schedule)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (LAUNCHER, "ImageId: ami-00000000000000000", "ImageId: 1"),
        (LAUNCHER, "available_node_types:\n", "available_node_types: 0.5\nothers:\n"),
        (SERVE, "  request_timeout_s: 600", '  request_timeout_s: ""'),
        (JOB, "    workerGroupSpecs:\n", "    workerGroupSpecs: -1\n    others:\n"),
        (JOB, "        containers:\n", "        containers: true\n        others:\n"),
        (CRON, "schedule:", "schedules:"),
    ],
)
def test_values_of_the_wrong_kind_are_problems_not_crashes(
    file: str, old: str, new: str, checkout: Path
) -> None:
    path = checkout / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert str(path) in {problem.file for problem in checked(checkout) if not problem.to_fill_in}
