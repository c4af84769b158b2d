"""Compile a transformer's repeated blocks."""

from typing import Any

from torch._dynamo import config as dynamo_config

# Compiled forms of the transformer's block: with or without modulation, one image or more, one length or any.
_MAX_COMPILED_FORMS = 32


def compile_blocks(transformer: Any, *, backend: str = "inductor") -> None:
    """Compile a transformer's repeated blocks; ``warm_up`` then compiles the usual shapes."""
    # Past this limit, a compiled block raises instead of running slowly.
    dynamo_config.recompile_limit = max(dynamo_config.recompile_limit, _MAX_COMPILED_FORMS)
    transformer.compile_repeated_blocks(fullgraph=True, backend=backend)
