"""A bundle is loaded whole and unaltered, or refused with every fault named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from pydantic import BaseModel

from limen import config
from limen.config import SHIPPED_BUNDLES
from limen.errors import BundleError
from limen.result import Window
from worker.bundles import bundle
from worker.bundles.manifest import Explain, Manifest


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "bundle.toml"
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


def test_it_loads_what_the_manifest_says(tiny_bundle: Path) -> None:
    found = bundle.load(tiny_bundle)
    assert (found.name, found.input_shape, found.label_names) == ("tiny", (32, 32, 3), ["any"])
    assert found.threshold == 0.5
    assert found.decision_index == 0


def names(folder: Path) -> list[str]:
    return [window.name for window in bundle.load(folder).presets]


def test_readers_of_heads_are_offered_the_usual_windows_and_those_of_the_model(copy: Path) -> None:
    assert names(copy) == ["brain", "subdural", "stroke", "bone", "soft tissue"]
    edit(copy, "[40, 80]", "[35, 70]")
    assert names(copy) == ["brain", "subdural", "bone", "soft tissue", "35/70"]


def test_readers_of_other_ct_are_offered_the_windows_of_the_model_and_bone(copy: Path) -> None:
    edit(copy, 'body_part = ["HEAD", "BRAIN", "SKULL"]', 'body_part = ["CHEST"]')
    assert names(copy) == ["brain", "subdural", "soft tissue", "bone"]


def test_where_hu_mean_nothing_no_window_is_offered(copy: Path) -> None:
    edit(copy, 'modality = ["CT"]', 'modality = ["MR"]')
    assert names(copy) == []


def test_a_bundle_may_name_the_windows_itself_up_to_five(copy: Path) -> None:
    preset = '\n[[preset]]\nname = "{}"\nwindow = [{}, 100]\n'
    append(copy, preset.format("mine", 20) + preset.format("bone", 700))
    assert bundle.load(copy).presets == (Window("mine", 20, 100), Window("bone", 700, 100))
    append(copy, "".join(preset.format(n, n) for n in range(4)))
    with pytest.raises(BundleError, match="preset"):
        bundle.load(copy)


STUDY_AND_MEMBERS = """
[members]
outputs = [1, 2, 3]
spread = 0.25

