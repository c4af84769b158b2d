from deployments.engine_actor import PHASES, EngineActor
from zimage_models.config import EngineConfig


def test_a_start_goes_through_its_phases() -> None:
    seen: list[str] = []
    EngineActor(EngineConfig(fake=True), on_phase=seen.append).close()
    assert seen == list(PHASES)
