"""What `securepfl route --out DIR` leaves of tables and of images: files, names, numbers, and nothing else."""

import csv
import json
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from blobs import SIZE, image_spec, write_hospital
from PIL import Image
from torch import nn

from securepfl.data.loading import load_unlabelled
from securepfl.data.schema import DataSpec
from securepfl.data.table import Table
from securepfl.errors import ConfigError, StorageError
from securepfl.outside.answered import Answered, safe_places
from securepfl.outside.card import card_of
from securepfl.outside.experts import Experts
from securepfl.outside.gates_plot import write_gates_plot
from securepfl.outside.masks import own_mask
from securepfl.outside.predictions import certainty_csv, predictions_csv, told_in_words, truth_in_words
from securepfl.outside.recipe import Recipe
from securepfl.outside.routed import routed
from securepfl.outside.site import Site
from securepfl.outside.writing import write_answer
from securepfl.tasks.binary import BINARY
from securepfl.tasks.registry import task_named


class Bright(nn.Module):
    """A network that finds what is brighter than `level`."""

    def __init__(self, level):
        super().__init__()
        self.convolution = nn.Conv2d(1, 1, 1)
        with torch.no_grad():
            self.convolution.weight.fill_(8.0)
            self.convolution.bias.fill_(-8.0 * level)

    def forward(self, x):
        return self.convolution(x)


def record(name, **changes):
    kind = "shared" if name == "shared" else "personal"
    return {
        "expert": kind, "site": name, "federation": "ab" * 32, "rounds": 3, "epsilon": 8.0, "delta": 1e-5,
        "unit": "patient", "noise": "local", "simulation": True,
    } | changes  # fmt: skip


def experts_of_images(**changes):
    spec = image_spec(**changes)
    models = {"east": Bright(1.0), "north": Bright(9.0), "shared": Bright(1.6)}
    task = task_named("segmentation", **spec.label_options)
    return Experts(models, spec, task, {name: record(name) for name in models})


def answered_of(folder, experts, prior=(), recipe=None):
    table = load_unlabelled(folder, experts.spec)
    found = routed(experts, table, recipe, prior[0] if prior else None)
    return Answered(table, experts, found, prior, "declared with --prior" if prior else "")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The answer to a hospital's images with masks: (hospital, answer, folder)."""
    place = tmp_path_factory.mktemp("answer")
    hospital = write_hospital(place / "new", count=4)
    answered = answered_of(hospital, experts_of_images(), prior=(0.1,))
    write_answer(answered, place / "out")
    return hospital, answered, place / "out"


def table_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_masks_lie_under_their_images_names_in_their_own_sizes_and_find_the_discs(written):
    hospital, _, out = written
    rows = table_of(out / "predictions.csv")
    assert [row["id"] for row in rows] == ["p1_0", "p1_1", "p2_2", "p2_3"]
    for row in rows:
        truth = np.asarray(Image.open(hospital / "masks" / f"{row['id']}.png")) > 0
        mask = np.asarray(Image.open(out / row["mask"]))
        assert mask.shape == truth.shape and set(np.unique(mask)) <= {0, 255}
        assert 2 * (truth & (mask > 0)).sum() / (truth.sum() + (mask > 0).sum()) > 0.85
        assert int(row["pixels"]) == (mask > 0).sum() and 0 < float(row["certainty"]) <= 1
    assert not list(out.rglob("*.partial*"))


def test_certainty_is_told_by_patient(written):
    _, answered, out = written
    rows = table_of(out / "certainty.csv")
    assert [(row["patient"], row["records"]) for row in rows] == [("p1", "2"), ("p2", "2")]
    assert float(rows[0]["least certainty"]) == pytest.approx(answered.routed.certainty[:2].min(), abs=1e-6)


def test_gates_pictures_metrics_and_card_are_there_and_name_no_image(written):
    _, answered, out = written
    found = json.loads((out / "gates.json").read_text())
    assert sum(found["site"].values()) == pytest.approx(1, abs=1e-4) and len(found["rows"]) == 4
    assert found["recipe"] == answered.routed.recipe.to_mapping() and found["prior"] == [0.1]
    assert {path.name for path in (out / "pictures").iterdir()} == {f"{name}.png" for name in answered.names}
    assert all(Image.open(path).size[0] > 300 for path in (out / "gates.png", *(out / "pictures").iterdir()))
    result = json.loads((out / "result.json").read_text())
    assert result["metrics"]["routed"]["dice"] > 0.85 and result["intervals"]["over"] == "patients"
    card = (out / "card.md").read_text()
    assert "| east | its own model | 8 | 1e-05 | patient | 3 |" in card and "Simulated" in card
    assert "Gates by site, from" in card and "| metric | routed | shared | routed - shared |" in card
    for text in (card, (out / "gates.json").read_text(), (out / "result.json").read_text()):
        assert "p1_0" not in text and "p2" not in text


