"""Files become Hounsfield units and tensors; a hostile one fails alone."""

from __future__ import annotations

import csv
import os
import re
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from limen.errors import Transient, Unreadable
from tests.support import synthetic
from tests.support.node import until
from tests.support.synthetic import head_hu, instance, save
from worker.dicom.decoder import Decoder
from worker.dicom.headers import Header

JPEG = "1.2.840.10008.1.2.4."


def hu_of(decoder: Decoder, folder: Path, **changes: Any) -> np.ndarray:
    return decoder.hounsfield(save(instance(**changes), folder, "one.dcm"))


def refusal(decoder: Decoder, folder: Path, **changes: Any) -> str:
    with pytest.raises(Unreadable) as caught:
        hu_of(decoder, folder, **changes)
    return str(caught.value)


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang(*_: object) -> None:
    while True:
        pass


# -- headers ---------------------------------------------------------------------------------------


def test_a_header_says_what_the_file_says(decoder: Decoder, tmp_path: Path) -> None:
    dataset = instance(7, ConvolutionKernel="H30s", StudyDescription="CT head")
    found = decoder.headers([save(dataset, tmp_path, "a.dcm")])[0]
    assert isinstance(found, Header)
    assert (found.sop_uid, found.series_uid, found.study_uid) == (
        "1.2.3.4.5.7",
        "1.2.3.4.5",
        "1.2.3.4",
    )
    assert (found.rows, found.columns, found.kernel) == (64, 64, "H30S")
    assert found.frames[0].position_mm == (-16, -16, 7)
    assert found.has_pixels
    assert found.spacing_mm == (0.5, 0.5)


def test_names_are_unicode_in_any_character_set(decoder: Decoder, tmp_path: Path) -> None:
    dataset = instance(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jürgen")
    found = decoder.headers([save(dataset, tmp_path, "a.dcm")])[0]
    assert isinstance(found, Header)
    assert found.patient_name == "Müller^Jürgen"


def test_bytes_that_are_no_text_never_fail(decoder: Decoder, tmp_path: Path) -> None:
    path = save(instance(SpecificCharacterSet="ISO_IR 192"), tmp_path, "a.dcm")
    path.write_bytes(path.read_bytes().replace(b"Test^Person", b"T\xff\xfe\x00^Per\x01on"))
    found = decoder.headers([path])[0]
    assert isinstance(found, Header)
    assert found.patient_name.isprintable()


def test_headers_keep_the_order_and_name_the_unreadable(decoder: Decoder, tmp_path: Path) -> None:
    paths = synthetic.series(tmp_path, 3)
    paths[1].write_bytes(b"no DICOM at all")
    first, second, third = decoder.headers(paths)
    assert isinstance(first, Header)
    assert isinstance(second, Unreadable)
    assert isinstance(third, Header)
    assert third.sop_uid.endswith(".3")


def test_an_absent_file_is_unreadable(decoder: Decoder, tmp_path: Path) -> None:
    assert isinstance(decoder.headers([tmp_path / "absent.dcm"])[0], Unreadable)


def test_deep_nesting_is_refused(decoder: Decoder, tmp_path: Path) -> None:
    dataset = instance()
    del dataset.PixelData
    path = save(dataset, tmp_path, "deep.dcm")
    sequence = bytes.fromhex("00523092") + b"SQ\0\0" + b"\xff" * 4
    item = bytes.fromhex("feff00e0") + b"\xff" * 4
    with path.open("ab") as file:
        file.write((sequence + item) * 2000)
    assert "nested too deeply" in str(decoder.headers([path])[0])


def test_the_deflated_syntax_is_refused(decoder: Decoder, tmp_path: Path) -> None:
    path = save(instance(TransferSyntaxUID="1.2.840.10008.1.2.1.99"), tmp_path, "a.dcm")
    assert "deflated" in str(decoder.headers([path])[0])


def test_errors_name_no_patient(decoder: Decoder, tmp_path: Path) -> None:
    text = refusal(decoder, tmp_path, PatientName="SECRET^NAME", PhotometricInterpretation="SECRET")
    assert "SECRET" not in text
    assert "1.2.3" not in text


# -- Hounsfield units ------------------------------------------------------------------------------


def test_stored_values_are_rescaled(decoder: Decoder, tmp_path: Path) -> None:
    found = hu_of(decoder, tmp_path, RescaleSlope=2, RescaleIntercept=-10)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, head_hu() * 2.0 - 10)


def test_a_ct_without_rescale_has_no_hu(decoder: Decoder, tmp_path: Path) -> None:
    assert "RescaleSlope is missing" in refusal(decoder, tmp_path, RescaleSlope=None)


