"""What each client program tells the tests: a line of JSON per case."""

import json
from collections.abc import Callable
from typing import Any

Cases = dict[str, Callable[[], dict[str, Any]]]


def tell(cases: Cases) -> None:
    for name, run in cases.items():
        try:
            said = run()
        except Exception as error:
            said = {"error": {"status": getattr(error, "status_code", None), "message": str(error)}}
        print(json.dumps({"case": name, **said}), flush=True)
