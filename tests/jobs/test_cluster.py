from pathlib import Path

import pytest

from jobs import cli

ROOT = Path(__file__).resolve().parents[2]


def test_zimage_cluster_check_passes_in_our_checkout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert cli.run(["cluster", "check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.removesuffix(": ok") for line in lines if line.endswith(": ok")] == [
        "cluster.yaml",
        "Dockerfile",
        "deployments/serve.yaml",
        "deployments/kuberay/cronjob.yaml",
        "deployments/kuberay/raycluster.yaml",
        "deployments/kuberay/rayjob.yaml",
        "deployments/kuberay/rayservice.yaml",
    ]


def test_zimage_cluster_check_says_where_and_exits_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cluster.yaml"
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    path.write_text(text.replace("cluster_name: zimage", "cluster_nam: zimage"), encoding="utf-8")
    assert cli.run(["cluster", "check", str(path)]) == 2
    line = text[: text.index("cluster_name: zimage")].count("\n") + 1
    output = capsys.readouterr().out
    assert f"{path}:{line}: cluster_nam: unknown field" in output
    assert f"{path}: ok" not in output


def test_zimage_cluster_check_tells_missing_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["cluster", "check", "/no/such/cluster.yaml"]) == 2
    assert "files: /no/such/cluster.yaml is not a file" in capsys.readouterr().err


def test_zimage_cluster_sync_copies_serve_yaml_into_the_ray_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deployments/kuberay").mkdir(parents=True)
    for name in ("serve.yaml", "kuberay/rayservice.yaml"):
        text = (ROOT / "deployments" / name).read_text(encoding="utf-8")
        (tmp_path / "deployments" / name).write_text(text, encoding="utf-8")
    service = tmp_path / "deployments/kuberay/rayservice.yaml"
    before = service.read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert cli.run(["cluster", "sync"]) == 0
    assert service.read_text(encoding="utf-8") == before

    config = tmp_path / "deployments/serve.yaml"
    config.write_text(
        config.read_text(encoding="utf-8").replace("max_replicas: 8", "max_replicas: 7"), encoding="utf-8"
    )
    assert cli.run(["cluster", "check"]) == 2
    assert "8, but deployments/serve.yaml has 7: `zimage cluster sync` copies it" in capsys.readouterr().out
    assert cli.run(["cluster", "sync"]) == 0
    assert service.read_text(encoding="utf-8") == before.replace("max_replicas: 8", "max_replicas: 7")
    assert cli.run(["cluster", "check"]) == 0