@pytest.mark.parametrize("value", [-2000, 63536], ids=["signed", "written as unsigned"])
def test_padding_becomes_air(decoder: Decoder, tmp_path: Path, value: int) -> None:
    pixels = head_hu()
    pixels[:5] = -2000
    dataset = instance(pixels=pixels, RescaleIntercept=-24)
    dataset.add_new("PixelPaddingValue", "SS" if value < 0 else "US", value)
    found = decoder.hounsfield(save(dataset, tmp_path, "one.dcm"))
    assert (found[:5] == -1000).all()
    assert found[32, 32] == 35 - 24


def test_a_padding_range_becomes_air_limits_included(decoder: Decoder, tmp_path: Path) -> None:
    pixels = head_hu()
    pixels[0, :4] = (-3000, -2500, -2001, -1999)
    dataset = instance(pixels=pixels)
    dataset.add_new("PixelPaddingValue", "SS", -3000)
    dataset.add_new("PixelPaddingRangeLimit", "SS", -2001)
    found = decoder.hounsfield(save(dataset, tmp_path, "one.dcm"))
    np.testing.assert_array_equal(found[0, :4], [-1000, -1000, -1000, -1999])


def test_overlay_bits_beside_the_pixels_are_ignored(decoder: Decoder, tmp_path: Path) -> None:
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    found = hu_of(
        decoder,
        tmp_path,
        pixels=values | np.uint16(0xA000),
        BitsStored=12,
        HighBit=11,
        PixelRepresentation=0,
        RescaleIntercept=-1024,
    )
    np.testing.assert_array_equal(found, values - 1024.0)


def test_signed_pixels_of_twelve_bits_under_another_high_bit(
    decoder: Decoder, tmp_path: Path
) -> None:
    values = np.arange(-2048, 2048, dtype=np.int16).reshape(64, 64)
    found = hu_of(decoder, tmp_path, pixels=values << 4, BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32])
def test_cells_of_eight_to_thirty_two_bits(decoder: Decoder, tmp_path: Path, dtype: Any) -> None:
    bits = np.dtype(dtype).itemsize * 8
    values = np.arange(4096).reshape(64, 64).astype(dtype)
    found = hu_of(
        decoder,
        tmp_path,
        pixels=values,
        BitsAllocated=bits,
        BitsStored=bits,
        HighBit=bits - 1,
        PixelRepresentation=int(np.issubdtype(dtype, np.signedinteger)),
    )
    np.testing.assert_array_equal(found, values)


def test_polarity_does_not_change_hounsfield_units(decoder: Decoder, tmp_path: Path) -> None:
    found = hu_of(decoder, tmp_path, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(found, head_hu())


def test_other_modalities_are_turned_so_that_bright_is_high(
    decoder: Decoder, tmp_path: Path
) -> None:
    values = np.arange(4096, dtype=np.int16).reshape(64, 64)
    found = hu_of(
        decoder, tmp_path, pixels=values, Modality="CR", PhotometricInterpretation="MONOCHROME1"
    )
    np.testing.assert_array_equal(found, 4095 - values)


def test_a_modality_lut_stands_for_the_rescale(decoder: Decoder, tmp_path: Path) -> None:
    lut = Dataset()
    lut.add_new("LUTDescriptor", "US", [256, 0, 16])
    lut.add_new("LUTData", "US", [3 * n for n in range(256)])
    lut.ModalityLUTType = "HU"
    values = np.arange(4096, dtype=np.uint8).reshape(64, 64)
    found = hu_of(
        decoder,
        tmp_path,
        pixels=values,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        ModalityLUTSequence=Sequence([lut]),
        RescaleSlope=None,
    )
    np.testing.assert_array_equal(found, values * 3.0)


def test_frames_of_an_enhanced_instance_have_their_own_rescale_and_place(
    decoder: Decoder, tmp_path: Path
) -> None:
    frames = [head_hu(), head_hu(lesion=True)]
    path = save(synthetic.enhanced(frames, [5.0, -5.0]), tmp_path, "enhanced.dcm")
    header = decoder.headers([path])[0]
    assert isinstance(header, Header)
    assert [f.position_mm for f in header.frames] == [(0, 0, 5), (0, 0, -5)]
    assert header.frames[1].orientation == ((1, 0, 0), (0, 1, 0))
    for number, frame in enumerate(frames):
        np.testing.assert_array_equal(decoder.hounsfield(path, number + 1), frame + number)


# -- transfer syntaxes -----------------------------------------------------------------------------


def _jpeg_lossless(values: np.ndarray) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(values, lossless=True, bitspersample=16))


def _jpeg_ls(values: np.ndarray) -> bytes:
    return bytes(imagecodecs.jpegls_encode(values))


