"""What people write of a skull that has been opened, and what only sounds like it."""

from __future__ import annotations

import pytest

from tests.support.headers import header
from worker.study.surgery import doubts


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("CT HEAD POST-OP", "post op"),
        ("Head postop day 2", "postop"),
        ("CT Schädel postoperativ", "postoperativ"),
        ("CCT nach OP", "nach op"),
        ("HEAD^CRANIOTOMY", "craniotomy"),
        ("decompressive hemicraniectomy", "hemicraniectomy"),
        ("Z.n. Kraniektomie links", "kraniektomie"),
        ("Control craneotomía", "craneotomía"),
        ("Contrôle crâniotomie", "crâniotomie"),
        ("s/p cranioplasty", "cranioplasty"),
        ("Z.n. Bohrlochtrepanation", "bohrlochtrepanation"),
        ("burr holes", "burr holes"),
        ("EVD check", "evd"),
        ("V-P shunt", "v p shunt"),
    ],
)
def test_a_head_after_surgery_is_told_with_the_word_that_says_so(text: str, word: str) -> None:
    told = [f"after surgery, as a description says ({word})"]
    for where in ("study_description", "series_description", "protocol_name"):
        assert doubts([header(1, **{where: text})], operated=False) == told
    assert doubts([header(1, study_description=text)], operated=True) == []


@pytest.mark.parametrize(
    "text",
    [
        "CT HEAD W/O",
        "pre-op craniotomy planning",
        "Stealth navigation craniotomy",
        "HEAD POST CONTRAST",
        "posterior fossa",
        "cranio-cervical junction",
        "craniosynostosis",
        "TIPS shunt",
        "Head / neck, no op",
        "",
    ],
)
def test_a_head_before_surgery_or_without_is_not(text: str) -> None:
    assert doubts([header(1, study_description=text)], operated=False) == []
