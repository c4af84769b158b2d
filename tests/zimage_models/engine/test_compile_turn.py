"""Of the engines on a machine that would compile the same, one does, and the others wait for it."""

import threading
from pathlib import Path

import pytest
import torch

from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.config import EngineConfig
from zimage_models.engine.compile_turn import compile_turn
from zimage_models.models import compilation


def test_others_wait_while_one_compiles_and_then_load_together(tmp_path: Path) -> None:
    forms = tmp_path / "forms.compiled"
    happened: list[str] = []

    def load() -> None:
        with compile_turn(forms), compile_turn(forms):
            happened.append("loaded")

    other = threading.Thread(target=load)
    with compile_turn(forms):
        other.start()
        other.join(0.2)  # it would load now if it did not wait
        happened.append("compiled")
    other.join(60)
    assert happened == ["compiled", "loaded"]


def test_the_next_one_compiles_what_a_failed_one_did_not(tmp_path: Path) -> None:
    forms = tmp_path / "forms.compiled"
    with pytest.raises(RuntimeError), compile_turn(forms):
        raise RuntimeError
    assert not forms.exists()
    with compile_turn(forms):
        assert not forms.exists()
    assert forms.exists()


def test_what_is_compiled_is_kept_where_something_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "_problem", lambda _: None)
    a_file = tmp_path / "file"
    a_file.touch()
    for cache_dir, is_there in ((tmp_path, True), (a_file, False)):
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
        config = EngineConfig(compile=True, cache_dir=str(cache_dir))
        assert compilation.compiles(config, torch.device("cpu"))
        forms = compilation.compiled_forms(config, resolve_model(config), torch.device("cpu"))
        assert forms.parent.is_dir()
        assert (forms.parent == tmp_path / "compiled") is is_there