def _jpeg_2000(values: np.ndarray) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(values, codecformat="j2k", reversible=True, level=0))


def _htj2k(values: np.ndarray) -> bytes:
    return bytes(imagecodecs.htj2k_encode(values, reversible=True))


LOSSLESS: list[tuple[str, Callable[[np.ndarray], bytes]]] = [
    (JPEG + "57", _jpeg_lossless),
    (JPEG + "70", _jpeg_lossless),
    (JPEG + "80", _jpeg_ls),
    (JPEG + "90", _jpeg_2000),
    (JPEG + "201", _htj2k),
]


@pytest.mark.parametrize(("syntax", "encode"), LOSSLESS, ids=[s for s, _ in LOSSLESS])
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_lossless_twins_are_the_same_bit_for_bit(
    decoder: Decoder,
    tmp_path: Path,
    syntax: str,
    encode: Callable[[np.ndarray], bytes],
    signed: bool,
) -> None:
    rng = np.random.default_rng(11)
    values = (head_hu() + rng.integers(-20, 20, (64, 64))).astype(np.int16)
    if not signed:
        values = (values + 1100).astype(np.int16)
    options: dict[str, Any] = {
        "pixels": values,
        "PixelRepresentation": int(signed),
        "RescaleIntercept": 0 if signed else -1100,
    }
    plain = hu_of(decoder, tmp_path, **options)
    encoded = encode(values.view(np.uint16))
    twin = synthetic.encapsulated(instance(**options), syntax, [encoded])
    found = decoder.hounsfield(save(twin, tmp_path, "twin.dcm"))
    np.testing.assert_array_equal(found, plain)


def test_run_length_and_implicit_twins_are_the_same(decoder: Decoder, tmp_path: Path) -> None:
    plain = hu_of(decoder, tmp_path)
    packed = instance()
    packed.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    implicit = instance(TransferSyntaxUID="1.2.840.10008.1.2")
    for name, twin in (("rle.dcm", packed), ("implicit.dcm", implicit)):
        np.testing.assert_array_equal(decoder.hounsfield(save(twin, tmp_path, name)), plain)


def test_every_file_that_others_decode_is_decoded_or_refused_with_a_reason(
    decoder: Decoder, shared_data: Path
) -> None:
    with (shared_data / "MANIFEST.tsv").open("r", encoding="utf-8", newline="") as file:
        rows = [
            row
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            if row["file"].startswith("variety/") and row["pixel_decode"].startswith("ok")
        ]
    assert len(rows) > 50
    paths = [shared_data / row["file"] for row in rows]
    unexpected = {}
    for row, found in zip(rows, decoder.hounsfield_many((p, 1) for p in paths), strict=True):
        if isinstance(found, Unreadable):
            grey = row["photometric"].startswith("MONOCHROME") and row["bits"][:2] != "1/"
            # Two of them are no Hounsfield units: labels, and a map of blood flow.
            if grey and not re.search(r"deflated|RescaleType .*\(US\)", str(found)):
                unexpected[row["file"]] = str(found)
        else:
            assert "x".join(map(str, found.shape)) in row["pixel_decode"]
    assert unexpected == {}


# -- hostile files ---------------------------------------------------------------------------------


def test_malformed_files_leave_the_decoder_serving(decoder: Decoder, shared_data: Path) -> None:
    paths = sorted((shared_data / "malformed").iterdir())
    assert len(paths) == 200
    assert len(decoder.headers(paths)) == 200
    assert len(list(decoder.hounsfield_many((p, 1) for p in paths))) == 200
    healthy = shared_data / "headct_ge" / "01.dcm"
    assert decoder.hounsfield(healthy).shape == (512, 512)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"Rows": 65535, "Columns": 65535}, "allowed"),
        ({"Rows": 8000, "Columns": 8000}, "shorter than the pixels"),
        ({"NumberOfFrames": 2_000_000_000}, "NumberOfFrames does not fit"),
        ({"Rows": 0}, "its Rows is not above 0"),
        ({"BitsAllocated": 64, "BitsStored": 64, "HighBit": 63}, "BitsAllocated is 64"),
        ({"BitsStored": 0}, "BitsStored of 0"),
        ({"HighBit": 3}, "HighBit"),
        ({"SamplesPerPixel": 3}, "SamplesPerPixel is not 1"),
        (
            {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"},
            r"not a grey image: .*\(RGB\)",
        ),
        ({"PixelRepresentation": 7}, "PixelRepresentation"),
        ({"RescaleSlope": 0}, "RescaleSlope is 0"),
        ({"TransferSyntaxUID": "1.2.3.4"}, "transfer syntax is not known"),
    ],
)
def test_what_cannot_be_is_refused_before_a_decoder_sees_it(
    decoder: Decoder, tmp_path: Path, changes: dict[str, Any], fault: str
) -> None:
    assert re.search(fault, refusal(decoder, tmp_path, **changes))


