"""Your own figures in place of the table's: results of our benchmarks, or a file written by hand."""

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from pipelines.capacity.accelerators import ACCELERATORS, CPU_CORE, MACHINES, Accelerator, Evidence, Machine
from pipelines.capacity.image_work import ImageKind, image_work
from pipelines.capacity.model_shape import RELEASED_SHAPE, read_model_shape
from zimage_models.errors import InvalidRequest
from zimage_models.model_spec import KNOWN_MODELS

_TINY_PROMPT_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityTable:
    """All known accelerators and machines."""

    accelerators: Mapping[str, Accelerator] = field(default_factory=lambda: ACCELERATORS)
    machines: Mapping[str, Machine] = field(default_factory=lambda: MACHINES)

    def accelerator(self, name: str) -> Accelerator:
        """Return an accelerator by its name.

        Raises:
            InvalidRequest: it is not in the table.
        """
        if name not in self.accelerators:
            known = ", ".join(self.accelerators)
            raise InvalidRequest(
                f"accelerator: {name!r} is not in the table ({known}); give its figures with --measured",
                field="accelerator",
            )
        return self.accelerators[name]


def read_table(measured: Sequence[str]) -> CapacityTable:
    """Return the table with the entries of some files put in; the last file wins.

    A file is a result of ``benchmarks.gpu.gpu_latency`` or ``benchmarks.pipeline_overhead``, or JSON or YAML
    with ``accelerators`` (name: fields of :class:`Accelerator`) and ``machines`` (instance type: fields of
    :class:`Machine`); omitted fields keep the table's values.

    Raises:
        InvalidRequest: a file can't be read, or a field is unknown or not above 0.
    """
    table = CapacityTable()
    for path in measured:
        content = _read(path)
        if "cases" in content:
            table = _with_gpu_latency(table, path, content)
        elif "bare_images_per_s" in content:
            table = _with_cpu_speed(table, path, content)
        elif content.keys() & {"accelerators", "machines"}:
            table = _with_entries(table, path, content)
        else:
            raise InvalidRequest(
                f"measured: {path} has none of cases, bare_images_per_s, accelerators, machines",
                field="measured",
            )
    return table


def _read(path: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidRequest(f"measured: {path} cannot be read ({error})", field="measured") from error
    if not isinstance(content, dict):
        raise InvalidRequest(f"measured: {path} is not a mapping", field="measured")
    return content


def _with_gpu_latency(table: CapacityTable, path: str, content: dict[str, Any]) -> CapacityTable:
    """Take the best speed of a full step batch at the largest size measured."""
    device = str(content["device"])
    name = _accelerator_name(table, device)
    if name is None:
        raise InvalidRequest(
            f"measured: {path} was measured on {device!r}, which is not in the table; give its figures under "
            "accelerators",
            field="measured",
        )
    tflops = []
    for case in content["cases"]:
        width, height = map(int, case["size"].split("x"))
        kind = ImageKind(
            height=height,
            width=width,
            num_inference_steps=content["num_inference_steps"],
            is_guided=False,
            prompt_tokens=content["caption_tokens"],
        )
        flops = image_work(RELEASED_SHAPE, kind).flops
        tflops.append((width * height, case["images_per_s"]["engine"] * flops / 1e12))
    largest = max(area for area, _ in tflops)
    speed = max(value for area, value in tflops if area == largest)
    return _replaced(table, name, path, sustained_tflops=speed)


def _with_cpu_speed(table: CapacityTable, path: str, content: dict[str, Any]) -> CapacityTable:
    directory = KNOWN_MODELS["tiny-zimage-turbo"].directory
    assert directory is not None
    kind = ImageKind(
        height=64, width=64, num_inference_steps=8, is_guided=False, prompt_tokens=_TINY_PROMPT_TOKENS
    )
    flops = image_work(read_model_shape(directory), kind).flops
    cores = content["engines"] * content["threads_per_engine"]
    per_core = statistics.median(content["bare_images_per_s"]) / cores
    return _replaced(table, CPU_CORE, path, sustained_tflops=per_core * flops / 1e12)


def _accelerator_name(table: CapacityTable, device: str) -> str | None:
    """Find the entry for a device such as "NVIDIA H100 80GB HBM3": the most specific that fits."""
    # Drivers write the memory as 80GB, Ray's names as 80G.
    words = {word.replace("GB", "G") for word in re.split(r"[\s-]+", device.upper())}
    fitting = [name for name in table.accelerators if words.issuperset(name.upper().split("-"))]
    return max(fitting, key=len) if fitting else None


def _replaced(table: CapacityTable, name: str, path: str, **values: Any) -> CapacityTable:
    entry = replace(
        table.accelerators[name], evidence=Evidence.MEASURED, speed_source=f"measured: {path}", **values
    )
    return replace(table, accelerators={**table.accelerators, name: entry})


def _with_entries(table: CapacityTable, path: str, content: dict[str, Any]) -> CapacityTable:
    unknown = content.keys() - {"accelerators", "machines"}
    if unknown:
        raise InvalidRequest(f"measured: {path}: {min(unknown)} is unknown", field="measured")
    accelerators, machines = dict(table.accelerators), dict(table.machines)
    for name, values in (content.get("accelerators") or {}).items():
        known = {"name": name, "evidence": Evidence.MEASURED, "speed_source": f"measured: {path}"}
        accelerators[name] = _entry(Accelerator, path, name, accelerators.get(name), values, known)
    for name, values in (content.get("machines") or {}).items():
        known = {"instance_type": name, "price_source": path}
        machines[name] = _entry(Machine, path, name, machines.get(name), values, known)
    return CapacityTable(accelerators=accelerators, machines=machines)


def _entry(cls: Any, path: str, name: str, before: Any, values: Any, known: dict[str, Any]) -> Any:
    where = f"measured: {path}: {name}"
    if not isinstance(values, dict):
        raise InvalidRequest(f"{where} is {values!r}, not a mapping of fields", field="measured")
    types = {item.name: item.type for item in fields(cls)}
    for key, value in values.items():
        if key not in types:
            raise InvalidRequest(f"{where}: {key} is unknown; known are {', '.join(types)}", field="measured")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if types[key] is not str and not (is_number and value > 0) and key != "evidence":
            raise InvalidRequest(f"{where}: {key} is {value!r}, not a number above 0", field="measured")
    if "evidence" in values and values["evidence"] not in list(Evidence):
        raise InvalidRequest(
            f"{where}: evidence is {values['evidence']!r}, not one of {', '.join(Evidence)}", field="measured"
        )
    values = {**known, **values}
    if "evidence" in values:
        values["evidence"] = Evidence(values["evidence"])
    if before is not None:
        if cls is Accelerator and "sustained_tflops" not in values:
            values.pop("evidence"), values.pop("speed_source")
        return replace(before, **values)
    try:
        return cls(**values)
    except TypeError as error:
        raise InvalidRequest(f"{where}: {str(error).partition('() ')[2]}", field="measured") from error
