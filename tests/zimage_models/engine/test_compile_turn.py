"""Of the engines on a machine that would compile the same, one does, and the others wait for it."""

import threading
from pathlib import Path

import pytest

from zimage_models.engine.compile_turn import compile_turn


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
