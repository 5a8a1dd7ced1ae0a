"""What a page says of a run: from its files, with what they lack left out or said."""

import json
import math
import re
import shutil
from dataclasses import replace

import pytest
from msgspec import structs

from securepfl.report.epsilon import guess_text
from securepfl.report.evidence.verify_evidence import words
from securepfl.report.pages.blocks import Table
from securepfl.report.pages.ledgers import checked_ledgers, ledgers_section
from securepfl.report.pages.page import read_page
from securepfl.report.pages.reading import Privacy, read_any
from securepfl.report.pages.rounds import rounds_section
from securepfl.report.pages.sentences import verdict_of
from securepfl.report.who_learns_what import who_learns
from securepfl.settings.federation import Federation


@pytest.fixture
def changed(tables, tmp_path):
    """Gives the folder of a copy of the run whose result.json was changed by a function."""

    def folder_of(change):
        folder = tmp_path / "run"
        shutil.copytree(tables, folder)
        result = json.loads((folder / "result.json").read_text())
        change(result)
        (folder / "result.json").write_text(json.dumps(result))
        return folder

    return folder_of


def told(folder, part):
    return {sentence.asks: sentence.answer for sentence in verdict_of(read_any(folder), {})}[part]


def titles(page):
    return [section.title for section in page.sections]


def test_a_run_has_every_section_and_a_note_each_once(tables):
    page = read_page([tables])
    assert titles(page) == [
        "What each hospital gets", "ROC and calibration", "Over the rounds", "Privacy spent", "Who could learn what",
        "Who is like whom", "Bytes and seconds", "Ledgers", "Settings and versions"
    ]  # fmt: skip
    notes = page.verdicts[0].notes
    assert len(notes.forbids) == 1 and "not for publication" in notes.forbids[0]
    assert any("gradients by record" in note for note in notes.detail)
    everything = [*notes.forbids, *notes.limits, *notes.detail]
    assert len(set(everything)) == len(everything) == len(json.loads((tables / "result.json").read_text())["notes"])


def test_the_verdict_follows_the_gain(changed):
    def win(result):
        result["verdict"][0] |= {"holds": True, "gain": 0.1, "interval": [0.05, 0.15]}
        for place, site in enumerate(result["sites"].values()):
            held = place == 0 or None
            site["gains"]["local"] = {"value": 0.1, "interval": [0.01 if held else -0.1, 0.2], "holds": held}

    first = told(changed(win), "Did training together pay?")
    assert first.startswith("Yes: ") and "+0.100 (95 % interval +0.050 to +0.150)" in first
    assert "; better at " in first and "can't be told at" in first


def one_model(result):
    """A run in which nothing was personal, as FedAvg: both models are one."""
    result["federation"]["shape"]["personal"] = 0
    for site in result["sites"].values():
        for part in ("metrics", "intervals"):
            site[part]["personalised"] = site[part]["shared"]


def alone(result):
    """One hospital's own result."""
    result |= {"site": "Mainz", "sites": {"Mainz": result["sites"]["Mainz"]}, "communication": None, "rounds": 4}
    for name in ("mean", "within", "pooled", "verdict", "curves"):
        result[name] = type(result[name])()
    for name in ("mean", "within", "pooled"):
        del result["intervals"][name]


def test_where_nothing_is_personal_the_page_speaks_of_the_shared_model(changed):
    folder = changed(lambda result: (one_model(result), alone(result)))
    page = read_page([folder])
    answer = told(folder, "Is the model of use here?")
    assert re.match(r"(Yes|No|Not shown): on \d+ test records the shared model has a balanced accuracy of", answer)
    assert "answer of the commoner class" in answer and "so it is this hospital's model too" in answer
    table = page.sections[0].blocks[1]
    assert table.headings[2] == "shared" and "personalised" not in " ".join(table.headings)
    assert not any("personalised" in str(verdict.sentences) for verdict in page.verdicts)


def test_a_run_of_one_model_is_compared_with_models_trained_alone(changed):
    answer = told(changed(one_model), "Did training together pay?")
    assert (
        " the shared model reaches a balanced accuracy of" in answer and "trained alone at the same epsilon" in answer
    )