[study]
smooth_mm = 4.0
top = 2
scale = 1.5
shift = -0.5
threshold = 0.4
chosen = "on development heads"
"""


def append(folder: Path, text: str) -> None:
    with (folder / "bundle.toml").open("a", encoding="utf-8") as file:
        file.write(text)


def test_members_and_the_rule_of_the_study_are_read(copy: Path) -> None:
    append(copy, STUDY_AND_MEMBERS)
    with np.load(copy / "golden.npz") as arrays:
        tensor = arrays["tensor"]
    wide = np.zeros((len(tensor), 4), np.float32)
    np.savez(copy / "golden.npz", tensor=tensor, probability=wide)
    found = bundle.load(copy)
    assert (found.outputs, found.member_outputs) == (4, (1, 2, 3))
    assert found.members is not None
    assert found.members.spread == 0.25
    assert found.study is not None
    assert (found.study.smooth_mm, found.study.top, found.study.threshold) == (4.0, 2, 0.4)
    assert (found.study.scale, found.study.shift) == (1.5, -0.5)


def test_without_them_a_bundle_has_neither(tiny_bundle: Path) -> None:
    found = bundle.load(tiny_bundle)
    assert (found.members, found.study, found.outputs) == (None, None, 1)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("outputs = [1, 2, 3]", "outputs = [0, 1]", "members.outputs.0"),
        ("outputs = [1, 2, 3]", "outputs = [2, 3]", r"columns after the labels, \[1, 2\]"),
        ("outputs = [1, 2, 3]", "outputs = [1, 1]", r"columns after the labels, \[1, 2\]"),
        ("outputs = [1, 2, 3]", "outputs = [1]", "members.outputs"),
        ("threshold = 0.4", "threshold = 40", "study.threshold"),
        ('chosen = "on development heads"', "", "study.chosen: is missing"),
        ("top = 2", "top = 0", "study.top"),
        ("scale = 1.5", "scale = -1", "study.scale"),
    ],
)
def test_a_rule_that_makes_no_sense_is_told(copy: Path, old: str, new: str, fault: str) -> None:
    append(copy, STUDY_AND_MEMBERS)
    edit(copy, old, new)
    with pytest.raises(BundleError, match=fault):
        bundle.load(copy)


def test_every_fault_is_named_at_once(copy: Path) -> None:
    edit(copy, 'licence = "Apache-2.0"\n', "")
    edit(copy, "threshold = 0.5", "threshold = 2")
    edit(copy, "[input]", "[input]\ncolour = 1")
    with pytest.raises(BundleError) as caught:
        bundle.load(copy)
    text = str(caught.value)
    for fault in ("licence: is missing", "decision.threshold", "input.colour: unknown key"):
        assert fault in text


def test_altered_weights_are_refused(copy: Path) -> None:
    with (copy / "model.keras").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match="model.keras: SHA-256"):
        bundle.load(copy)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("../model.keras", "inside the folder"),
        ("model.h5", r"must be a \.keras file"),
        ("absent.keras", "does not exist"),
    ],
)
def test_weights_outside_of_another_kind_or_absent_are_refused(
    copy: Path, name: str, fault: str
) -> None:
    (copy / "model.h5").write_bytes(b"")
    edit(copy, 'file = "model.keras"', f'file = "{name}"')
    with pytest.raises(BundleError, match=fault):
        bundle.load(copy)


def test_a_link_out_of_the_folder_is_refused(copy: Path, tmp_path: Path) -> None:
    shutil.move(copy / "model.keras", tmp_path / "model.keras")
    (copy / "model.keras").symlink_to(tmp_path / "model.keras")
    with pytest.raises(BundleError, match="inside the folder"):
        bundle.load(copy)


def test_golden_probabilities_for_other_labels_are_refused(copy: Path) -> None:
    with np.load(copy / "golden.npz") as arrays:
        tensor = arrays["tensor"]
    np.savez(copy / "golden.npz", tensor=tensor, probability=np.zeros((3, 2), np.float32))
    with pytest.raises(BundleError, match=r"probability must be float32 of shape \(3, 1\)"):
        bundle.load(copy)


def test_golden_file_of_objects_is_refused(copy: Path) -> None:
    np.savez(copy / "golden.npz", tensor=np.array([{}], object), probability=np.zeros(1))
    with pytest.raises(BundleError, match=r"golden\.npz"):
        bundle.load(copy)


def test_a_folder_without_manifest_says_what_a_bundle_is(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"a model bundle is a folder with bundle\.toml"):
        bundle.load(tmp_path)


def test_a_manifest_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bundle.toml").write_text("name = ", "utf-8")
    with pytest.raises(BundleError, match="not valid TOML"):
        bundle.load(tmp_path)


def test_the_decision_names_one_of_the_labels(copy: Path) -> None:
    edit(copy, 'label = "any"', 'label = "other"')
    with pytest.raises(BundleError, match=r"decision\.label must be one of the labels \(any\)"):
        bundle.load(copy)


def test_an_old_bundle_without_the_optional_sections_has_the_defaults(tiny_bundle: Path) -> None:
    found = bundle.load(tiny_bundle)
    assert (found.weights_format, found.scale, found.temperature) == ("keras", (0.0, 1.0), 1.0)
    assert found.output == bundle.Output(activation="none", inverted=False)
    assert (found.crop, found.spacing_mm, found.neighbours) == ("none", None, 0)
    assert found.part == ""
    assert found.explain == Explain(mode="settled", samples=96, superpixels=20)


def test_the_bundle_that_ships_loads() -> None:
    assert bundle.load(SHIPPED_BUNDLES / "ich").name == "ich"


def test_every_optional_key_is_read(copy: Path) -> None:
    edit(
        copy,
        "[input]",
        '[output]\nactivation = "sigmoid"\ninverted = true\n[calibration]\ntemperature = 1.5\n'
        '[explain]\nsamples = 100\n[input]\ndtype = "float32"\nscale = [-1, 1]',
    )
    found = bundle.load(copy)
    assert found.output == bundle.Output(activation="sigmoid", inverted=True)
    assert (found.scale, found.temperature) == ((-1.0, 1.0), 1.5)
    assert found.explain == Explain(samples=100)


def test_settings_go_before_the_explain_section_of_a_bundle_only_where_they_are_set() -> None:
    asked = Explain(samples=100, superpixels=30).overridden_by(
        config.Explain(samples=40, max_explained=0)
    )
    assert (asked.samples, asked.superpixels, asked.max_explained) == (40, 30, 0)


@pytest.mark.parametrize(
    ("section", "fault"),
    [
        ("[input]\nscale = [1, 0]", r"input: scale must be \[low, high\] with low < high"),
        ("[input]\nscale = [0, inf]", r"input\.scale\.1"),
        ('[input]\ndtype = "float16"', r"input\.dtype: Input should be 'float32'"),
        ('[output]\nactivation = "softmax"\n[input]', "a softmax needs two outputs"),
        ('[output]\nactivation = "relu"\n[input]', r"output\.activation.*'softmax'"),
        ("[calibration]\ntemperature = 0\n[input]", r"calibration\.temperature"),
        ("[explain]\nsamples = 1\n[input]", r"explain\.samples"),
        ("[explain]\nseed = 1\n[input]", r"explain\.seed: unknown key"),
    ],
)
def test_a_fault_of_an_optional_key_is_named(copy: Path, section: str, fault: str) -> None:
    edit(copy, "[input]", section)
    with pytest.raises(BundleError, match=fault):
        bundle.load(copy)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('name = "tiny"\n', "bundle.toml: name: is missing; expected a name in lower case"),
        ('meaning = "Intracranial hemorrhage"\n', "label.0.meaning: is missing; expected what"),
        ("size = [32, 32]\n", r"input.size: is missing; expected [rows, columns]"),
        ("threshold = 0.5\n", "decision.threshold: is missing; expected the least positive"),
    ],
)
def test_a_missing_key_says_what_was_expected(copy: Path, line: str, fault: str) -> None:
    edit(copy, line, "")
    with pytest.raises(BundleError) as caught:
        bundle.load(copy)
    assert fault in str(caught.value)


def test_every_key_of_the_manifest_is_documented() -> None:
    page = (SHIPPED_BUNDLES.parent / "docs" / "bundles.md").read_text("utf-8")
    missing = []
    for name, field in Manifest.model_fields.items():
        parts = [t for t in (field.annotation, *get_args(field.annotation)) if isinstance(t, type)]
        inner = next((t for t in parts if issubclass(t, BaseModel)), None)
        keys = [name] if inner is None else [f"{name}.{key}" for key in inner.model_fields]
        missing += [key for key in keys if f"`{key}`" not in page]
    assert missing == []


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        (
            'crop = "brain"',
            r"input\.crop: Input should be 'none', 'head' or 'centre' \(got 'brain'",
        ),
        ('crop = "centre"\nspacing_mm = 1', r'spacing_mm both say .* say crop = "none"'),
        ("share = 0.5", r'share does nothing without crop = "centre"'),
        ('crop = "centre"\nshare = 2', r"input\.share: .* less than or equal to 1"),
        ('crop = "centre"\nfit = "stretch"', r'fit = "stretch" does nothing where .* leave it out'),
        ('fit = "fill"', r"input\.fit: Input should be 'pad' or 'stretch'"),
        ('padding = "mirror"', r"input\.padding"),
        ("padding = inf", r"input\.padding"),
        ('resize = "cubic"', r"input\.resize: Input should be 'bilinear-antialias', "),
        ('normalise = "minmax"', r"input\.normalise: Input should be 'none', 'z-score' or 'perc"),
        ('over = "head"', r'over does nothing without normalise = "z-score" or "percentile"'),
        ("percentiles = [2, 98]", r'percentiles does nothing without normalise = "percentile"'),
        ("deviations = 3", r'deviations does nothing without normalise = "z-score"; say that too'),
        ('normalise = "percentile"\npercentiles = [99, 1]', r"percentiles must be \[low, high\]"),
        ('normalise = "z-score"\ndeviations = 0', r"input\.deviations: .* greater than 0"),
        ('normalise = "z-score"\nstatistics = "both"', r"input\.statistics: Input should be"),
        ('edges = "zero"', r"input\.edges: Input should be 'mirror' or 'repeat'"),
        ('direction = "left"', r"input\.direction: Input should be 'up' or 'down'"),
        ("clip = [[0, 80]]", "clip and windows say the same; leave one of them out"),
        ("spacing_mm = 0.05", r"input\.spacing_mm: .* greater than or equal to 0\.1 \(got 0\.05\)"),
        ("spacing_mm = 11", r"input\.spacing_mm: .* less than or equal to 10 \(got 11\)"),
        ("spacing_mm = nan", r"input\.spacing_mm: .* finite number"),
        ("neighbours = -1", r"input\.neighbours: .* greater than or equal to 0 \(got -1\)"),
        ("neighbours = 4", r"input\.neighbours: .* less than or equal to 3 \(got 4\)"),
    ],
)
def test_what_the_input_cannot_be_is_refused(copy: Path, keys: str, fault: str) -> None:
    edit(copy, "[input]", f"[input]\n{keys}")
    with pytest.raises(BundleError, match=fault):
        bundle.load(copy)


def test_an_input_that_is_longer_than_a_body_is_refused(copy: Path) -> None:
    edit(copy, "[input]\nsize = [32, 32]", "[input]\nspacing_mm = 9.0\nsize = [128, 32]")
    with pytest.raises(BundleError, match=r"128 pixels of the input 1152 mm long.* one pixel"):
        bundle.load(copy)


def test_a_head_is_cropped_by_its_hu_which_only_ct_has(copy: Path) -> None:
    edit(copy, "[input]", '[input]\ncrop = "head"')
    assert (bundle.load(copy).crop, bundle.load(copy).spacing_mm) == ("head", None)
    edit(copy, 'modality = ["CT"]', 'modality = ["CT", "MR"]')
    with pytest.raises(BundleError, match=r'input\.crop = "head" .* say input\.crop = "none"'):
        bundle.load(copy)
    edit(copy, 'crop = "head"', 'normalise = "z-score"\nover = "head"')
    with pytest.raises(BundleError, match=r'input\.over = "head" .* say input\.over = "slice"'):
        bundle.load(copy)


WINDOWS = "windows = [[40, 80], [80, 200], [40, 380]]"


def test_ranges_of_hu_are_windows_for_the_model_and_none_for_readers(copy: Path) -> None:
    edit(copy, WINDOWS, "clip = [[0, 80], [-20, 180], [-150, 230]]")
    assert bundle.load(copy).windows == ((40, 80), (80, 200), (40, 380))
    edit(copy, "[-20, 180]", "[-1000, 1000]")
    assert bundle.load(copy).windows[1] == (0, 2000)
    assert "0/2000" not in names(copy)
    for fault in ("[180, -20]", "[180]", '["a", "b"]', "[20, 20]"):
        edit(copy, "[-1000, 1000]", fault)
        with pytest.raises(BundleError, match=r"clip must be \[\[low, high\], \.\.\.\] in HU"):
            bundle.load(copy)
        edit(copy, fault, "[-1000, 1000]")
    edit(copy, "clip = [[0, 80], [-1000, 1000], [-150, 230]]", "clip = []")
    with pytest.raises(BundleError, match="clip must be"):
        bundle.load(copy)


def test_z_scores_reach_the_model_as_they_are_unless_a_scale_is_said(copy: Path) -> None:
    edit(copy, "[input]", '[input]\nnormalise = "z-score"')
    assert bundle.load(copy).scale == (-10, 10)
    edit(copy, "[input]", "[input]\ndeviations = 4")
    assert bundle.load(copy).scale == (-4, 4)
    edit(copy, "[input]", "[input]\nscale = [0, 1]")
    assert bundle.load(copy).scale == (0, 1)


def test_examples_were_made_with_the_keys_that_differ_from_those_of_an_old_bundle(
    copy: Path,
) -> None:
    before = bundle.load(copy).tensor_keys
    edit(copy, "[input]", '[input]\nresize = "area"\nedges = "repeat"')
    now = bundle.load(copy).tensor_keys
    assert now == {**before, "input.resize": "area", "input.edges": "repeat"}


def test_golden_tensors_have_the_channels_of_every_neighbour(copy: Path) -> None:
    edit(copy, "[input]", "[input]\nneighbours = 1")
    with pytest.raises(BundleError, match=r"tensor must be float32 of shape \(3, 32, 32, 9\)"):
        bundle.load(copy)


SECOND = """
[[label]]
name = "fracture"
meaning = "Fracture of skull"
code = ["71642004", "SCT"]
threshold = 0.3
"""


def of_two_labels(copy: Path) -> None:
    append(copy, SECOND)
    with np.load(copy / "golden.npz") as arrays:
        tensor = arrays["tensor"]
    two = np.zeros((len(tensor), 2), np.float32)
    np.savez(copy / "golden.npz", tensor=tensor, probability=two)


def test_a_label_with_a_threshold_is_a_finding_of_its_own(copy: Path) -> None:
    of_two_labels(copy)
    first, second = bundle.load(copy).sought
    assert (first.name, first.index, first.threshold, first.study_threshold) == ("any", 0, 0.5, 0.5)
    assert (second.name, second.index, second.threshold) == ("fracture", 1, 0.3)
    edit(copy, "threshold = 0.3\n", "")
    assert [one.name for one in bundle.load(copy).sought] == ["any"]


def test_where_a_rule_makes_the_study_each_finding_says_its_threshold_of_it(copy: Path) -> None:
    of_two_labels(copy)
    append(copy, '[study]\nthreshold = 0.4\nchosen = "by hand"\n')
    with pytest.raises(BundleError, match="label fracture: .* say study_threshold for this label"):
        bundle.load(copy)
    edit(copy, "threshold = 0.3\n", "threshold = 0.3\nstudy_threshold = 0.6\n")
    assert [one.study_threshold for one in bundle.load(copy).sought] == [0.4, 0.6]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('name = "any"', 'name = "any"\nthreshold = 0.5', "decision.threshold is its threshold"),
        ("threshold = 0.3", "study_threshold = 0.3", "does nothing without its threshold"),
        ("threshold = 0.3", "threshold = 3", r"label\.1\.threshold"),
    ],
)
def test_a_threshold_of_a_label_that_makes_no_sense_is_told(
    copy: Path, old: str, new: str, fault: str
) -> None:
    of_two_labels(copy)
    edit(copy, old, new)
    with pytest.raises(BundleError, match=fault):
        bundle.load(copy)
