"""The files that a cluster is started from pass the check, and a planted mistake does not."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray

from deployments.cluster_check.check import check_files
from deployments.cluster_check.documents import Problem

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = "cluster.yaml"
SERVE = "deployments/serve.yaml"
CLUSTER = "deployments/kuberay/raycluster.yaml"
JOB = "deployments/kuberay/rayjob.yaml"
SERVICE = "deployments/kuberay/rayservice.yaml"
CRON = "deployments/kuberay/cronjob.yaml"
FILES = (LAUNCHER, "Dockerfile", SERVE, CLUSTER, JOB, SERVICE, CRON)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy what the check reads of a checkout."""
    (tmp_path / "deployments/kuberay").mkdir(parents=True)
    for name in (*FILES, "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def checked(checkout: Path) -> list[Problem]:
    return check_files([checkout / name for name in FILES])


def replace(path: Path, old: str, new: str) -> int:
    """Replace the first of some text; return its line."""
    text = path.read_text(encoding="utf-8")
    assert old in text, "the file no longer holds what this test changes"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return text[: text.index(old)].count("\n") + 1


@dataclass(frozen=True, kw_only=True)
class Mistake:
    file: str
    old: str
    new: str
    at: str
    """The place that has to be reported."""
    says: str
    lines_on: int = 0
    """How many lines below the first changed one it is reported."""


MISTAKES = {
    # cluster.yaml: Ray's schema
    "unknown_launcher_field": Mistake(
        file=LAUNCHER,
        old="idle_timeout_minutes: 10",
        new="idle_timeout: 10",
        at="idle_timeout",
        says="Additional properties are not allowed",
    ),
    "fractional_gpu": Mistake(
        file=LAUNCHER,
        old="{CPU: 48, GPU: 4,",
        new="{CPU: 48, GPU: 0.5,",
        at="available_node_types.l40s_x4.resources.GPU",
        says="0.5 is not of type 'integer'",
    ),
    # KubeRay manifests
    "unknown_kuberay_field": Mistake(
        file=CLUSTER,
        old="enableInTreeAutoscaling: true",
        new="enableAutoscaling: true",
        at="spec.enableAutoscaling",
        says="Additional properties are not allowed",
    ),
    "unknown_pod_field": Mistake(
        file=CLUSTER,
        old="nodeSelector: {",
        new="nodeSelectors: {",
        at="spec.workerGroupSpecs.0.template.spec.nodeSelectors",
        says="'nodeSelectors' is not one of",
    ),
    "missing_kuberay_field": Mistake(
        file=CLUSTER,
        old="    - groupName: l40s\n      replicas: 0\n",
        new="    - replicas: 0\n",
        at="spec.workerGroupSpecs.0",
        says="'groupName' is a required property",
    ),
    "cron_job_without_schedule": Mistake(
        file=CRON,
        old="schedule:",
        new="schedules:",
        at="spec.schedules",
        says="Additional properties are not allowed",
    ),
    "unknown_kind_of_manifest": Mistake(
        file=JOB,
        old="kind: RayJob",
        new="kind: RayJobs",
        at="kind",
        says="RayJobs cannot be checked; these can: RayCluster,",
    ),
    "number_that_is_no_quantity": Mistake(
        file=CLUSTER,
        old="limits: {cpu: 8, memory: 28Gi}",
        new="limits: {cpu: 8, memory: 28 GB}",
        at="spec.headGroupSpec.template.spec.containers.0.resources.limits.memory",
        says="'28 GB' is not a quantity such as 2, 500m or 28Gi",
    ),
    # Serve
    "unknown_field_of_serve": Mistake(
        file=SERVE,
        old="  keep_alive_timeout_s: 120",
        new="  keep_alive_s: 120",
        at="http_options.keep_alive_s",
        says="Extra inputs are not permitted",
    ),
    "unknown_argument_of_the_endpoint": Mistake(
        file=SERVE,
        old="            target_queue_s: 3",
        new="            target_queue: 3",
        at="applications.0.args.models.0.scaling.target_queue",
        says="Extra inputs are not permitted",
    ),
    "other_builder": Mistake(
        file=SERVE,
        old="import_path: deployments.app:build_app",
        new="import_path: deployments.app:app",
        at="applications.0.import_path",
        says="deployments.app:app is not the endpoint's builder, deployments.app:build_app",
    ),
    "unknown_field_of_serve_in_the_service": Mistake(
        file=SERVICE,
        old="keep_alive_timeout_s: 120",
        new="keep_alive_s: 120",
        at="spec.serveConfigV2.http_options.keep_alive_s",
        says="Extra inputs are not permitted",
    ),
    "unknown_argument_in_the_service": Mistake(
        file=SERVICE,
        old="max_queue_s: 30",
        new="max_queue: 30",
        at="spec.serveConfigV2.applications.0.args.models.0.max_queue",
        says="Extra inputs are not permitted",
    ),
    "service_that_serves_something_else": Mistake(
        file=SERVICE,
        old="serveConfigV2: |\n    # The online endpoint",
        new="serveConfigV2: |\n    grpc_options: {port: 9001}\n    # The online endpoint",
        at="spec.serveConfigV2",
        says="differs from ",
    ),
    # One image, one version of it, one Ray
    "other_image_in_a_manifest": Mistake(
        file=CRON,
        old="/zimage-ray:",
        new="/zimage:",
        at="spec.jobTemplate.spec.template.spec.containers.0.image",
        says="registry.example.com/zimage:",
    ),
    "other_image_of_workers": Mistake(
        file=LAUNCHER,
        old="  container_name: zimage\n",
        new="  container_name: zimage\n  worker_image: rayproject/ray:latest\n",
        at="docker.worker_image",
        says="rayproject/ray:latest, but ",
        lines_on=1,
    ),
    "other_ray_in_a_manifest": Mistake(
        file=JOB,
        old="rayVersion: ",
        new="rayVersion: 1",
        at="spec.rayClusterSpec.rayVersion",
        says=f"1{ray.__version__}, but the project's Ray is {ray.__version__}",
    ),
    "other_ray_in_the_image": Mistake(
        file="Dockerfile",
        old="FROM rayproject/ray:",
        new="FROM rayproject/ray:1",
        at="FROM",
        says=f"Ray 1{ray.__version__}, but the project's is {ray.__version__}",
    ),
    # What can't be read
    "key_given_twice": Mistake(
        file=SERVE,
        old="          max_queue_s: 30\n",
        new="          max_queue_s: 30\n          num_gpus: 2\n",
        at=".",
        says="is not valid YAML: num_gpus is given twice",
        lines_on=1,
    ),
    "key_given_twice_in_the_service": Mistake(
        file=SERVICE,
        old="              max_queue_s: 30\n",
        new="              max_queue_s: 30\n              num_gpus: 2\n",
        at="spec.serveConfigV2",
        says="is not valid YAML: num_gpus is given twice",
        lines_on=1,
    ),
    "not_yaml": Mistake(
        file=SERVE,
        old="  encoding: JSON\n",
        new="  encoding: JSON: text\n",
        at=".",
        says="is not valid YAML: mapping values are not allowed here",
    ),
}


def test_our_own_files_pass(checkout: Path) -> None:
    assert checked(checkout) == []


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_reported_with_its_line(name: str, checkout: Path) -> None:
    mistake = MISTAKES[name]
    path = checkout / mistake.file
    line = replace(path, mistake.old, mistake.new) + mistake.lines_on
    problems = [str(problem) for problem in checked(checkout)]
    start = f"{path}:{line}: {mistake.at}: {mistake.says}"
    assert [problem for problem in problems if problem.startswith(start)], problems


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("head_node_type: head\n", "head_node_type: haed\n", "`head_node_type` must be one of"),
        ("  container_name: zimage\n", "", "Must provide a container & image name"),
        (
            "    min_workers: 0\n    max_workers: 8\n",
            "    min_workers: 11\n    max_workers: 11\n",
            "smaller than",
        ),
        ("available_node_types:\n", "available_node_types:\n  1: {resources: {}, node_config: {}}\n", ""),
    ],
)
def test_what_ray_itself_refuses_is_reported(old: str, new: str, says: str, checkout: Path) -> None:
    replace(checkout / LAUNCHER, old, new)
    [problem] = checked(checkout)
    assert problem.place == "."
    assert problem.message.startswith("Ray refuses it: ")
    assert says in problem.message