def test_what_hospitals_keep_of_one_model_is_named_alike_on_both_pages(changed):
    """A level of their own, from a declared prevalence, was called a threshold here and a personalised model there."""

    def keep(result):
        result["federation"]["shape"]["personal"] = 0
        result["federation"]["trajectory"] = {"of": "mixture", "alpha": 0.0}
        for site in result["federation"]["sites"].values():
            site["prevalence"] = 0.3

    folder = changed(keep)
    page, both = read_page([folder]), read_page([folder, shutil.copytree(folder, folder.with_name("again"))])
    assert page.sections[0].blocks[1].headings[2] == "shared, with own level"
    tables = [block for section in both.sections for block in section.blocks if isinstance(block, Table)]
    assert tables[0].headings[1:3] == ("shared, with own level", "shared")
    assert tables[1].caption.startswith("Gain of the shared model over one trained alone")


def test_a_hospital_where_it_is_worse_is_called_so(changed):
    def lose(result):
        for place, site in enumerate(result["sites"].values()):
            ends = [-0.2, -0.1] if place == 0 else [0.0, 0.0]
            site["gains"]["local"] = {"value": sum(ends) / 2, "interval": ends, "holds": False}

    answer = told(changed(lose), "Did training together pay?")
    assert "; worse at " in answer and ", no better at " in answer


def test_a_run_without_privacy_or_with_a_seed_promises_none(changed, masks):
    assert told(masks[0], "At what privacy?").startswith("None: nothing was clipped or noised")
    seeded = changed(lambda result: result.update(seed=3))
    assert told(seeded, "At what privacy?").startswith("None: this was a rehearsal with a known seed")


def test_the_attackers_share_follows_epsilon(changed):
    def spend(result):
        for site in result["sites"].values():
            site["privacy"] |= {"epsilon": 1.0, "delta": 1e-5}

    assert "guesses right with probability 0.7311 at most; 0.5 is" in told(changed(spend), "At what privacy?")


@pytest.mark.parametrize(("epsilon", "delta"), [(1e-9, 1e-5), (1.0, 1e-9), (4.0, 1e-5), (9.3, 1e-2), (800.0, 1e-5)])
def test_the_script_that_checks_evidence_gives_the_pages_figure(tables, epsilon, delta):
    """It imports nothing of securepfl: one limit, told twice in the same words."""
    ledger = {
        "unit": "record", "budget": {"epsilon": 900.0, "delta": delta}, "mu": None, "simulation": False, "hashes": [0],
        "time": "", "site": "north", "epsilon": epsilon, "mixed": False, "reduced": 0, "seeded": False, "withdrawn": 0,
        "holds": (epsilon, delta), "data_set": "rows",
    }  # fmt: skip
    run = read_any(tables)
    for name, site in run.result.sites.items():
        run.result.sites[name] = structs.replace(site, privacy=Privacy(epsilon, delta, "record", None, 900.0))
    page = verdict_of(run, {})[1].answer
    limit = page.split("n attacker who")[1]
    assert words(ledger).strip().endswith(limit)
    shown = float(guess_text(epsilon, delta))
    exact = (math.exp(min(epsilon, 700)) + delta) / (math.exp(min(epsilon, 700)) + 1)
    assert exact <= shown < exact + 1e-4 + 1e-12 and f"probability {shown:.4f} at most" in limit


def test_releases_of_several_kinds_hold_at_the_budget_and_twice_its_delta(tables):
    run = read_any(tables)
    ledgers = checked_ledgers(run)
    (name, one), *_ = ledgers.items()
    mixed = replace(one, summary=replace(one.summary, mixed=True))
    assert "Epsilon is at most 60 for each record (delta 0.002)" in verdict_of(run, {name: mixed})[1].answer
    assert "Epsilon is at most 40 for each record (delta 0.001)" in verdict_of(run, ledgers)[1].answer


def test_what_a_file_lacks_is_left_out(changed):
    def strip(result):
        for site in result["sites"].values():
            site |= {"curves": {}, "similarity": {}, "signal": None, "gains": {}}
        result["communication"] = None
        for name in ("weights", "curves", "verdict", "written"):
            del result[name]

    folder = changed(strip)
    page = read_page([folder])
    assert not {"ROC and calibration", "Who is like whom", "Bytes and seconds"} & set(titles(page))
    assert "can't be told" in told(folder, "Did training together pay?")
    assert page.html().count("<svg") == page.html().count("</svg>") > 2


