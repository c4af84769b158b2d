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
            attributes = {"status": "status_code", "request_id": "request_id"}
            error_of = {name: getattr(error, attribute, None) for name, attribute in attributes.items()}
            said = {"error": {**error_of, "message": str(error)}}
        print(json.dumps({"case": name, **said}), flush=True)