def test_the_plot_of_gates_is_the_same_whatever_images_are_called(written, tmp_path):
    _, answered, _ = written
    found = replace(answered.routed, gates=np.eye(4, len(answered.routed.candidates)))
    drawn = []
    for names in (["a", "b", "c", "d"], [r"Doe $\frac$", "b", "c", "d"]):
        table = replace(answered.table, ids=np.array(names, dtype=object))
        write_gates_plot(replace(answered, table=table, routed=found), tmp_path / "gates.png")
        drawn.append((tmp_path / "gates.png").read_bytes())
    assert drawn[0] == drawn[1]


def test_other_hospitals_names_are_text_in_card_and_plot(written):
    _, answered, out = written
    names = [r"$\frac$", "<script>", "[a](javascript:b)"]
    records = answered.experts.records | {"east": record("east", expert="cluster", hospitals=names)}
    candidates = [replace(one, expert=names[0]) for one in answered.routed.candidates]
    found = replace(answered.routed, candidates=candidates)
    changed = replace(answered, experts=replace(answered.experts, records=records), routed=found)
    write_gates_plot(changed, out.parent / "named.png")
    card = card_of(changed, {}, 0, True)
    assert "script" in card and "<script" not in card and "[a](" not in card


def test_a_name_that_no_font_can_draw_is_a_number_in_the_plot(written, recwarn):
    """No font has U+10FFFD; a picture of empty boxes would name nobody."""
    _, answered, out = written
    first, *rest = answered.routed.candidates
    named = replace(answered.routed, candidates=[replace(first, expert="\U0010fffd"), *rest])
    drawn = []
    for found in (named, replace(named, candidates=[replace(first, expert="\U0010fffc"), *rest]), answered.routed):
        write_gates_plot(replace(answered, routed=found), out.parent / "numbered.png")
        drawn.append((out.parent / "numbered.png").read_bytes())
    assert drawn[0] == drawn[1] != drawn[2] and not [one for one in recwarn if "Glyph" in str(one.message)]


def test_a_cell_that_a_spreadsheet_would_run_is_text(written):
    _, answered, _ = written
    said = ["=cmd|' /C calc'!A0", "@SUM(A1)", "-7", "+x"]
    named = replace(answered.table, ids=np.array(said, dtype=object), patients=np.array(said, dtype=object))
    changed = replace(answered, table=named)
    for text in (predictions_csv(changed), certainty_csv(changed)):
        cells = [cell for row in csv.reader(text.splitlines()) for cell in row]
        assert {f"'{said[0]}", f"'{said[1]}", "-7", "'+x"} <= set(cells) and said[0] not in cells


def test_without_truth_there_is_no_result_and_the_card_says_so(tmp_path):
    write_answer(answered_of(write_hospital(tmp_path / "new", masks=False), experts_of_images()), tmp_path / "out")
    assert not (tmp_path / "out" / "result.json").exists()
    assert "No truth was at hand" in (tmp_path / "out" / "card.md").read_text()
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 4


def test_one_image_is_answered_as_it_is_among_others(tmp_path):
    """Gates by image: a patient alone gets what the same patient gets in company."""
    experts, recipe = (
        experts_of_images(),
        Recipe(views=("same", "mirrored"), criterion="agreement", granularity="sample"),
    )
    many = answered_of(write_hospital(tmp_path / "many"), experts, recipe=recipe)
    one = answered_of(tmp_path / "many" / "images" / "p1_1.png", experts, recipe=recipe)
    assert one.names == ["p1_1"]
    np.testing.assert_array_equal(own_mask(one, 0), own_mask(many, 1))
    np.testing.assert_allclose(one.routed.gates[0], many.routed.gates[1])