def test_a_ledger_that_was_changed_is_named(tables, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tables, folder)
    (ledger,) = (folder / "ledger").glob("Mainz*.jsonl")
    ledger.write_text(ledger.read_text().replace('"epsilon"', '"epsilom"', 1))
    run = read_any(folder)
    shown, table, *_ = ledgers_section(run, checked_ledgers(run), "").blocks
    assert shown.text.startswith("4 of 5 ledgers hold") and any(
        row[0] == "Mainz" and row[1].startswith("does not hold: ") for row in table.rows
    )
    shutil.rmtree(folder / "ledger")
    html = read_page([folder]).html()
    assert "nothing here rests on one" in html and "epsilon is not drawn over rounds" in html


def test_ledgers_of_elsewhere_are_not_looked_for(tables, tmp_path):
    """A folder from somebody else names no file outside of it."""
    folder = tmp_path / "run"
    shutil.copytree(tables, folder)
    text = (folder / "result.json").read_text().replace('"Mainz"', '"../Mainz"')
    (folder / "result.json").write_text(text)
    assert set(checked_ledgers(read_any(folder))) == set(read_any(tables).result.sites) - {"Mainz"}


def test_page_and_evidence_show_one_table_of_who_could_learn_what(tables, changed):
    (shown,) = [section for section in read_page([tables]).sections if section.title == "Who could learn what"]
    _, table, words = shown.blocks
    federation = Federation.from_told(read_any(tables).settings, "result.json")
    assert table.rows == tuple((row.thing, *row.cells) for row in who_learns(federation))
    assert "yes, a DP release: nothing is encrypted" in table.rows[1] and "DP release is something" in words.text
    seeded = read_page([changed(lambda result: result.update(seed=3))])
    assert "unprotected, as its noise can be made again" in seeded.html()


def test_a_run_without_protection_tells_who_could_learn_what_without_limit(masks):
    (shown,) = [section for section in read_page([masks[0]]).sections if section.title == "Who could learn what"]
    _, table, words = shown.blocks
    assert "yes, unprotected: nothing is encrypted" in table.rows[1] and "without any limit" in words.text


def test_settings_that_the_run_did_not_have_tell_nothing_of_who_learns(changed):
    page = read_page([changed(lambda result: result["federation"]["encryption"].update(scheme="tenseal"))])
    (shown,) = [section for section in page.sections if section.title == "Who could learn what"]
    assert len(shown.blocks) == 1 and "holds no settings that this securepfl recorded" in shown.blocks[0].text


def test_runs_side_by_side_show_what_differs(tables, changed):
    page = read_page([tables, changed(lambda result: result["federation"]["privacy"].update(epsilon=41.0))])
    (settings,) = [section for section in page.sections if section.title == "Settings"]
    assert [row[0] for row in settings.blocks[0].rows] == ["privacy.epsilon"]
    assert page.forbids and len(page.verdicts) == 2, "what forbids publication stands there once"


def test_the_signed_ledger_has_the_last_word_on_epsilon(changed):
    def claim(result):
        result["sites"]["Mainz"]["privacy"]["epsilon"] = 1.0
        for name in result["sites"].keys() - {"Mainz"}:
            result["sites"][name]["privacy"]["epsilon"] = 0.5

    page = read_page([changed(claim)])
    assert any("Mainz: result.json says epsilon 1.000, and the signed ledger 40.000" in note for note in page.forbids)
    (privacy,) = [one.answer for one in page.verdicts[0].sentences if one.asks == "At what privacy?"]
    assert privacy.startswith("Epsilon is at most 40 for each record")


def test_runs_that_answer_different_questions_say_so(tables, masks, changed):
    def told(*folders):
        (section,) = [one for one in read_page(folders).sections if one.title == "Side by side"]
        return section.blocks[0]

    assert "don't answer one question" in told(tables, masks[0]).text
    other = changed(lambda result: result["federation"]["data"].update(label="death"))
    assert "outcome death" in told(tables, other).text
    costs = next(one for one in read_page([tables, masks[0]]).sections if one.id == "costs").blocks[0]
    assert costs.rows[0][1:4] == ("40.000", "0.001", "record") and costs.rows[1][1] == "no privacy"


