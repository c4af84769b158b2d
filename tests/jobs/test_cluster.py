import shutil
from pathlib import Path

import pytest

from jobs import cli

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def endpoint_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy serve.yaml and the RayService, and go to their checkout."""
    (tmp_path / "deployments/kuberay").mkdir(parents=True)
    for name in ("serve.yaml", "kuberay/rayservice.yaml"):
        shutil.copy(ROOT / "deployments" / name, tmp_path / "deployments" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "deployments"


def test_zimage_cluster_check_passes_in_our_checkout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert cli.run(["cluster", "check"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "cluster.yaml: ok",
        "Dockerfile: ok",
        "deployments/serve.yaml: ok",
        "deployments/kuberay/cronjob.yaml: ok",
        "deployments/kuberay/raycluster.yaml: ok",
        "deployments/kuberay/rayjob.yaml: ok",
        "deployments/kuberay/rayservice.yaml: ok",
    ]


def test_zimage_cluster_check_says_where_and_exits_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cluster.yaml"
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    path.write_text(text.replace("cluster_name: zimage", "cluster_nam: zimage"), encoding="utf-8")
    serve_yaml = ROOT / "deployments/serve.yaml"
    assert cli.run(["cluster", "check", str(path), str(serve_yaml)]) == 2
    line = text[: text.index("cluster_name: zimage")].count("\n") + 1
    lines = capsys.readouterr().out.splitlines()
    assert f"{path}:{line}: .: 'cluster_name' is a required property" in lines
    assert any(text.startswith(f"{path}:{line}: cluster_nam: Additional properties") for text in lines)
    assert [text for text in lines if text.endswith(": ok")] == [f"{serve_yaml}: ok"]


def test_zimage_cluster_check_tells_missing_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["cluster", "check", "/no/such/cluster.yaml"]) == 2
    assert "files: /no/such/cluster.yaml is not a file" in capsys.readouterr().err


def test_zimage_cluster_check_outside_a_checkout_asks_for_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["cluster", "check"]) == 2
    assert "files: none found; run this in a checkout or name some" in capsys.readouterr().err


def test_zimage_cluster_check_needs_a_version_in_pyproject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(ROOT / "Dockerfile", tmp_path / "Dockerfile")
    (tmp_path / "pyproject.toml").write_text("[project]\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert cli.run(["cluster", "check"]) == 2
    assert "files: pyproject.toml has no [project] version" in capsys.readouterr().err


def test_zimage_cluster_sync_leaves_an_equal_ray_service_as_it_is(endpoint_files: Path) -> None:
    service = endpoint_files / "kuberay/rayservice.yaml"
    before = service.read_text(encoding="utf-8")
    assert cli.run(["cluster", "sync"]) == 0
    assert service.read_text(encoding="utf-8") == before


def test_zimage_cluster_sync_copies_serve_yaml_into_the_ray_service(
    endpoint_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = endpoint_files / "kuberay/rayservice.yaml"
    before = service.read_text(encoding="utf-8")
    config = endpoint_files / "serve.yaml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("max_replicas: 8", "max_replicas: 7"), encoding="utf-8")
    assert cli.run(["cluster", "check"]) == 2
    message = "spec.serveConfigV2: differs from deployments/serve.yaml; run `zimage cluster sync` to copy it"
    assert message in capsys.readouterr().out
    assert cli.run(["cluster", "sync"]) == 0
    assert service.read_text(encoding="utf-8") == before.replace("max_replicas: 8", "max_replicas: 7")
    assert cli.run(["cluster", "check"]) == 0