def test_padding_counts_for_nothing_whether_there_are_masks_or_not(tmp_path):
    """What routing looks at is where an image lies in the array, small ones made larger too."""
    experts = experts_of_images(size=[64, 64])
    table = load_unlabelled(write_hospital(tmp_path / "new"), experts.spec)
    seen = [Site.of(experts, each).fields for each in (table, replace(table, labels=None))]
    assert torch.equal(*seen) and 0 < seen[0].float().mean() < 1


def test_constant_images_are_answered_and_noted(tmp_path):
    hospital = write_hospital(tmp_path / "new", count=1, masks=False)
    Image.fromarray(np.full((50, 60), 90, np.uint8)).save(hospital / "images" / "p1_9.png")
    answered = answered_of(hospital, experts_of_images())
    write_answer(answered, tmp_path / "out")
    assert np.asarray(Image.open(tmp_path / "out" / "masks" / "p1_9.png")).shape == (50, 60)
    assert answered.routed.logits.isfinite().all()


def test_a_declared_shape_holds_in_the_images_own_size(tmp_path):
    answered = answered_of(write_hospital(tmp_path / "new"), experts_of_images(structures=1, holes=False))
    from scipy.ndimage import label

    assert all(label(own_mask(answered, place))[1] <= 1 for place in range(4))


def test_nothing_is_written_over_and_what_fails_leaves_nothing(tmp_path, monkeypatch):
    answered = answered_of(write_hospital(tmp_path / "new", count=1), experts_of_images())
    (tmp_path / "out").mkdir()
    with pytest.raises(StorageError, match="exists; name another place"):
        write_answer(answered, tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="exists"):
        write_answer(answered, tmp_path / "link")
    monkeypatch.setattr("securepfl.outside.writing.card_of", lambda *_: "\ud800")
    with pytest.raises(UnicodeEncodeError):
        write_answer(answered, tmp_path / "other")
    assert {path.name for path in tmp_path.iterdir()} == {"new", "out", "link"}


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/../../b", "a\\b", "", ".", "x\n", "c" * 300, "a//b"])
def test_a_name_that_is_no_path_inside_becomes_a_number(name):
    assert safe_places([name, "fine"], "image") == [PurePosixPath("image-1"), PurePosixPath("fine")]


def test_two_names_never_share_a_file():
    places = safe_places(["a", "A", "image-2", "../x", "image-4"], "image")
    assert len({str(place).casefold() for place in places}) == 5


def tables(ids=None, patients=None, labels=None):
    spec = DataSpec.from_mapping(
        {"label": "ill", "positive": "malignant", "negative": "benign", "ranges": {"age": {"centre": 0, "spread": 1}}}
    )
    models = {}
    for name, weight in (("shared", 1.0), ("east", 3.0)):
        models[name] = nn.Sequential(nn.Linear(1, 1), nn.Flatten(0))
        nn.init.constant_(models[name][0].weight, weight)
        nn.init.zeros_(models[name][0].bias)
    features = np.linspace(-2, 2, 12, dtype=np.float32)[:, None]
    table = Table(site="new", features=features, labels=labels, patients=patients, rows=np.arange(1, 13), ids=ids)
    experts = Experts(models, spec, BINARY, {name: record(name) for name in models})
    return Answered(table, experts, routed(experts, table))


def test_a_tables_rows_have_their_own_names_and_the_labels_theirs():
    ids = np.array([f"row {number}" for number in range(12)], dtype=object)
    rows = list(csv.DictReader(predictions_csv(tables(ids=ids)).splitlines()))
    assert list(rows[0]) == ["row", "id", "probability", "prediction", "certainty"]
    assert rows[0]["id"] == "row 0" and rows[0]["prediction"] == "benign" and rows[-1]["prediction"] == "malignant"


def test_a_table_is_written_with_metrics_where_labels_are(tmp_path):
    left = tmp_path / ".out.partial-abcdefgh"
    left.mkdir()
    (left / ".securepfl-unfinished").touch()
    write_answer(tables(labels=np.repeat([0, 1], 6)), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "what a killed call left goes"
    assert json.loads((tmp_path / "out" / "result.json").read_text())["metrics"]["routed"]["accuracy"] == 1.0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "predictions.csv", "certainty.csv", "gates.json", "gates.png", "card.md", "result.json"
    }  # fmt: skip


