"""The pages of an archive of evidence, as the bytes of its files but for manifest and signature."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from securepfl.privacy.accounting.gaussian import epsilon_of
from securepfl.report.epsilon import epsilon_text
from securepfl.report.evidence import verify_evidence
from securepfl.report.evidence.cards import card_of, released_title
from securepfl.report.evidence.case import Case
from securepfl.report.evidence.headings import headings_page
from securepfl.report.evidence.markdown import plain, table
from securepfl.report.evidence.verify_evidence import HEADING, words
from securepfl.report.ledger import rounds_of
from securepfl.report.who_learns_what import MORE, PARTIES, who_learns, words_of

SCRIPT: Final = "verify_evidence.py"


def script_bytes() -> bytes:
    """The script that checks an archive, as it is shipped."""
    return Path(verify_evidence.__file__).read_bytes()


def files_of(case: Case) -> dict[str, bytes]:
    """Every file of the archive by name."""
    files: dict[str, str | bytes] = {
        "README.md": _readme(case),
        "threats.md": _threats(case),
        "ledger.md": _ledger(case),
        "headings.md": headings_page(tuple(_lacks(case))),
        "settings.json": case.federation.canonical,
        "ledger.jsonl": case.ledger,
        SCRIPT: script_bytes(),
        **{f"models/{one.line}.md": card_of(case, one) for one in case.released},
    }
    for name, held in (("audit.json", case.audit), ("metrics.json", case.metrics)):
        if held is not None:
            files[name] = json.dumps(held, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    return {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}


def _readme(case: Case) -> str:
    parts = {
        "What an attacker can gain": _gain(case),
        "Unit and adjacency": _unit(case),
        "The run": _run(case),
        "Consent that was withdrawn": _withdrawn(case),
        "Models and numbers that left the hospital": _released(case),
        "The audit": _audit(case),
        "What was not shown": _not_shown(case),
        "How to check this": _how_to_check(case),
        "Files": _files(case),
    }
    return (
        HEADING
        + words(dict(case.told))
        + "".join(f"\n## {heading}\n\n" + "\n".join(lines) + "\n" for heading, lines in parts.items())
    )


def _gain(case: Case) -> Iterator[str]:
    told = case.told
    unit, (epsilon, delta) = told["unit"], told["holds"]
    sure = 1 / (1 + math.exp(-epsilon))
    yield (
        f"Think of somebody who knows every other {unit} of this data set, the settings and the code, and sees all "
        f"that ever left. One thing they don't know: whether one {unit}'s data were in, or zeros in their place. The "
        "first paragraph says how often they guess that right, whatever they compute. 0.5 is a coin."
    )
    yield ""
    yield (
        f"- **epsilon** {epsilon:.6g}: whatever comes out is at most e^epsilon = {math.exp(min(epsilon, 700)):.4g} "
        f"times as likely with the {unit} as without, or the reverse, up to delta."
    )
    yield (
        f"- **delta** {delta:g} is what that comparison leaves over: the chance of any set of outcomes is at most "
        "e^epsilon times the other chance, plus delta. It is not the chance that epsilon fails, nor that data leak. "
        "But of outcomes that are rarer than delta, nothing is promised: a mechanism that published one record with "
        "chance delta would do. The noise here is on every sum, and no outcome shows anything for certain."
    )
    if told["mu"] is not None:
        mu = told["mu"]
        beyond = math.erfc((epsilon / mu - mu / 2) / math.sqrt(2)) / 2
        right = math.ceil(5e3 * math.erfc(-mu / math.sqrt(8))) / 1e4
        yield (
            f"- **The noise says more.** All releases were Gaussian sums over all {unit}s. They come to one that moves "
            f"by {mu:.4g} standard deviations of its noise. So they guess right with probability "
            f"{right:.4f} at most. That they come to be surer than {sure:.4g} that the {unit} is in, when that is so, "
            f"has probability {beyond:.2g}."
        )
    units = case.federation.sites[case.site].units
    if units is not None:
        yield f"- {units} {unit}s are declared, so {unit}s x delta = {units * delta:.2g}. It should be far below 1."


def _unit(case: Case) -> Iterator[str]:
    told, summary, unit = case.told, case.summary, case.told["unit"]
    yield f"- Unit: one {unit}. " + (
        "All records of a patient count as one." if unit == "patient" else "A patient with several records loses more."
    )
    yield f"- Adjacency: zero-out. One {unit}'s data are compared with zeros in their place; the number is declared."
    replaced = summary.epsilon_replace_one
    if told["mu"] is not None:
        replaced = epsilon_of(2 * told["mu"], told["budget"]["delta"])
    yield f"- To tell which of two {unit}s was in (replace-one) it is epsilon {epsilon_text(replaced, '.6g')}."
    yield (
        f"- Where a hospital has more {unit}s than it declares, that is also what tells whether one was there at all: "
        "another would have taken the place."
    )
    yield f"- Budget: epsilon {told['budget']['epsilon']:g} at delta {told['budget']['delta']:g}, over all runs."
    yield from (f"- {plain(caveat)}" for caveat in case.caveats)


def _run(case: Case) -> Iterator[str]:
    federation, privacy = case.federation, case.federation.privacy
    noisy = [spend for spend in case.summary.rounds if spend.run == case.run]
    yield f"- Federation: {plain(federation.name)}, {len(federation.roster)} hospitals, {federation.rounds} rounds."
    yield f"- This run is `{case.run}` in the ledger: {len(noisy)} releases of data set {plain(case.summary.data_set)}."
    yield f"- Settings: settings.json, SHA-256 `{federation.digest.hex()}`, as the ledger's session line has it."
    whose = "noise that hospitals share" if federation.shares_noise else "Gaussian noise of the hospital's own"
    yield f"- Every step clips each {privacy.unit}'s gradient to {privacy.clip:g}, and adds {whose}; see ledger.md."
    scheme, masks = federation.encryption.scheme, "with masks" if federation.masked else "without masks"
    sums = "not encrypted" if not federation.scheme.encrypted else f'encrypted ("{scheme}"), {masks}'
    yield f"- Sums: {sums}."
    yield f"- Versions: {', '.join(f'{plain(name)} {plain(its)}' for name, its in sorted(case.versions.items()))}."


def _withdrawn(case: Case) -> Iterator[str]:
    found = case.summary.withdrawals
    if not found:
        yield "The ledger holds no withdrawal."
        return
    yield table(
        ("line", "time", f"{case.told['unit']}s", "releases before it", "models before it"),
        [[str(o.line), o.time, str(o.units), str(o.rounds), str(o.released)] for o in found],
    )
    yield ""
    yield "Nobody is named. What was released before cannot be taken back, and the spend stays as it was."
    yield "From that line on this hospital's software refuses to train on those records."


def _released(case: Case) -> Iterator[str]:
    if not case.released:
        yield "None in this run. Sums of updates went to the other hospitals, round by round: ledger.md counts them."
        return
    rows = [[f"[{one.line}](models/{one.line}.md)", released_title(one), one.time] for one in case.released]
    yield table(("ledger line, card", "what", "left"), rows)


def _audit(case: Case) -> Iterator[str]:
    if case.audit is None:
        yield "None was filed. `securepfl audit attack --json` makes a report, and `evidence --audit FILE` takes it in."
        return
    if case.audit["accused"]:
        yield "**By the audit this build is less private than it claims.** Find out why before anything leaves."
        yield ""
    yield f"{plain(case.audit['sentence'])}"
    yield ""
    yield "audit.json has the whole report: of a rehearsal with made-up records, not of the rounds that were sent."


def _not_shown(case: Case) -> Iterator[str]:
    told = case.told
    if told["simulation"]:
        yield "- **That any hospital took part.** One process made all parties, and signed this with keys made for it."
    if told["seeded"]:
        yield "- **Any privacy.** The noise was seeded and can be made again."
    yield "- That the ledger is whole. Lines cut off at its end show only against what others saw: `--heads`."
    yield "- That the hospital trained by this code, on the data that it says, and added the noise that its lines name."
    if case.federation.data is None:
        yield (
            "- What the hospital's own pipeline does with records before they train: how it reads, scales and picks "
            "them. Whatever it fits on patients is a release that no ledger counts."
        )
    yield "- What others learned outside these releases: from papers, other software, or people."
    yield "- That nobody was hurt, that the data were collected lawfully, or that consent was given."
    if told["reduced"]:
        yield f"- That {told['reduced']} rounds released less than they reserved: that is the hospital's word."
    if case.snapshot:
        yield "- What was spent after this run: the ledger here is the snapshot of its end."
    if case.audit is None:
        yield "- That the noise is what the code says: no audit was filed."
    if case.purpose is None:
        yield "- What the models are for: no purpose was declared."
    yield "- How good the models are. Metrics are private, but for those that the cards name."
    yield (
        f"- What a {told['unit']} loses where the same person is at another hospital too, or in another data set of "
        "this one: each has a ledger of its own, and what they say adds up."
    )


def _lacks(case: Case) -> Iterator[str]:
    """What headings.md points to, and is not there."""
    if not case.released:
        yield "**No model left in this run, so there is no models/**: where a row names it, write that part yourself."
    if case.audit is None:
        yield "**No audit was filed, so there is no audit.json**: `securepfl evidence --audit FILE` takes one in."


def _how_to_check(case: Case) -> Iterator[str]:
    yield "Take verify_evidence.py from where securepfl is published, not from here, and the hospital's key by phone:"
    yield ""
    yield "    python -I verify_evidence.py ARCHIVE --key KEY --heads HEADS"
    yield ""
    yield (
        "It checks the signatures, every file's hash, the ledger's chain, that the first paragraph above is what the "
        "ledger's lines come to, that the settings are the ledger's and that each released model has a card. "
        "Of full-batch Gaussian sums it computes epsilon itself; of others "
        "it finds gross lies, and `securepfl audit verify ledger.jsonl --key KEY` computes every line. All else on "
        "these pages is the hospital's word, under its signature."
    )


def _files(case: Case) -> Iterator[str]:
    rows = [
        ["ledger.jsonl", "the budget ledger, as it is"],
        ["ledger.md", "each release in it, for people"],
        ["settings.json", "all settings, in the bytes that the digest is of; budgets are left out"],
        ["threats.md", "who could learn what under these settings"],
        ["headings.md", "where things stand for a DPIA, the AI Act's Annex IV and NIST SP 800-226"],
        *([["models/", "a card for each model that left, by its line in the ledger"]] if case.released else []),
        *([["audit.json", "the report of the attack on a rehearsal"]] if case.audit is not None else []),
        *([["metrics.json", "metrics that were released with noise"]] if case.metrics is not None else []),
        ["manifest.json, signature.json", "every file's hash, and the hospital's signature over them"],
        [SCRIPT, "a copy of the script that checks all this"],
    ]
    yield table(("file", "what"), rows)


def _threats(case: Case) -> str:
    federation, seeded = case.federation, bool(case.told["seeded"])
    rows = [[row.thing, *row.cells] for row in who_learns(federation, seeded=seeded)]
    simulated = "All parties ran in one process, whose owner sees everything. Between machines of their own it is:\n\n"
    return (
        "# Who could learn what, as this run was set\n\n"
        + simulated * bool(case.told["simulation"])
        + table(("", *PARTIES), rows)
        + f"\n\n{words_of(federation, seeded=seeded)} {MORE}\n"
    )


def _ledger(case: Case) -> str:
    summary, told = case.summary, case.told
    lines = [
        "# What the ledger says",
        "",
        f"{summary.lines} lines hold: form, order, hash chain, signatures, and each epsilon was computed again.",
        f"Head: `{summary.head}`. Signed by: {', '.join(f'`{key}`' for key in dict.fromkeys(told['keys']))}.",
        "",
        table(("time", "run", "round", "released", "", "epsilon after"), map(_round, rounds_of(summary))),
    ]
    return "\n".join(lines) + "\n"


def _round(one: dict[str, Any]) -> list[str]:
    settled = "" if one["settled"] else "interrupted: counts in full"
    return [
        one["time"],
        f"`{plain(one['run'])}`",
        str(one["round"]),
        plain(one["released"]),
        settled,
        f"{one['epsilon']:.4f}",
    ]