def test_a_codestream_of_another_size_is_refused(decoder: Decoder, tmp_path: Path) -> None:
    encoded = _jpeg_lossless(np.zeros((128, 128), np.uint16))
    bomb = synthetic.encapsulated(instance(), JPEG + "70", [encoded])
    with pytest.raises(Unreadable, match="another size"):
        decoder.hounsfield(save(bomb, tmp_path, "bomb.dcm"))


def test_a_file_that_needs_too_much_memory_fails_alone(tmp_path: Path) -> None:
    side = 12_000
    encoded = _jpeg_lossless(np.zeros((side, side), np.uint16))
    bomb = synthetic.encapsulated(instance(Rows=side, Columns=side), JPEG + "70", [encoded])
    path = save(bomb, tmp_path, "bomb.dcm")
    with Decoder(1, memory_bytes=256 << 20, max_pixels=1 << 30) as small:
        with pytest.raises(Unreadable, match="memory|ended"):
            small.hounsfield(path)
        assert small.hounsfield(save(instance(), tmp_path, "ok.dcm")).shape == (64, 64)


def test_a_child_that_dies_or_hangs_fails_only_its_own_item(tmp_path: Path) -> None:
    good = save(instance(), tmp_path, "good.dcm")
    with Decoder(2, timeout_s=2) as own:
        tasks = [
            (own_read, (good,)),
            (die, (good,)),
            (own_read, (good,)),
            (hang, (good,)),
            (own_read, (good,)),
        ]
        found = list(own._run(tasks))
        assert "ended the decoder process" in str(found[1])
        assert "more than 2 s" in str(found[3])
        assert [found[n] for n in (0, 2, 4)] == [64, 64, 64]
        assert own.hounsfield(good).shape == (64, 64)


def test_a_decoder_whose_idle_children_were_killed_starts_new_ones(tmp_path: Path) -> None:
    good = save(instance(), tmp_path, "good.dcm")
    with Decoder(2, timeout_s=10) as own:
        for _ in range(2):
            pids = {int(pid) for pid in own._run([(child_pid, ())] * 8)}
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            found = own.headers([good] * 12)
            assert [getattr(h, "rows", h) for h in found] == [64] * 12


def test_what_a_child_was_at_that_was_killed_from_outside_is_done_by_another(
    tmp_path: Path,
) -> None:
    """By the system's out-of-memory killer, say: the file is not to blame, unless it is twice."""
    good, begun = save(instance(), tmp_path, "good.dcm"), tmp_path / "begun"
    begun.mkdir()
    with Decoder(1, timeout_s=30) as own, ThreadPoolExecutor(1) as beside:
        found = beside.submit(lambda: list(own._run([(pause_at_first, (good, begun))])))
        (child,) = until(lambda: list(begun.iterdir()), 20, "the child to begin")
        os.kill(int(child.name), signal.SIGKILL)
        assert found.result(30) == [64]
        assert "ended the decoder process, twice" in str(*own._run([(die, ())]))


@pytest.mark.timeout(60)
def test_a_child_that_was_killed_while_it_answered_holds_up_no_other(tmp_path: Path) -> None:
    """It takes the lock of the pipe with it, which all children share."""
    good = save(instance(), tmp_path, "good.dcm")
    with Decoder(2, timeout_s=2) as own, ThreadPoolExecutor(2) as beside:
        with pytest.raises(Unreadable, match="twice"):
            own.call("answering", answers_its_last)
        found = [beside.submit(own.headers, [good] * 12) for _ in range(2)]
        for one in found:
            assert [getattr(h, "rows", h) for h in one.result(50)] == [64] * 12


class Last:
    """Kills the process that writes it into a pipe."""

    def __reduce__(self) -> tuple[Any, ...]:
        os.kill(os.getpid(), signal.SIGKILL)
        return (Last, ())


def answers_its_last() -> Last:
    return Last()


def pause_at_first(path: Path, begun: Path) -> int:
    """Wait for a signal in the first process that is here."""
    is_first = not list(begun.iterdir())
    (begun / str(os.getpid())).touch()
    if is_first:
        signal.pause()
    return own_read(path)


def child_pid() -> int:
    return os.getpid()


def own_read(path: Path) -> int:
    from worker.dicom.headers import read

    return read(path).rows


def test_a_closed_decoder_says_so(tmp_path: Path) -> None:
    closed = Decoder(1)
    closed.close()
    with pytest.raises(Transient):
        closed.headers([tmp_path / "any.dcm"])