def test_a_patient_whom_a_dicom_element_names_stands_under_a_number():
    patients = np.array(["Doe^Jane"] * 6 + ["Roe^Max"] * 6, dtype=object)
    answered = tables(patients=patients)
    assert "Doe^Jane" in certainty_csv(answered)
    hidden = image_spec(patient="dicom:PatientID", label="ill")
    told = certainty_csv(
        Answered(
            answered.table, Experts(answered.experts.models, hidden, BINARY, answered.experts.records), answered.routed
        )
    )
    assert [line.split(",")[:2] for line in told.splitlines()[1:]] == [["1", "6"], ["2", "6"]] and "Doe" not in told


def test_images_with_classes_get_a_table_and_pictures(tmp_path):
    generator = np.random.default_rng(0)
    table = Table(
        site="new",
        features=generator.normal(size=(3, 1, *SIZE)).astype(np.float32),
        labels=np.array([0, 1, 0]),
        patients=None,
        rows=np.arange(1, 4),
        ids=np.array(["a", "b/c", "d"], dtype=object),
        sizes=np.array([[48, 48], [48, 48], [6, 48]]),
    )
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(1, 1, 1), nn.Flatten(0))
    experts = Experts({"shared": net}, image_spec(label="ill"), BINARY, {"shared": record("shared")})
    write_answer(Answered(table, experts, routed(experts, table)), tmp_path / "out")
    assert (tmp_path / "out" / "pictures" / "b" / "c.png").exists() and not (tmp_path / "out" / "masks").exists()
    wide = np.asarray(Image.open(tmp_path / "out" / "pictures" / "d.png").convert("L"))
    empty = "".join("1" if row.min() > 250 else "0" for row in wide)
    assert max(map(len, empty.split("0"))) < 0.2 * len(wide), "a blank strip"


@pytest.mark.parametrize(
    ("declared", "said", "truth", "told", "true"),
    [
        ({"label": "organ", "classes": ("lung", "eye")}, [[0.1, 0.9]], 0, "eye, probability 0.900", "lung"),
        ({"label": "state", "positive": "ill", "negative": "well"}, [0.7], 0, "ill, probability 0.700", "well"),
        ({"label": "ill"}, [0.2], 1, "ill = 0, probability 0.200", "ill = 1"),
        (
            {"label": ("fat", "thin")},
            [[0.2, 0.6]],
            [True, True],
            "probability fat 0.200, prediction fat 0, probability thin 0.600, prediction thin 1",
            "fat, thin",
        ),
    ],
    ids=["classes", "yes or no in words", "yes or no", "several labels"],
)
def test_pictures_name_labels_as_they_were_declared(declared, said, truth, told, true):
    spec = image_spec(**declared)
    kind = "multilabel" if isinstance(spec.label, tuple) else "multiclass" if spec.classes else "binary"
    columns = task_named(kind, **spec.label_options).columns(np.array(said))
    assert (told_in_words(columns, spec), truth_in_words(truth, spec)) == (told, true)


def test_a_view_that_a_models_shape_cannot_take_is_refused_in_a_line(tmp_path):
    class Wide(Bright):
        def forward(self, x):
            if x.shape[-1] != 48 or x.shape[-2] != 32:
                raise RuntimeError("wrong sides")
            return super().forward(x)

    experts = experts_of_images(size=[32, 48])
    experts = Experts({"shared": Wide(1.0), "east": Wide(2.0)}, experts.spec, experts.task, experts.records)
    with pytest.raises(ConfigError, match=r"cannot take 48 x 32 pixels \(view 'turned'\): leave that out"):
        recipe = Recipe(views=("same", "turned"), criterion="agreement", granularity="sample")
        answered_of(write_hospital(tmp_path / "new", count=1), experts, recipe=recipe)


def test_the_extra_that_is_missing_is_named_and_a_table_does_without(tmp_path, monkeypatch):
    import builtins

    plain = builtins.__import__

    def without(name, *rest, **more):
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError("no", name="matplotlib")
        return plain(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    write_answer(tables(), tmp_path / "out")
    assert "no plot: matplotlib is in securepfl[imaging]" in (Path(tmp_path) / "out" / "card.md").read_text()
    with pytest.raises(ConfigError, match=r"needs matplotlib: pip install 'securepfl\[imaging\]'"):
        write_answer(answered_of(write_hospital(tmp_path / "new", count=1), experts_of_images()), tmp_path / "other")
    assert not (tmp_path / "other").exists()
