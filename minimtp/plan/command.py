"""What `minimtp plan` does with its options."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import structs

from minimtp.errors import UserError
from minimtp.files import FileKind, check_file, check_folder, write_text
from minimtp.plan import report as text
from minimtp.plan.candidates import Candidate, candidates
from minimtp.plan.costs.sizes import Hardware, hardware, model
from minimtp.plan.planning import make_plan
from minimtp.plan.plot import draw_plan
from minimtp.plan.settings import Settings
from minimtp.records import check_value

FILE_NAME, FILE_NAME_OF_COMPARISON = "plan.json", "compare.json"
MODEL, HARDWARE = "8b", "h100"
PLAN = FileKind("a plan", begins=b'{"title":', contains=b'"advice":')
# A measured run decodes one request at a time, unless --batch says otherwise.
MEASURED_SETTINGS = {"max_batch": 1, "swept_to": 16, "max_devices": 1}
Report = Callable[[str], None]


def plan(
    run: str | None,
    model_name: str | None,
    hardware_name: str | None,
    given: dict[str, object],
    hardware_values: dict[str, float],
    *,
    out: str | Path | None = None,
    as_json: bool = False,
    report: Report = print,
) -> dict[str, object]:
    """Make a plan, report it, and return it as JSON values. With `out`, a folder, also save it.

    given: fields of `Settings`. hardware_values: keys of the hardware to replace. Raises UserError
    if something cannot be used.
    """
    if out is not None:
        check_folder(out)
        check_file(Path(out, FILE_NAME), PLAN)
    if run is not None:
        if model_name is not None or hardware_name is not None:
            raise UserError("give a measured run, or --model and --hardware, not both")
        found, device, title, lengths = _measured(run)
        device = _overridden(device, hardware_values)
        settings = Settings(**MEASURED_SETTINGS | lengths | given)
        subject = title
    else:
        settings = Settings(**given)
        size = model(MODEL if model_name is None else model_name)
        device = hardware(HARDWARE if hardware_name is None else hardware_name)
        device = _overridden(device, hardware_values)
        found = candidates(size, device, settings)
        subject = f"{size.title}, {size.parameters / 1e9:.3g} billion parameters"
        title = f"{size.title} on {device.title}"
    made = make_plan(found, device, settings)
    assumptions = text.assumptions_of(settings, device, subject, is_measured=run is not None)
    result = text.as_json(made, title, assumptions)
    if as_json:
        report(json.dumps(result, indent=2))
    else:
        text.print_plan(made, title, assumptions, settings, report)
    if out is not None:
        write_text(Path(out, FILE_NAME), json.dumps(result, indent=2) + "\n", PLAN)
        draw_plan(made, title, Path(out))
    return result


def _measured(run: str) -> tuple[list[Candidate], Hardware, str, dict[str, int]]:
    """Return the configurations of a comparison, or of a run, which is measured."""
    path = Path(run)
    if path.suffix.lower() == ".json" or (path / FILE_NAME_OF_COMPARISON).exists():
        from minimtp.plan.measured import from_comparison

        return from_comparison(path)
    from minimtp.plan.measure_run import from_run

    return from_run(path)


def claims(as_json: bool, report: Report) -> None:
    """Judge the public claims."""
    from minimtp.plan.evidence import claims

    judged = claims.judge_all()
    report(
        json.dumps([c.to_dict() for c in judged], indent=2) if as_json else claims.in_words(judged)
    )


def published(as_json: bool, report: Report) -> None:
    """Compare with published numbers."""
    from minimtp.plan.evidence import published

    report(json.dumps(published.as_json(), indent=2) if as_json else published.in_words())


def validate(paths: Sequence[str], as_json: bool, report: Report) -> None:
    """Compare with the measurements in compare.json files."""
    from minimtp.plan.evidence import compared, validation

    rows = validation.validate(paths)
    report(
        json.dumps([r.to_dict() for r in rows], indent=2) if as_json else compared.in_words(rows)
    )


def _overridden(device: Hardware, values: dict[str, float]) -> Hardware:
    """Return the hardware with these keys replaced. Raises UserError if one is out of range."""
    for name, value in values.items():
        changed = structs.asdict(device) | {name: value}
        device = check_value(
            changed, Hardware, f"--{name.replace('_', '-')}", "give another number"
        )
    return device
