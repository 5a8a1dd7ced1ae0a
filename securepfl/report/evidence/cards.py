"""A card for each model or number that left a hospital: what it is for, from which data, how private, its limits."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from securepfl.report.epsilon import epsilon_text
from securepfl.report.evidence.case import Case, Released
from securepfl.report.evidence.markdown import plain

_KINDS: Final = {
    "personal": "this hospital's own model",
    "shared": "the model that all hospitals share",
    "finetuned": "the shared model, fine-tuned on this hospital's data",
    "cluster": "the mean of this hospital's neighbours' models",
    "prior": "how common the outcome is here, with noise (numbers, no model)",
}


def card_of(case: Case, one: Released) -> str:
    """The card in Markdown. Nothing on it is computed from a patient's data but what the ledger counts."""
    parts = {
        f"Released: {_KINDS.get(one.kind, plain(one.kind))}": _about(case, one),
        "Purpose": _purpose(case),
        "Data": _data(case),
        "Privacy": _privacy(one),
        "Metrics that may be released": _metrics(case),
        "Limits": _limits(case, one),
    }
    (title, first), *rest = parts.items()
    pages = [f"# {title}", *first, *(f"\n## {heading}\n\n" + "\n".join(lines) for heading, lines in rest)]
    return pages[0] + "\n\n" + "\n".join(pages[1:]) + "\n"


def released_title(one: Released) -> str:
    """What it is, in a few words of Markdown."""
    return _KINDS.get(one.kind, plain(one.kind))


def _about(case: Case, one: Released) -> Iterator[str]:
    federation = case.federation
    yield f"- Hospital: {plain(case.site)}. Federation: {plain(federation.name)}. Run: `{case.run}`."
    yield f"- Stands in line {one.line} of ledger.jsonl, of {one.time}."
    task, shape = plain(federation.model.task or case.task), federation.shape
    size = "" if shape is None else f", {shape.shared + shape.personal:,} parameters ({shape.personal:,} personal)"
    yield f"- Task: {task}. Network: {federation.model.kind}{size}."
    if members := one.details.get("hospitals"):
        yield f"- Of the hospitals {', '.join(map(plain, members))}."
    if one.file is None:
        yield "- File: none in the run's folder. Ask the hospital for it, and for its SHA-256."
    else:
        yield f"- File: `{plain(one.file)}`, SHA-256 `{one.sha256}`, signed by the keys of fingerprint {one.signer}."


def _purpose(case: Case) -> Iterator[str]:
    if case.purpose is None:
        yield "Not declared. A model may not be used before somebody says for what: `securepfl evidence --purpose`."
    else:
        yield f"{plain(case.purpose)} (the hospital's words)"


def _data(case: Case) -> Iterator[str]:
    federation, data = case.federation, case.federation.data
    units = federation.sites[case.site].units
    told = "no number declared" if units is None else f"{units} declared (public; the true number is private)"
    yield f"- Units that train here: {federation.privacy.unit}s, {told}. {len(federation.roster)} hospitals take part."
    if data is None:
        yield "- Outcome and inputs: **not known**. The hospital's own pipeline read them; these settings declare none."
        return
    yield f"- Outcome: {_label(data)}."
    if data.get("kind") == "images":
        yield f"- Inputs: images of {' x '.join(map(str, data.get('size', ())))} pixels."
    else:
        named = [*data.get("ranges", {}), *data.get("categories", {})]
        yield f"- Inputs: {', '.join(map(plain, named))}; ranges and categories are in settings.json."
    if (prevalence := data.get("prevalence")) is not None:
        yield f"- Declared share of the outcome: {plain(prevalence)}."
    yield "- Declared ranges come from public knowledge; nothing was fitted on patients' data for free."


def _label(data: Mapping[str, Any]) -> str:
    label = data.get("label")
    if label is None:
        return "a mask that outlines a structure"
    return ", ".join(map(plain, label)) if isinstance(label, list | tuple) else plain(label)


def _privacy(one: Released) -> Iterator[str]:
    of, delta = one.details.get("epsilon"), one.details.get("delta")
    yield (
        f"- When it left, all releases of this hospital's data had come to epsilon {epsilon_text(of, '.6g')} at "
        f"delta {delta}, for one {plain(one.details.get('unit'))}. Later releases add to that: README.md has the sum."
    )
    yield "- The model itself cost nothing more: it is computed from what was released."


def _metrics(case: Case) -> Iterator[str]:
    if case.metrics is None:
        yield "None. What was measured is an exact function of patients' data; it stays at the hospital."
    else:
        yield "Those in metrics.json, released with noise over all hospitals together and counted in the ledger."
        yield "Everything else that was measured is an exact function of patients' data and stays at the hospital."


def _limits(case: Case, one: Released) -> Iterator[str]:
    if case.told["simulation"]:
        yield "- **Made in a simulation**: all hospitals ran in one process."
    yield "- Trained with noise: single answers vary with it, and rare groups are learned worse than common ones."
    yield "- Not tried outside the hospitals that trained it, unless somebody did so and says how it went."
    if case.federation.data is None:
        yield "- For which patients and inputs it was made stands in the pipeline's own code, and not here."
    else:
        yield "- Outside the declared ranges inputs are cut off; it says nothing of patients unlike those declared."
    yield "- It is no medical device, and nobody has approved it for care."
    if one.kind == "personal":
        yield "- Fitted to this hospital's patients: at another one it may do worse than the shared model."
