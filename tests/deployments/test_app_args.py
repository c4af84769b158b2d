from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from deployments import app_args
from deployments.app_args import AppArgs
from jobs import cli

SERVE_YAML = Path(app_args.__file__).with_name("serve.yaml")


def test_serve_yaml_is_what_serve_and_the_app_take() -> None:
    content = yaml.safe_load(SERVE_YAML.read_text(encoding="utf-8"))
    [application] = ServeDeploySchema.model_validate(content).applications
    args = AppArgs.model_validate(application.args)
    assert [model.id for model in args.models] == ["z-image-turbo", "z-image-base"]
    assert [model.engine_config().compile for model in args.models] == [None, None]


def test_the_default_is_the_embedded_turbo() -> None:
    [model] = AppArgs().models
    assert (model.id, model.engine_config().model) == ("z-image-turbo", "tiny-zimage-turbo")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"modells": []}, "modells"),
        ({"models": []}, "models"),
        ({"models": [{"id": "a", "colour": 1}]}, "colour"),
        (
            {"models": [{"id": "a b"}]},
            r"models.0.id\n  Value error, not up to 63 letters, digits, '.', '_' and '-' ",
        ),
        ({"models": [{"id": "a"}, {"id": "a"}]}, "'a' is given 2 times"),
        ({"models": [{"id": "a", "engine": {"speed": 1}}]}, "speed: unknown option"),
        ({"models": [{"id": "a", "engine": {"max_queued": "many"}}]}, "max_queued"),
        ({"models": [{"id": "a", "engine": {"model": "b"}}]}, "model: unknown option"),
        ({"models": [{"id": "a", "scaling": {"min_replicas": 3, "max_replicas": 2}}]}, "2 is below"),
        ({"limits": {"timeout_s": 0}}, "timeout_s"),
        (
            {"object_store": {"address": "/tmp/x"}},
            "address\n  Value error, not an address such as s3://bucket/prefix",
        ),
        ({"object_store": {"address": "s3:///x"}}, "not an address such as s3://bucket/prefix"),
        ({"cors_origins": ["https://shop.example/"]}, "not an origin as browsers send it"),
        ({"cors_origins": ["https://Shop.example"]}, "not an origin as browsers send it"),
        ({"cors_origins": ["shop.example"]}, "not an origin as browsers send it"),
        ({"root_path": "images"}, "not a path such as /images"),
        ({"root_path": "/images/"}, "not a path such as /images"),
        ({"root_path": "/v1/images"}, "not in /v1, where the endpoint's own routes are"),
        ({"aliases": {"a b": "z-image-turbo"}}, "not up to 128 letters, digits"),
        ({"public_url": "images.example"}, "not an address such as https://images.example/x"),
        ({"image_urls": "perhaps"}, "image_urls"),
        ({"aliases": {"a b": "z-image-turbo"}}, "aliases"),
        ({"aliases": {"gpt-image-1": "none"}}, "'gpt-image-1' is for 'none', but models are z-image-turbo"),
        ({"aliases": {"z-image-turbo": "z-image-turbo"}}, "'z-image-turbo' is a model's own id"),
        ({"local_urls": {}, "object_store": {"address": "s3://bucket"}}, "local_urls: has no effect"),
        ({"local_urls": {"max_bytes": 1}}, "max_bytes"),
        ({"public_url": "example.com"}, "public_url"),
        ({"public_url": "https://images.example"}, "public_url: has no effect without local_urls"),
    ],
)
def test_wrong_options_are_told(args: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        AppArgs.model_validate(args)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--config", "/no/such/file.yaml"], "config: /no/such/file.yaml"),
        (["--replicas", "two"], "replicas: 'two'"),
        (["--replicas", "3:1"], "zimage: error: replicas: 1, the maximum of 3:1, is below 3\n"),
        (["--replicas", "0"], "zimage: error: replicas: 0, the maximum of 0, is below 1\n"),
        (["--drain-timeout", "soon"], "drain_timeout: 'soon' is not a duration"),
        (["--alias", "gpt-image-1"], "alias: 'gpt-image-1' is not of the form NAME=ID"),
        (["--alias", "gpt-image-1=flux"], "'gpt-image-1' is for 'flux', but models are z-image-turbo"),
        (["--model", "a=x", "--model", "a=y"], "'a' is given 2 times"),
        (["--model", "a b=x"], "models.0.id: not up to 63 letters, digits, '.', '_' and '-'"),
        (["--precision", "int8"], "precision: 'int8' is not one of auto, bf16, fp8"),
        (["--root-path", "images/"], "root_path: not a path such as /images"),
        (["--memory", "2gb"], "memory: '2gb' is not one of resident, 16gb, 8gb, 4gb"),
        (["--memory", "8gb", "--tp", "2"], "memory: '8gb' is for one device, but the engine has 2 ranks"),
    ],
)
def test_zimage_serve_tells_bad_usage(
    flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["serve", *flags]) == 2
    assert told in capsys.readouterr().err


def test_an_error_in_the_only_item_of_a_list_is_told_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text("models: [{id: a, engine: {speed: 1}}]")
    assert cli.run(["serve", "--config", str(config)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "models.0.engine: speed: unknown option" in line