def test_what_is_not_seen_or_turns_text_around_is_spelt_out(changed):
    def hide(result):
        result["metrics"]["titles"]["balanced_accuracy"] = "better\u202eesrow"
        result["federation"]["name"] = "north\u200b\x1b[2J"

    page = read_page([changed(hide)])
    html = page.html()
    assert "better\\u202eesrow" in html and not {"\u202e", "\u200b", "\x1b"} & {*html}
    assert not {"\u202e", "\u200b", "\x1b"} & {*json.dumps(page.to_mapping(), ensure_ascii=False)}


def test_a_shared_model_that_does_better_is_named(changed):
    def lose(result):
        result["verdict"][1] |= {"holds": False, "gain": -0.1, "interval": [-0.15, -0.05]}
        result["within"]["shared"]["balanced_accuracy"] = 0.987

    assert "the same for all, does better than the personalised ones: 0.987" in told(
        changed(lose), "Did training together pay?"
    )


def test_one_large_hospital_and_many_named_ones_are_no_proof(changed):
    def skew(result):
        site = dict(result["sites"]["Mainz"], test_units=1000)
        site["gains"]["local"] = {"value": 0.1, "interval": [0.05, 0.2], "holds": True}
        result["sites"] = {name: dict(site, test_units=1) for name in "abcdefghi"} | {"Mainz": site}

    traps = told(changed(skew), "What not to conclude?")
    assert "Mainz has 99 % of the test records" in traps
    assert "each hospital is named rightly" in traps


def test_a_hospitals_own_model_that_beats_nothing_is_not_called_of_use(changed):
    def alone(result):
        site = result["sites"]["Mainz"]
        site["gains"] |= {"shared": {"value": 0.2, "interval": [0.1, 0.3], "holds": True}}
        site["gains"] |= {"majority": {"value": -0.1, "interval": [-0.2, -0.05], "holds": False}}
        result["sites"], result["site"] = {"Mainz": site}, "Mainz"
        for name in ("mean", "within", "pooled", "curves", "counted"):
            result[name] = {}

    assert "the model is of use (it isn't shown to beat the" in told(changed(alone), "What not to conclude?")


def test_runs_of_one_name_in_folders_of_one_name_are_told_apart(tables, tmp_path):
    for place in ("first", "second"):
        (tmp_path / place).mkdir()
        shutil.copytree(tables, tmp_path / place / "run", ignore=shutil.ignore_patterns("ledger", "experts"))
    page = read_page([tmp_path / "first" / "run", tmp_path / "second" / "run"])
    assert [verdict.name.split(" (")[1] for verdict in page.verdicts] == ["first/run)", "second/run)"]


def test_masks_are_judged_over_the_rounds_on_few_images(masks):
    run = read_any(masks[0])
    assert [number for number, _ in run.rounds["east"]] == [1, 2]
    assert set(run.rounds["east"][0][1]["personalised"]) == {"dice"}
    assert "Over the rounds" in titles(read_page([masks[0]]))
    assert "at most 16 test images" not in read_page([masks[0]]).html()
    for name, site in run.result.sites.items():
        run.result.sites[name] = structs.replace(site, test=40)
    said = [block.text for block in rounds_section(run, "").blocks if block.kind == "text"]
    assert "Of each hospital at most 16 test images" in said[0]


def test_rows_over_all_hospitals_have_their_number_and_interval(tables):
    table = read_page([tables]).sections[0].blocks[1]
    mean, within = table.rows[-2:]
    raw = json.loads((tables / "result.json").read_text())
    low, high = raw["intervals"]["within"]["personalised"]["balanced_accuracy"]
    assert within[2].endswith(f"({low:.2f} to {high:.2f})")
    sites = raw["sites"].values()
    assert mean[1] == within[1] == f"{sum(one['train'] for one in sites)} / {sum(one['test'] for one in sites)}"


def test_a_similarity_above_one_is_drawn_as_one(changed):
    def exceed(result):
        result["sites"]["Mainz"]["similarity"] = dict.fromkeys(result["sites"]["Mainz"]["similarity"], 1e6)

    assert "Who is like whom" in titles(read_page([changed(exceed)]))