def test_every_image_must_have_the_version_of_the_project(checkout: Path) -> None:
    replace(checkout / "pyproject.toml", 'version = "', 'version = "9')
    problems = checked(checkout)
    assert {Path(problem.file).name for problem in problems} == {
        Path(name).name for name in FILES if name not in ("Dockerfile", SERVE)
    }
    assert all("the version in pyproject.toml is 9" in problem.message for problem in problems)


def test_base_image_must_be_one_of_ray(checkout: Path) -> None:
    replace(checkout / "Dockerfile", "FROM rayproject/ray:", "FROM python:")
    [problem] = checked(checkout)
    assert problem.message.startswith("must be a Ray image")


def test_ray_service_may_be_checked_alone(checkout: Path) -> None:
    assert check_files([checkout / SERVICE]) == []


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- list\n", "text", "services: {}\n"])
def test_file_of_no_known_kind_is_reported(text: str, tmp_path: Path) -> None:
    path = tmp_path / "compose.yaml"
    path.write_text(text, encoding="utf-8")
    [problem] = check_files([path])
    message = "is not a cluster launcher file, a Serve configuration or a Kubernetes manifest"
    assert (problem.line, problem.place, problem.message) == (1, ".", message)


def test_second_document_of_a_file_is_checked(checkout: Path) -> None:
    path = checkout / CLUSTER
    text = path.read_text(encoding="utf-8")
    path.write_text(f"{text}---\nkind: Typo\napiVersion: ray.io/v1\n---\n", encoding="utf-8")
    [problem] = checked(checkout)
    assert (problem.line, problem.place) == (text.count("\n") + 2, "kind")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (LAUNCHER, "cluster_name: zimage", "cluster_name: 2026-13-01"),
        (LAUNCHER, "available_node_types:\n", "available_node_types: 0.5\nothers:\n"),
        (SERVE, "  request_timeout_s: 600", '  request_timeout_s: ""'),
        (SERVE, "    args:\n", "    args: []\n    others:\n"),
        (JOB, "    workerGroupSpecs:\n", "    workerGroupSpecs: -1\n    others:\n"),
        (JOB, "        containers:\n", "        containers: true\n        others:\n"),
        (SERVICE, "  serveConfigV2: |\n", "  serveConfigV2: 1\n  others: |\n"),
        (SERVICE, "  serveConfigV2: |\n", '  serveConfigV2: ""\n  others: |\n'),
    ],
)
def test_values_of_the_wrong_kind_are_problems_not_crashes(
    file: str, old: str, new: str, checkout: Path
) -> None:
    replace(checkout / file, old, new)
    assert str(checkout / file) in {problem.file for problem in checked(checkout)}
